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
TAG_SIGNS = (":", "<", "[", "#")
"""One of these stands in every role tag; texts without need not be searched."""
TEMPLATE_TEXT = ("a chat between a curious", "you are a helpful assistant", "you are a helpful, ")
QUESTION_WORDS = 5
"""A question with at least so many words that stands whole in its answer was copied, not answered."""
_IMAGE_PLACE = re.compile(re.escape(IMAGE_TOKEN))
_GAPS = re.compile(r"[\W_]+")


def check_texts(item: PreferenceItem) -> Iterator[tuple[str, str]]:
    """Yield check and reason of what is wrong with an item's texts, each check at most once."""
    answers = [(number, answer) for number, level in enumerate(item.levels) for answer in level.answers]
    everything = [("a question", question) for question in item.questions]
    everything += [(f"level {number}", answer) for number, answer in answers]
    for check, found in (
        ("image-place", _first([one for one in everything if IMAGE_TOKEN in one[1]], _IMAGE_PLACE)),
        ("image-token", _first([one for one in everything if "<" in one[1] or "[" in one[1]], IMAGE_TOKENS)),
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
    questions = [_GAPS.sub(" ", question.casefold()).split() for question in item.questions]
    for number, level in enumerate(item.levels):
        for question, answer in zip(questions, level.answers, strict=True):
            if any(sign in answer for sign in TAG_SIGNS) and (match := ROLE_TAGS.search(answer)):
                return f"level {number} holds '{match.group().strip()}'"
            folded = answer.casefold()
            if leaked := next((text for text in TEMPLATE_TEXT if text in folded), None):
                return f"level {number} holds '{leaked.strip()}'"
            if len(question) >= QUESTION_WORDS and all(word in folded for word in question):
                said = " ".join(_GAPS.sub(" ", folded).split())
                if f" {' '.join(question)} " in f" {said} ":
                    return f"level {number} repeats the question"
    return None
