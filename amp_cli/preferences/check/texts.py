"""Length bias: a best answer that is longer (or shorter) than the others teaches length instead of truth."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from amp_cli.dialogues.pair_style import FEWEST_ITEMS, words_of
from amp_cli.dialogues.turns import IMAGE_TOKEN
from amp_cli.preferences.check.findings import Finding
from amp_cli.preferences.levels import LevelDraft, choose_levels
from amp_cli.records import PreferenceItem

IMAGE_TOKENS = re.compile(
    r"<im_(?:start|end|patch)>|<image_placeholder>|</?img>|\[IMG\]|<ImageHere>|<video>|<\|(?:image|vision|video)[a-z_]*\|>"
)
"""The marks by which LLaVA, Qwen, InternVL, Pixtral and others know an image."""
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


EFFECT = 0.5
"""Cohen's d from which we warn: what Cohen calls a medium effect."""
SHARE = 0.7
"""Share of pairs with the better answer longer (or shorter) from which we warn: 7 of 10 are guessed by length alone."""


@dataclass(kw_only=True)
class Moments:
    """Count, sum and sum of squares of word counts."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        self.total += value
        self.squares += value * value

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    @property
    def variance(self) -> float:
        """Unbiased; 0 for fewer than two values."""
        return max(0.0, (self.squares - self.total**2 / self.n) / (self.n - 1)) if self.n > 1 else 0.0


@dataclass(kw_only=True)
class LengthBias:
    """Word counts of level 0, of the rest and of each level, and how often the better answer of a pair is longer."""

    best: Moments = field(default_factory=Moments)
    rest: Moments = field(default_factory=Moments)
    levels: dict[int, Moments] = field(default_factory=dict)
    longer: int = 0
    shorter: int = 0
    equal: int = 0

    def take(self, item: PreferenceItem) -> None:
        words = [words_of(level) for level in item.levels]
        for number, count in enumerate(words):
            (self.rest if number else self.best).add(count)
            self.levels.setdefault(number, Moments()).add(count)
            for worse in words[number + 1 :]:
                self.longer += count > worse
                self.shorter += count < worse
                self.equal += count == worse

    @property
    def effect(self) -> float | None:
        """Cohen's d of the words of level 0 against the others: mean difference over the pooled standard deviation."""
        if self.best.mean is None or self.rest.mean is None or self.best.n + self.rest.n < 3:
            return None
        degrees = self.best.n + self.rest.n - 2
        pooled = (self.best.variance * (self.best.n - 1) + self.rest.variance * (self.rest.n - 1)) / degrees
        difference = self.best.mean - self.rest.mean
        return difference / math.sqrt(pooled) if pooled > 0 else None

    @property
    def longer_share(self) -> float | None:
        """Share of pairs whose better answer is longer, of those whose answers differ in length."""
        unequal = self.longer + self.shorter
        return self.longer / unequal if unequal else None

    def finding(self) -> Finding | None:
        """Return the warning, if the effect or the share is large enough."""
        share, effect = self.longer_share, self.effect
        if share is None or self.best.n < FEWEST_ITEMS:
            return None
        leans = max(share, 1 - share) >= SHARE
        if not leans and (effect is None or abs(effect) < EFFECT):
            return None
        word = "longer" if (share >= 0.5 if effect is None or leans else effect > 0) else "shorter"
        told = share if word == "longer" else 1 - share
        sizes = f", Cohen's d {effect:+.2f} of level 0 against the others" if effect is not None else ""
        return Finding(
            check="length-bias",
            message=f"the better answer is {word} in {told:.0%} of the pairs{sizes}: this teaches to write {word}",
            count=self.longer if word == "longer" else self.shorter,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "cohens_d": self.effect,
            "better_is_longer": self.longer_share,
            "pairs": self.longer + self.shorter + self.equal,
            "words": {str(number): moments.mean for number, moments in sorted(self.levels.items())},
            "threshold": {"cohens_d": EFFECT, "share": SHARE},
        }


class Seen:
    """Remembers a digest of every text it was shown."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def before(self, text: str) -> bool:
        """Say whether this very text was shown before, and remember it."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest in self._digests:
            return True
        self._digests.add(digest)
        return False


def content_key(item: PreferenceItem) -> str:
    """Return what two items share that ask the same of the same images."""
    questions = [" ".join(question.split()).casefold() for question in item.questions]
    return json.dumps([list(item.images), questions], ensure_ascii=False)
