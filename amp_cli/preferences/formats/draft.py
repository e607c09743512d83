"""What a record of a foreign format becomes on its way to an item, what describes a format, and how ratings rank."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from amp_cli.dialogues.named_images import Record, SourceImage
from amp_cli.dialogues.turns import Brought
from amp_cli.errors import AmpError, RecordError
from amp_cli.records import PLAIN, Frame, Level

KEY = "__key__"
"""Where the name of an entry stands when the file is one JSON object of named entries (HA-DPO's desc_data.json)."""
ASPECTS = {"helpfulness": "Helpfulness", "faithfulness": "Visual Faithfulness", "ethics": "Ethical Considerations"}
"""VLFeedback's three ratings of an answer: our names and the data's."""
EQUAL_WEIGHTS = {"helpfulness": 1.0, "faithfulness": 1.0, "ethics": 1.0}
ENDLESS = "a number that is NaN or infinite was left out"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An item before its images are looked for; `levels` has one entry where the data are standard responses.

    `images`: those of the record's own fields; `brought`: those that stand in its messages.
    `notes`: what was left out on the way, in words that are the same for every record, so that they can be counted.
    """

    id: str | None
    images: tuple[SourceImage, ...]
    questions: tuple[str, ...]
    levels: tuple[Level, ...]
    brought: tuple[Brought, ...] = ()
    frame: Frame = PLAIN
    meta: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


HEAVIEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user may decide about rated answers: the weight of each aspect, and what happens to equal ratings."""

    weights: Mapping[str, float] = field(default_factory=lambda: dict(EQUAL_WEIGHTS))
    ties: Literal["merge", "drop"] = "merge"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(ASPECTS)):
            raise AmpError(f"There is no rating '{unknown[0]}'", hint=f"Known: {', '.join(ASPECTS)}")
        if not all(0 <= weight <= HEAVIEST for weight in self.weights.values()) or not any(self.weights.values()):
            raise AmpError(
                f"Rating weights must be numbers from 0 to {HEAVIEST:,}, one of them above 0",
                hint="E.g. --rating-weights helpfulness=1,faithfulness=2,ethics=0",
            )


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of preference data.

    describes: whether a record looks like one of this format, by types, not only by keys; it never raises.
    convert: the item or items of a record; raises AmpError with the reason where it gives none.
    """

    name: str
    title: str
    describes: Callable[[Record], bool]
    convert: Callable[[Record, Choices], Sequence[Draft]]
    has_image_tokens: bool = True
    """`<image>` in a question stands for the item's image, and is not part of the text."""
    is_standard_only: bool = False
    """The data have one response per question: input of `amp generate-prefs`."""
    is_grouped: bool = False
    """Pairs of the same images and questions belong together."""


def kept(record: Record, *names: str) -> dict[str, Any]:
    """Return those of the fields that the record has, for an item's meta."""
    return {name: record[name] for name in names if record.get(name) is not None}


def text_of(record: Record, name: str) -> str:
    """Return a field that must be a text.

    Raises:
        AmpError: it is missing, or something else.
    """
    value = record.get(name)
    if not isinstance(value, str):
        raise RecordError(f"'{name}' must be a text, not {value!r:.80}" if name in record else f"'{name}' is missing")
    return value


def has_texts(record: Record, *names: str) -> bool:
    """Say whether all the fields hold texts."""
    return all(isinstance(record.get(name), str) for name in names)


def one_round(answer: str, source: str) -> Level:
    """Return the level of a single answer."""
    return Level(answers=(answer,), source=source)


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
