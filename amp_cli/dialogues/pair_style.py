"""How the better side of pairs is written: how much longer or shorter it is, or how much more it names.

Pairs with level 0 stand apart. The standard answer is another hand's, and what tells it from a model's answers may be
its length; among the model's own answers length tells little:

    words by level    30 36 35 34      with level 0      30-36  30-35  30-34    -5.0: shorter in 3 of 3
                                       among the others  36-35  36-34  35-34    +1.3: longer in 3 of 3
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from amp_cli.records import PAIR_SETS, Level, PreferenceItem, pairs_of

CLEAR = 0.1
"""Share of the worse side's length from which a difference is told.

In the experiments that this comes from, a better side 13 % shorter (4.8 words) made a model worse at POPE than its
base, and one 2 % longer (0.85 words) did no harm.
"""
FEWEST_ITEMS = 20
"""With fewer items nothing is told: chance alone gives such numbers."""
Z = 1.96


@dataclass(kw_only=True)
class Mean:
    """A mean over pairs whose interval knows that the pairs of one item are not independent: a ratio of item sums."""

    items: int = 0
    pairs: int = 0
    total: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0
    _counts: int = 0

    def take(self, total: float, pairs: int) -> None:
        """Take in one item's sum over its pairs."""
        self.items += 1
        self.pairs += pairs
        self.total += total
        self._squares += total * total
        self._products += total * pairs
        self._counts += pairs * pairs

    @property
    def value(self) -> float | None:
        return self.total / self.pairs if self.pairs else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The 95 % interval, by linearization of the ratio over items; None with fewer than two items."""
        if self.value is None or self.items < 2:
            return None
        mean = self.value
        spread = self._squares - 2 * mean * self._products + mean * mean * self._counts
        half = Z * sqrt(max(0.0, spread) * self.items / (self.items - 1)) / self.pairs
        return mean - half, mean + half


@dataclass(kw_only=True)
class Differences:
    """Better minus worse of one number, over pairs, and in how many of them the better side has less."""

    difference: Mean = field(default_factory=Mean)
    less: Mean = field(default_factory=Mean)
    more: int = 0
    worse: float = 0.0

    def take(self, values: Sequence[float], pairs: Sequence[tuple[int, int]]) -> None:
        """Take in one item: its values by level, and which (better, worse) levels are compared."""
        if not pairs:
            return
        differences = [values[better] - values[worse] for better, worse in pairs]
        self.difference.take(sum(differences), len(pairs))
        self.less.take(sum(one < 0 for one in differences), len(pairs))
        self.more += sum(one > 0 for one in differences)
        self.worse += sum(values[worse] for _, worse in pairs)

    @property
    def relative(self) -> float | None:
        """The mean difference as a share of the worse side's mean."""
        return self.difference.total / self.worse if self.worse else None

    @property
    def is_clear(self) -> bool:
        """Whether the difference is beyond chance and large enough to be learned in place of truth."""
        interval, relative = self.difference.ci95, self.relative
        if interval is None or relative is None or self.difference.items < FEWEST_ITEMS:
            return False
        return (interval[0] > 0 or interval[1] < 0) and abs(relative) >= CLEAR

    def told(self) -> str:
        """Return the mean difference of words as a phrase, such as `4.8 words (13 %) shorter`; there must be pairs."""
        mean = self.difference.value or 0.0
        return f"{abs(mean):.1f} words ({abs(self.relative or 0.0):.0%}) {'shorter' if mean < 0 else 'longer'}"

    def to_json(self) -> dict[str, Any]:
        pairs = self.difference.pairs
        return {
            "items": self.difference.items,
            "pairs": pairs,
            "difference": self.difference.value,
            "ci95": self.difference.ci95 and list(self.difference.ci95),
            "relative": self.relative,
            "better_has_less": self.less.value,
            "better_has_less_ci95": self.less.ci95 and list(self.less.ci95),
            "better_has_more": self.more / pairs if pairs else None,
        }


@dataclass(kw_only=True)
class PairDifferences:
    """Differences in pairs with level 0, and among the other levels."""

    with_level_0: Differences = field(default_factory=Differences)
    among_others: Differences = field(default_factory=Differences)

    def take(self, values: Sequence[float]) -> None:
        """Take in one item's values by level."""
        pairs = pairs_of(len(values), "all")
        self.with_level_0.take(values, [pair for pair in pairs if pair[0] == 0])
        self.among_others.take(values, [pair for pair in pairs if pair[0] > 0])

    def to_json(self) -> dict[str, Any]:
        return {"with_level_0": self.with_level_0.to_json(), "among_others": self.among_others.to_json()}


def words_of(level: Level) -> int:
    """Return the words of a level's answers, all rounds together."""
    return sum(len(answer.split()) for answer in level.answers)


def length_lesson(items: Iterable[PreferenceItem], pairs: str) -> tuple[str, str] | None:
    """Return what training on these pairs teaches of length, and what would help; None where that is not clear.

    Args:
        pairs: the pairs that are trained on, one of `PAIR_SETS`.
    """
    by_set = {name: Differences() for name in PAIR_SETS}
    by_kind = PairDifferences()
    for item in items:
        words = [words_of(level) for level in item.levels]
        by_kind.take(words)
        for name, differences in by_set.items():
            differences.take(words, pairs_of(len(words), name))
    trained = by_set[pairs]
    if not trained.is_clear:
        return None
    kinds = [f"with level 0 {by_kind.with_level_0.told()}"]
    if by_kind.among_others.difference.pairs:
        kinds.append(f"among the others {by_kind.among_others.told()}")
    mean = trained.difference.value or 0.0
    share = trained.less.value or 0.0 if mean < 0 else trained.more / trained.difference.pairs
    low, high = trained.difference.ci95 or (mean, mean)
    lesson = (
        f"The better side of the pairs that are trained on is {trained.told()} on average, in {share:.0%} of them "
        f"(95 % interval {low:+.1f} to {high:+.1f} words; {', '.join(kinds)}): length may be learned in place of truth"
    )
    return lesson, _help(by_set, pairs)


def _help(by_set: dict[str, Differences], pairs: str) -> str:
    """Return the pair set that leans least, where that is at most half of the present lean, or what else may help."""
    lean = {name: abs(differences.relative or 0.0) for name, differences in by_set.items()}
    best = min(PAIR_SETS, key=lambda name: lean[name])
    if lean[best] <= lean[pairs] / 2:
        return f"--set pairs={best}: over its pairs the better side is {by_set[best].told()}"
    if by_set[pairs].less.total and by_set[pairs].more:
        return (
            "--set length_balance=1: pairs weigh so that the better sides are as long as the worse ones; no other "
            "--set pairs=... leans much less"
        )
    return (
        "no other --set pairs=... of these data leans much less. More levels of the model's own answers would "
        "(amp generate-prefs); compare the words of answers before and after with `amp eval chair`"
    )
