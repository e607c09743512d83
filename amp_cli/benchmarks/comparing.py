"""Intervals of one run's scores, differences of two runs over the same items, their tests, correction and power.

Two runs of a report: each difference has a paired test, all of them together are corrected by Benjamini and Hochberg,
and an unclear one says how many items would show 2 points. Several seeds of an ablation: Holm, and how many seeds.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from amp_cli import ui

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


RESAMPLES = 2000
SEED = 0
METHOD = {"interval": "percentile bootstrap", "unit": "image", "resamples": RESAMPLES, "seed": SEED}
"""Stands in `scores.json`. Images, not questions, are drawn: answers about one image are not independent."""

_CHUNK = 100


def resampled_totals(units: "Array") -> "Array":
    """Return the column sums of RESAMPLES draws, with replacement, of the rows of `units`; ever the same draws.

    Every score here is a function of such sums, so that no draw needs its own pass over the items. Two runs side by
    side in the columns are drawn together, which makes their difference a paired one.

    Args:
        units: (images, columns) what each image adds to each count.

    Returns:
        (RESAMPLES, columns)
    """
    import numpy as np

    with ui.busy(f"Drawing {RESAMPLES:,} resamples of {len(units):,} for the intervals"):
        return np.concatenate([times @ units for times in multiplicities(len(units))])


def multiplicities(count: int) -> "Iterator[NDArray[np.int64]]":
    """Yield (chunk, images): how often each of `count` images is in each of RESAMPLES draws; ever the same draws."""
    yield from _kept_draws(count) if count <= _FEW else _draws(count)


_FEW = 5000
"""Of so many images the draws are kept, 80 MB of them: comparisons of runs draw from the same ones over and over."""


@lru_cache(maxsize=1)
def _kept_draws(count: int) -> "tuple[NDArray[np.int64], ...]":
    return tuple(_draws(count))


def _draws(count: int) -> "Iterator[NDArray[np.int64]]":
    import numpy as np

    rng = np.random.default_rng(SEED)
    chances = np.full(count, 1 / count)
    for start in range(0, RESAMPLES, _CHUNK):
        yield rng.multinomial(count, chances, size=min(_CHUNK, RESAMPLES - start))


def interval(values: "Array") -> list[float] | None:
    """Return the 2.5 % and 97.5 % percentiles of the draws in which the score is defined, None where there are none."""
    import numpy as np

    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(low), float(high)]


def score_intervals(
    units: "Array", scores: Callable[["Array"], Mapping[str, "Array"]]
) -> dict[str, list[float] | None]:
    """Return the interval of every score that `scores` computes from (resamples, columns) sums."""
    if not units.shape[0]:
        return {}
    return {name: interval(values) for name, values in scores(resampled_totals(units)).items()}


def score_values(units: "Array", scores: Callable[["Array"], Mapping[str, "Array"]]) -> dict[str, float | None]:
    """Return every score that `scores` computes of all images; an undefined one is None."""
    return {name: _number(value) for name, value in scores(units.sum(axis=0, keepdims=True)).items()}


def ratio(numerator: Any, denominator: Any) -> Any:
    """Divide arrays; 0 / 0 and x / 0 are undefined (NaN), not a warning."""
    import numpy as np

    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)


One = TypeVar("One")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of two runs over the `n` items that both have scored.

    Attributes:
        name: as in `scores.json`, with its group where it has one: `adversarial/accuracy`, `conv/relative`.
        ci95: 95 % interval of other - base, by a bootstrap that draws images and keeps the pair together.
        p_value: two-sided; by `test`. None where nothing varies.
        test: `mcnemar`, exact, of accuracies of yes/no questions, which it takes as independent; else `bootstrap`: the
            difference over its standard error, by the normal distribution.
        error: the standard deviation of other - base in the draws.
        adjusted: p_value corrected for all differences of a report; None where it stands alone.
    """

    benchmark: str = ""
    name: str
    base: float | None
    other: float | None
    ci95: tuple[float, float] | None
    p_value: float | None = None
    test: str = "bootstrap"
    error: float | None = None
    adjusted: float | None = None
    n: int

    @property
    def difference(self) -> float | None:
        """other - base."""
        return None if self.base is None or self.other is None else self.other - self.base

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero, and the corrected p-value, where there is one, below 0.05."""
        is_one_sided = self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)
        return is_one_sided and (self.adjusted is None or self.adjusted < LEVEL)

    @property
    def direction(self) -> int:
        """1 where the other score is clearly higher, -1 where it is clearly lower, else 0."""
        return 0 if self.ci95 is None or not self.is_clear else 1 if self.ci95[0] > 0 else -1

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "name": self.name,
            "base": self.base,
            "other": self.other,
            "difference": self.difference,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "p_value": self.p_value,
            "test": self.test,
            "adjusted": self.adjusted,
            "error": self.error,
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
    return {
        name: difference_of(name, old[name], new[name], new_draws[name] - old_draws[name], n=len(pairs)) for name in old
    }


def difference_of(name: str, base: "Array", other: "Array", draws: "Array", *, n: int) -> Difference:
    """Return the difference of two scores, (1,) each, whose interval is that of other - base in the draws."""
    bounds = interval(draws)
    ci95 = None if bounds is None else (bounds[0], bounds[1])
    found = Difference(name=name, base=_number(base), other=_number(other), ci95=ci95, n=n)
    if bounds is None or found.difference is None:
        return found
    import numpy as np

    error = float(np.std(draws[~np.isnan(draws)]))
    return replace(found, error=error, p_value=wald(found.difference, error))


def chosen_differences(differences: Mapping[str, Difference], names: Sequence[str]) -> list[Difference]:
    """Return the differences of these scores; one that neither run has is left out."""
    chosen = [differences[name] for name in names if name in differences]
    return [one for one in chosen if one.base is not None or one.other is not None]


def mcnemar(only_base: int, only_other: int) -> float:
    """Return the exact two-sided p-value that as many items are right in one run only as in the other only."""
    from scipy.stats import binomtest

    discordant = only_base + only_other
    return p_value_of(binomtest(only_base, discordant, 0.5).pvalue) if discordant else 1.0


class HasCorrect(Protocol):
    """An item's result that is right, wrong, or None where it is unscored."""

    @property
    def correct(self) -> bool | None: ...


def mcnemar_of(pairs: Sequence[tuple[HasCorrect, HasCorrect]]) -> float:
    """Return McNemar's exact p-value of two runs' results on the same items; one that is not right counts as wrong."""
    return mcnemar(
        sum(bool(old.correct and not new.correct) for old, new in pairs),
        sum(bool(new.correct and not old.correct) for old, new in pairs),
    )


def wald(difference: float, error: float) -> float | None:
    """Return the two-sided p-value of a difference with a standard error; None where nothing varies but it is not 0."""
    from scipy.stats import norm

    if not error:
        return 1.0 if difference == 0 else None
    return p_value_of(2 * norm.sf(abs(difference) / error))


def student(mean: float, error: float, seeds: int) -> tuple[tuple[float, float], float]:
    """Return the 95 % interval and the two-sided p-value of a mean over at least two seeds, by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(1 - LEVEL / 2, seeds - 1)) * error
    return (mean - half, mean + half), p_value_of(2 * t.sf(abs(mean) / error, seeds - 1) if error else mean == 0)


def p_value_of(computed: float) -> float:
    """Return what was computed, or the smallest number where it was too small for one: no p-value is 0."""
    return max(float(computed), sys.float_info.min)


def _number(value: "Array") -> float | None:
    number = float(value[0])
    return None if number != number else number


LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 200
"""Seeds beyond which "more seeds" is no advice."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What the uncertainty of a mean comes from: the variance between seeds, and the items' (of one seed)."""

    between: float
    items: float
    shared: bool

    def error(self, seeds: int, *, items_factor: float = 1.0) -> float:
        """Return the standard error of the mean, were there so many seeds and items."""
        items = self.items / items_factor
        if self.shared:
            return sqrt(self.between / seeds + items)
        return sqrt(max(self.between, self.items) / seeds)


def false_discoveries(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected so that of those below a level, at most that share is expected to be false.

    Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", 1995.
    """
    from scipy.stats import false_discovery_control

    return [float(one) for one in false_discovery_control(p_values)] if p_values else []


def items_needed(error: float, items: int, effect: float) -> int:
    """Return how many items would show a difference as large as `effect` in 4 of 5 tries, at the level 0.05.

    The variance of a paired difference falls with the number of items: of right and wrong answers it is their
    discordance, of ratings that of the differences, and of either what questions about one image have in common.

    Args:
        error: the standard error of the difference over `items`.
    """
    from scipy.stats import norm

    needed = float(norm.isf(LEVEL / 2) + norm.isf(1 - POWER)) * error / effect
    return ceil(items * needed**2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, so that the chance of any false finding stays below the level.

    S. Holm, "A simple sequentially rejective multiple test procedure", 1979: the smallest of m is multiplied by m, the
    next by m - 1, and so on; none becomes smaller than one before it.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def seeds_needed(mean: float, error: Any, level: float) -> int | None:
    """Return how many seeds give 80 % power to find a difference at a level; None where even 200 do not.

    Args:
        error: number of seeds -> standard error of the mean.
    """
    return next(
        (seeds for seeds in range(2, MOST_SEEDS + 1) if _power(mean, error(seeds), seeds, level) >= POWER), None
    )


def _power(mean: float, error: float, seeds: int, level: float) -> float:
    """Return the chance that a two-sided t-test finds the difference."""
    from scipy.stats import nct, t

    if not error:
        return 1.0
    bound = float(t.ppf(1 - level / 2, seeds - 1))
    return float(nct.sf(bound, seeds - 1, abs(mean) / error))


def items_factor(mean: float, spread: Spread, level: float) -> float | None:
    """Return the least of 2, 4, 8, ... times the items with which up to 200 seeds would do."""
    for doubled in range(1, 11):
        factor = 2.0**doubled
        if seeds_needed(mean, lambda seeds: spread.error(seeds, items_factor=factor), level) is not None:  # noqa: B023
            return factor
    return None
