"""Turns rated answers into levels: best first, equal ratings merged or dropped, what has no number left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from amp_cli.errors import RecordError
from amp_cli.records import Level

UNRATED = "an answer without a number for its rating was left out"
MERGED = "an answer with the same rating as another was left out"
DIGITS = 9
"""Weighted means that differ by less than this are equal: they are sums of the same numbers in another order."""


@dataclass(frozen=True, kw_only=True)
class RatedLevels:
    """The levels, each with its rating, and what was left out."""

    levels: tuple[Level, ...]
    ratings: tuple[float, ...]
    notes: tuple[str, ...]


def number_of(value: object) -> float | None:
    """Return a rating as a number ("4" too), None where it is none ("N/A")."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def levels_by_rating(
    answers: Sequence[tuple[Level, float | None]], *, ties: Literal["merge", "drop"], lower_is_better: bool = False
) -> RatedLevels:
    """Order answers by rating; of equal ones the first stays (`merge`) or none (`drop`).

    Raises:
        AmpError: fewer than two levels are left.
    """
    sign = 1 if lower_is_better else -1
    rated = [(level, round(rating, DIGITS)) for level, rating in answers if rating is not None]
    notes = [UNRATED] * (len(answers) - len(rated))
    kept: list[tuple[Level, float]] = []
    for _, equal in groupby(sorted(rated, key=lambda one: sign * one[1]), key=lambda one: one[1]):
        together = list(equal)
        staying = together[:1] if ties == "merge" or len(together) == 1 else []
        notes += [MERGED] * (len(together) - len(staying))
        kept += staying
    if len(kept) < 2:
        raise RecordError(f"{len(kept)} of {len(answers)} answers can be told apart by their ratings; it takes 2")
    return RatedLevels(
        levels=tuple(level for level, _ in kept), ratings=tuple(rating for _, rating in kept), notes=tuple(notes)
    )
