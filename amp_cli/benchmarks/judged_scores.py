"""What judged benchmarks share: an item's result, means over repeats, their spread, and their intervals."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.intervals import interval, resampled_totals
from amp_cli.benchmarks.ratings import Reading

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array

Contribution = Callable[[tuple[float, ...]], Sequence[float]]
Rates = Callable[["Array"], Mapping[str, "Array"]]


@dataclass(frozen=True, kw_only=True)
class JudgedScore:
    """One item's result: a line of `items.jsonl`.

    Attributes:
        group: its question type or category.
        references, answers: one per question; no answers where verdicts were given without them.
        verdicts: the judge's replies, one per repeat; "" where there is none.
        readings: what they say. Ratings are one number (MMHal), one per round (MRHal), or reference and model.
    """

    id: str
    images: tuple[str, ...]
    group: str
    questions: tuple[str, ...]
    references: tuple[str, ...]
    answers: tuple[str, ...]
    verdicts: tuple[str, ...]
    readings: tuple[Reading, ...]

    @property
    def readable(self) -> tuple[tuple[float, ...], ...]:
        """The ratings of the repeats that could be read."""
        return tuple(one.ratings for one in self.readings if one.ratings is not None)

    @property
    def ratings(self) -> tuple[float, ...] | None:
        """The mean over the repeats, rating by rating; None where the item is unscored."""
        return tuple(map(statistics.fmean, zip(*self.readable, strict=True))) if self.readable else None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "images": list(self.images),
            "group": self.group,
            "questions": list(self.questions),
            "references": list(self.references),
            "answers": list(self.answers),
            "verdicts": list(self.verdicts),
            "ratings": [None if one.ratings is None else [_plain(n) for n in one.ratings] for one in self.readings],
            "reasons": [one.reason for one in self.readings],
            "substituted": [one.substituted for one in self.readings],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "JudgedScore":
        said = zip(record["ratings"], record["reasons"], record["substituted"], strict=True)
        return cls(
            **{name: tuple(record[name]) for name in ("images", "questions", "references", "answers", "verdicts")},
            id=record["id"],
            group=record["group"],
            readings=tuple(
                Reading(
                    ratings=None if ratings is None else tuple(map(float, ratings)),
                    reason=reason,
                    substituted=substituted,
                )
                for ratings, reason, substituted in said
            ),
        )


def _plain(number: float) -> float | str:
    """Return a number as JSON can hold it: `nan` and `inf`, which one official script lets pass, become texts."""
    return number if math.isfinite(number) else str(number)


def contributions(
    scores: Sequence[JudgedScore], groups: Sequence[str], width: int, contribution: Contribution
) -> "Array":
    """Return (items, groups * width): what each item adds to its group's counts, as the mean over its repeats."""
    import numpy as np

    rows = np.zeros((len(scores), len(groups), width))
    for number, one in enumerate(scores):
        if one.readable:
            added = np.array([contribution(ratings) for ratings in one.readable], dtype=np.float64)
            rows[number, groups.index(one.group)] = added.mean(axis=0)
    return rows.reshape(len(scores), len(groups) * width)


def by_image(rows: "Array", scores: Sequence[JudgedScore]) -> "Array":
    """Return (images, columns): the rows of each image's items added up."""
    import numpy as np

    images = {image: number for number, image in enumerate(dict.fromkeys(one.images for one in scores))}
    sums = np.zeros((len(images), rows.shape[1]))
    for row, one in zip(rows, scores, strict=True):
        sums[images[one.images]] += row
    return sums


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores by name, their 95 % intervals, and their standard deviation over repeats (None without repeats)."""

    values: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    spread: dict[str, float | None] | None

    def block(self, group: str, names: Sequence[str]) -> dict[str, Any]:
        """Return one group's scores and intervals; the group "" has names without a group."""
        keys = {name: f"{group}/{name}" if group else name for name in names}
        return {
            **{name: self.values[key] for name, key in keys.items()},
            "ci95": {name: self.intervals.get(key) for name, key in keys.items()},
        }


def measure(scores: Sequence[JudgedScore], rows: Callable[[Sequence[JudgedScore]], "Array"], rates: Rates) -> Measured:
    """Compute every score from the items' contributions, its interval by drawing images, its spread over repeats."""
    draws = rates(resampled_totals(by_image(rows(scores), scores))) if scores else {}
    return Measured(
        values=_values(rows(scores), rates),
        intervals={name: interval(values) for name, values in draws.items()},
        spread=_spread(scores, rows, rates),
    )


def _values(rows: "Array", rates: Rates) -> dict[str, float | None]:
    import numpy as np

    total = np.add.reduce(rows, axis=0, keepdims=True)  # row by row, in the order in which the official scripts add
    values = {name: float(value[0]) for name, value in rates(total).items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _spread(
    scores: Sequence[JudgedScore], rows: Callable[[Sequence[JudgedScore]], "Array"], rates: Rates
) -> dict[str, float | None] | None:
    """Return the standard deviation (n - 1) of each score over the repeats."""
    repeats = max((len(one.readings) for one in scores), default=0)
    if repeats < 2:
        return None
    each = [
        _values(rows([replace(one, readings=one.readings[number : number + 1]) for one in scores]), rates)
        for number in range(repeats)
    ]
    columns = {name: [values[name] for values in each] for name in each[0]}
    return {
        name: None if None in column else statistics.stdev(value for value in column if value is not None)
        for name, column in columns.items()
    }


def unscored(scores: Sequence[JudgedScore]) -> int:
    """Return how many items have no readable verdict."""
    return sum(not one.readable for one in scores)
