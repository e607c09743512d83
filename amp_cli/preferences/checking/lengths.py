"""Length bias: a best answer that is longer (or shorter) than the others teaches length instead of truth."""

import math
from dataclasses import dataclass, field
from typing import Any

from amp_cli.preferences.checking.findings import Finding
from amp_cli.records import PreferenceItem

EFFECT = 0.5
"""Cohen's d from which we warn: what Cohen calls a medium effect."""
SHARE = 0.7
"""Share of pairs with the better answer longer (or shorter) from which we warn: 7 of 10 are guessed by length alone."""
FEWEST_ITEMS = 20
"""With fewer items nothing is said: chance alone gives such numbers."""


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
        words = [sum(len(answer.split()) for answer in level.answers) for level in item.levels]
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
