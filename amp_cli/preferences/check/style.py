"""Style shift: how differently the sources write, told from function words, openings, sentences and lists.

All of it reads English; answers in other languages are counted and not compared.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from amp_cli.dialogues.language import can_be
from amp_cli.preferences.check.findings import Finding
from amp_cli.records import PreferenceItem

_WORDS_OF_ENGLISH = """
a about above across after against all along also although among an and another any are around as at be because
been before behind being below between both but by can could do does each either even every few for from had has
have he her here him his how however i if in into is it its just like many may might more most much must near no
nor not of off on one only or other our out over she should since so some such than that the their them then
there these they this those through to too toward under until up upon very was we were what when where which
while who will with within without would you your
"""
FUNCTION_WORDS = frozenset(_WORDS_OF_ENGLISH.split())
WORDS_SHIFT = 0.05
"""Jensen-Shannon divergence (bits, 0..1) of the function words from which we warn."""
OPENINGS_SHIFT = 0.3
"""The same for the first two words of answers."""
LIST_SHIFT = 0.2
"""Difference of the shares of answers with list or heading marks from which we warn."""
SENTENCE_RATIO = 1.5
"""Ratio of the mean words per sentence from which we warn."""
FEWEST_ANSWERS = 50
FEWEST_WORDS = 500
"""Sources with fewer answers, or function words, are not compared by what is counted in these."""
RARE = 5
"""Openings that occur less often in both together are one."""
MOST_OPENINGS = 20_000
"""Different openings that are told apart for one source; further ones are one."""
MOST_SOURCES = 50
"""Sources that are told apart; further ones are one, called 'others'."""
_LIST_MARK = re.compile(r"^\s*(?:[-*•]\s|\d+[.)]\s|#{1,6}\s)|\*\*", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)|\n+")
_WORD = re.compile(r"[\w']+")


@dataclass(kw_only=True)
class Style:
    """How one source writes, summed up answer by answer."""

    answers: int = 0
    in_other_languages: int = 0
    words: int = 0
    sentences: int = 0
    lists: int = 0
    function_words: Counter[str] = field(default_factory=Counter)
    openings: Counter[str] = field(default_factory=Counter)

    def take(self, answer: str) -> None:
        if not can_be(answer, "en"):
            self.in_other_languages += 1
            return
        words = _WORD.findall(answer.lower())
        self.answers += 1
        self.words += len(words)
        self.sentences += max(1, sum(1 for piece in _SENTENCE_END.split(answer) if piece.strip()))
        self.lists += _LIST_MARK.search(answer) is not None
        self.function_words.update(filter(FUNCTION_WORDS.__contains__, words))
        opening = " ".join(words[:2])
        self.openings[opening if opening in self.openings or len(self.openings) < MOST_OPENINGS else ""] += 1

    @property
    def words_per_sentence(self) -> float:
        return self.words / self.sentences if self.sentences else 0.0

    @property
    def list_share(self) -> float:
        return self.lists / self.answers if self.answers else 0.0


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How one source differs from the best one; a divergence is None where there is too little to compare."""

    source: str
    answers: int
    in_other_languages: int
    words_per_sentence: float
    list_share: float
    opening: str
    function_words: float | None = None
    openings: float | None = None
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "answers": self.answers,
            "in_other_languages": self.in_other_languages,
            "words_per_sentence": self.words_per_sentence,
            "list_share": self.list_share,
            "commonest_opening": self.opening,
            "divergence_function_words": self.function_words,
            "divergence_openings": self.openings,
        }


class StyleShift:
    """Collects each source's style; the best source is the one that stands most often at level 0."""

    def __init__(self) -> None:
        self.styles: dict[str, Style] = {}
        self._at_the_top: Counter[str] = Counter()

    def take(self, item: PreferenceItem) -> None:
        for number, level in enumerate(item.levels):
            known = level.source in self.styles or len(self.styles) < MOST_SOURCES
            source = level.source if known else "others"
            if number == 0:
                self._at_the_top[source] += 1
            style = self.styles.setdefault(source, Style())
            for answer in level.answers:
                style.take(answer)

    @property
    def best(self) -> str | None:
        return self._at_the_top.most_common(1)[0][0] if self._at_the_top else None

    def shifts(self) -> list[Shift]:
        """Return every source, the best first, with how it differs from the best."""
        if self.best is None:
            return []
        best = self.styles[self.best]
        others = [source for source in self.styles if source != self.best]
        return [_shift(self.best, best, None), *(_shift(source, self.styles[source], best) for source in others)]

    def finding(self) -> Finding | None:
        """Return the warning, if a source differs enough."""
        shifted = [shift for shift in self.shifts() if shift.reasons]
        if not shifted:
            return None
        told = "; ".join(f"'{shift.source}': {', '.join(shift.reasons)}" for shift in shifted[:3])
        return Finding(
            check="style-shift",
            message=f"sources write unlike '{self.best}', so that style may be learned instead of truth: {told}",
            count=len(shifted),
            examples=tuple(shift.source for shift in shifted[:10]),
        )

    def other_languages(self) -> Finding | None:
        """Return the warning about answers that this check cannot read, if there are any."""
        count = sum(style.in_other_languages for style in self.styles.values())
        if not count:
            return None
        total = count + sum(style.answers for style in self.styles.values())
        return Finding(
            check="language",
            message=f"{count:,} of {total:,} answers are not in English; the style check compares English only",
            count=count,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "best_source": self.best,
            "sources": {shift.source: shift.to_json() for shift in self.shifts()},
            "threshold": {
                "divergence_function_words": WORDS_SHIFT,
                "divergence_openings": OPENINGS_SHIFT,
                "list_share": LIST_SHIFT,
                "words_per_sentence_ratio": SENTENCE_RATIO,
            },
        }


def _shift(source: str, style: Style, best: Style | None) -> Shift:
    """Compare a source with the best one; the best with itself (None) has nothing to compare."""
    words = openings = None
    reasons = []
    if best is not None and min(style.answers, best.answers) >= FEWEST_ANSWERS:
        openings = divergence(*_common(style.openings, best.openings))
        if min(style.function_words.total(), best.function_words.total()) >= FEWEST_WORDS:
            words = divergence(style.function_words, best.function_words)
        slow, fast = sorted((style.words_per_sentence, best.words_per_sentence))
        if words is not None and words >= WORDS_SHIFT:
            reasons.append(f"function words (divergence {words:.2f})")
        if openings >= OPENINGS_SHIFT:
            reasons.append(f"openings (divergence {openings:.2f})")
        if abs(style.list_share - best.list_share) >= LIST_SHIFT:
            reasons.append(f"lists in {style.list_share:.0%} of answers, not {best.list_share:.0%}")
        if fast >= SENTENCE_RATIO * slow:
            reasons.append(f"{style.words_per_sentence:.0f} words a sentence, not {best.words_per_sentence:.0f}")
    return Shift(
        source=source,
        answers=style.answers,
        in_other_languages=style.in_other_languages,
        words_per_sentence=style.words_per_sentence,
        list_share=style.list_share,
        opening=style.openings.most_common(1)[0][0] if style.openings else "",
        function_words=words,
        openings=openings,
        reasons=tuple(reasons),
    )


def _common(one: Mapping[str, int], other: Mapping[str, int]) -> tuple[Counter[str], Counter[str]]:
    """Return both counts with all that is rare in both together under one name."""

    def pooled(counts: Mapping[str, int]) -> Counter[str]:
        result: Counter[str] = Counter()
        for key, count in counts.items():
            result[key if one.get(key, 0) + other.get(key, 0) >= RARE else ""] += count
        return result

    return pooled(one), pooled(other)


def divergence(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Return the Jensen-Shannon divergence (bits, 0..1) of two counts, less what chance alone gives.

    Two samples of n and m from one distribution over k outcomes differ by about (k - 1)(1/n + 1/m) / (8 ln 2) bits.
    """
    keys: Collection[str] = {**one, **other}.keys()
    n, m = sum(one.values()), sum(other.values())
    total = 0.0
    for key in keys:
        p, q = one.get(key, 0) / n, other.get(key, 0) / m
        middle = (p + q) / 2
        total += sum(share * math.log2(share / middle) / 2 for share in (p, q) if share > 0)
    chance = (len(keys) - 1) * (1 / n + 1 / m) / (8 * math.log(2))
    return max(0.0, total - chance)
