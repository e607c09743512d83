"""Two runs over the same items: the difference of each score, its interval, and McNemar's test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from amp_cli.benchmarks.intervals import interval, resampled_totals

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array


One = TypeVar("One")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of two runs over the `n` items that both have scored.

    Attributes:
        name: as in `scores.json`, with its group where it has one: `adversarial/accuracy`, `conv/relative`.
        ci95: 95 % interval of other - base, by a bootstrap that draws images and keeps the pair together.
        p_value: exact McNemar test (accuracy of yes/no questions only), two-sided; it takes questions as independent.
    """

    benchmark: str = ""
    name: str
    base: float | None
    other: float | None
    ci95: tuple[float, float] | None
    p_value: float | None = None
    n: int

    @property
    def difference(self) -> float | None:
        """other - base."""
        return None if self.base is None or self.other is None else self.other - self.base

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "name": self.name,
            "base": self.base,
            "other": self.other,
            "difference": self.difference,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "p_value": self.p_value,
            "n": self.n,
            "clear": self.is_clear,
        }


def paired_differences(
    pairs: Sequence[tuple[One, One]],
    counts: Callable[[Sequence[One]], "Array"],
    rates: Callable[["Array"], Mapping[str, "Array"]],
) -> dict[str, Difference]:
    """Return each score's difference between two runs; images are drawn, with both runs' results on them.

    Args:
        counts: (images, columns) what each image adds to each count in one run.
        rates: names the scores of (draws, columns) sums.
    """
    import numpy as np

    base, other = counts([old for old, _ in pairs]), counts([new for _, new in pairs])
    units = np.concatenate([base, other], axis=1)  # (images, 2 * columns)
    columns = base.shape[1]
    totals = units.sum(axis=0, keepdims=True)
    draws = resampled_totals(units)
    old, new = rates(totals[:, :columns]), rates(totals[:, columns:])
    old_draws, new_draws = rates(draws[:, :columns]), rates(draws[:, columns:])
    differences = {}
    for name in old:
        bounds = interval(new_draws[name] - old_draws[name])
        differences[name] = Difference(
            name=name,
            base=_number(old[name]),
            other=_number(new[name]),
            ci95=None if bounds is None else (bounds[0], bounds[1]),
            n=len(pairs),
        )
    return differences


def chosen_differences(differences: Mapping[str, Difference], names: Sequence[str]) -> list[Difference]:
    """Return the differences of these scores; one that neither run has is left out."""
    chosen = [differences[name] for name in names]
    return [one for one in chosen if one.base is not None or one.other is not None]


def mcnemar(only_base: int, only_other: int) -> float:
    """Return the exact two-sided p-value that as many items are right in one run only as in the other only."""
    from scipy.stats import binomtest

    discordant = only_base + only_other
    return float(binomtest(only_base, discordant, 0.5).pvalue) if discordant else 1.0


def _number(value: "Array") -> float | None:
    number = float(value[0])
    return None if number != number else number
