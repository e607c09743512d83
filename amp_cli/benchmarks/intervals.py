"""95 % intervals: the percentile bootstrap over images, for one run and for two runs on the same images."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RESAMPLES = 2000
SEED = 0
METHOD = {"interval": "percentile bootstrap", "unit": "image", "resamples": RESAMPLES, "seed": SEED}
"""Stands in `scores.json`. Images, not questions, are drawn: answers about one image are not independent."""

_CHUNK = 100


def resampled_totals(units: "Array", *, resamples: int = RESAMPLES, seed: int = SEED) -> "Array":
    """Return the column sums of `resamples` draws, with replacement, of the rows of `units`.

    Every score here is a function of such sums, so that no draw needs its own pass over the items. Two runs side by
    side in the columns are drawn together, which makes their difference a paired one.

    Args:
        units: (images, columns) what each image adds to each count.

    Returns:
        (resamples, columns)
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    count = units.shape[0]
    chances = np.full(count, 1 / count)
    parts = []
    for start in range(0, resamples, _CHUNK):
        times = rng.multinomial(count, chances, size=min(_CHUNK, resamples - start))  # (chunk, images)
        parts.append(times @ units)
    return np.concatenate(parts)


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


def ratio(numerator: Any, denominator: Any) -> Any:
    """Divide arrays; 0 / 0 and x / 0 are undefined (NaN), not a warning."""
    import numpy as np

    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)
