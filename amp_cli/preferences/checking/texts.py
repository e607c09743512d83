"""Checks of one item's texts: picture tokens, leaked prompts, answers without words, levels that say the same."""

import re
from collections.abc import Iterator

from amp_cli.preferences.levels import LevelDraft, choose_levels
from amp_cli.preferences.sources import IMAGE_TOKEN
from amp_cli.records import PreferenceItem

IMAGE_TOKENS = re.compile(
    r"<im_(?:start|end|patch)>|<image_placeholder>|</?img>|\[IMG\]|<ImageHere>|<video>|<\|(?:image|vision|video)[a-z_]*\|>"
)
"""The marks by which LLaVA, Qwen, InternVL, Pixtral and others know a picture."""
ROLE_TAGS = re.compile(
    r"(?:^|\s)(?:USER|ASSISTANT|SYSTEM):"
    r"|^(?:User|Human|Assistant|System): "
    r"|### ?(?:Human|Assistant|Instruction|Response)"
    r"|<\|(?:im_start|im_end|eot_id|end|user|assistant|system|begin_of_text|end_of_text|start_header_id)\|>"
    r"|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>",
    re.MULTILINE,
)
TEMPLATE_TEXT = re.compile(r"A chat between a curious|You are a helpful(?:,| assistant| language)", re.IGNORECASE)
QUESTION_WORDS = 5
"""A question with at least so many words that stands whole in its answer was copied, not answered."""
_GAPS = re.compile(r"[\W_]+")


def check_texts(item: PreferenceItem) -> Iterator[tuple[str, str]]:
    """Yield check and reason of what is wrong with an item's texts, each check at most once."""
    answers = [(number, answer) for number, level in enumerate(item.levels) for answer in level.answers]
    everything = [("a question", question) for question in item.questions]
    everything += [(f"level {number}", answer) for number, answer in answers]
    for check, found in (
        ("image-place", _first(everything, re.compile(re.escape(IMAGE_TOKEN)))),
        ("image-token", _first(everything, IMAGE_TOKENS)),
    ):
        if found:
            yield check, found
    if leak := _prompt_leak(item):
        yield "prompt-leak", leak
    for number, answer in answers:
        if not any(letter.isalnum() for letter in answer):
            yield "wordless-answer", f"level {number} answers {answer.strip()!r:.40}"
            break
    if same := same_levels(item):
        yield "duplicate-answer", f"the response of '{same}' repeats a better one"


def same_levels(item: PreferenceItem) -> str | None:
    """Return the source of a level that repeats a better one but for case, spaces and punctuation, if there is one."""
    rough = {tuple(_GAPS.sub("", answer.casefold()) for answer in level.answers) for level in item.levels}
    if len(rough) == len(item.levels):  # cheap, and never finds fewer; the rule itself looks at every letter
        return None
    identical = choose_levels([LevelDraft(level=level) for level in item.levels]).identical
    return identical[0] if identical else None


def _first(texts: list[tuple[str, str]], pattern: re.Pattern[str]) -> str | None:
    for place, text in texts:
        if match := pattern.search(text):
            return f"{place} holds '{match.group().strip()}'"
    return None


def _prompt_leak(item: PreferenceItem) -> str | None:
    questions = [" ".join(_GAPS.sub(" ", question.casefold()).split()) for question in item.questions]
    for number, level in enumerate(item.levels):
        for question, answer in zip(questions, level.answers, strict=True):
            for pattern in (ROLE_TAGS, TEMPLATE_TEXT):
                if match := pattern.search(answer):
                    return f"level {number} holds '{match.group().strip()}'"
            if question.count(" ") + 1 >= QUESTION_WORDS:
                said = " ".join(_GAPS.sub(" ", answer.casefold()).split())
                if f" {question} " in f" {said} ":
                    return f"level {number} repeats the question"
    return None
