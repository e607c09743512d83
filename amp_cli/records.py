"""The records that travel between the stages: frozen, and refusing bad values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from amp_cli.errors import RecordError


def texts(value: object, what: str) -> tuple[str, ...]:
    """Return `value` as a tuple of strings, or refuse it in the words of the field `what`."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecordError(f"'{what}' must be a list of texts, not {value!r:.80}")
    for element in value:
        if not isinstance(element, str):
            raise RecordError(f"'{what}' must hold texts only, not {element!r:.80}")
    return tuple(value)


def required(record: Mapping[str, Any], key: str) -> Any:
    """Return `record[key]`, or refuse the record by the missing field's name."""
    if key not in record:
        raise RecordError(f"the field '{key}' is missing")
    return record[key]


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{what} must be an object with named fields, not {value!r:.80}")
    return value


def _refuse_empty_id(item_id: object) -> None:
    if not isinstance(item_id, str) or not item_id.strip():
        raise RecordError(f"an id must be a text that is not empty, not {item_id!r:.80}")


def _refuse_uneven(answers: Sequence[str], questions: Sequence[str], whose: str) -> None:
    if len(answers) != len(questions):
        raise RecordError(f"{whose} has {len(answers)} answers for {len(questions)} questions")
    for number, answer in enumerate(answers, start=1):
        if not answer.strip():
            raise RecordError(f"{whose} has an empty answer in round {number}")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around the rounds of a dialogue.

    Attributes:
        system: the system message; None leaves the chat template's own, where it has one.
        image_rounds: for each image the round, from 0 and never falling, whose question it is shown with; empty where
            all stand with the first, as in most data.
    """

    system: str | None = None
    image_rounds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.system is not None and (not isinstance(self.system, str) or not self.system.strip()):
            raise RecordError(f"'system' must be a text that is not empty, not {self.system!r:.80}")
        if not all(type(number) is int and number >= 0 for number in self.image_rounds):
            raise RecordError(f"'image_rounds' must hold whole numbers from 0, not {self.image_rounds!r:.80}")
        if list(self.image_rounds) != sorted(self.image_rounds):
            raise RecordError("'image_rounds' must not fall: images stand in the order in which they are shown")
        if not any(self.image_rounds):
            object.__setattr__(self, "image_rounds", ())

    def images_in(self, number: int, images: int) -> int:
        """Return how many of an item's `images` are shown with the question of a round, counted from 0."""
        if self.image_rounds:
            return self.image_rounds.count(number)
        return images if number == 0 else 0

    def refuse_misfit(self, images: int, rounds: int) -> None:
        """Refuse places that are not those of this many images in this many rounds."""
        if self.image_rounds and len(self.image_rounds) != images:
            raise RecordError(f"'image_rounds' has {len(self.image_rounds)} numbers for {images} images")
        if self.image_rounds and self.image_rounds[-1] >= rounds:
            raise RecordError(
                f"'image_rounds' names round {self.image_rounds[-1]}; the last of {rounds} is {rounds - 1}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that an item has of it: none for most items."""
        record: dict[str, Any] = {} if self.system is None else {"system": self.system}
        return {**record, "image_rounds": list(self.image_rounds)} if self.image_rounds else record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read the fields of an item; null and an empty list are as if the field was not there."""
        rounds = record.get("image_rounds") or ()
        if isinstance(rounds, str) or not isinstance(rounds, Sequence):
            raise RecordError(f"'image_rounds' must be a list of numbers, not {rounds!r:.80}")
        return cls(system=record.get("system") or None, image_rounds=tuple(rounds))


PLAIN = Frame()
"""No system message, all images with the first question."""


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """Images, one question per round, and the data set's own (standard) answer to each."""

    id: str
    images: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    frame: Frame = PLAIN
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_empty_id(self.id)
        if not self.questions:
            raise RecordError("the item has no question")
        self.frame.refuse_misfit(len(self.images), len(self.questions))
        _refuse_uneven(self.answers, self.questions, "the standard response")

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "images": list(self.images),
            "questions": list(self.questions),
            "answers": list(self.answers),
            **self.frame.to_json(),
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            id=required(record, "id"),
            images=texts(required(record, "images"), "images"),
            questions=texts(required(record, "questions"), "questions"),
            answers=texts(required(record, "answers"), "answers"),
            frame=Frame.from_json(record),
            meta=dict(_object(record.get("meta") or {}, "'meta'")),
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A generated response before it has a level: one line of `candidates.jsonl`."""

    id: str
    source: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        _refuse_empty_id(self.id)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "source": self.source, "answers": list(self.answers)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            id=required(record, "id"),
            source=str(required(record, "source")),
            answers=texts(required(record, "answers"), "answers"),
        )


@dataclass(frozen=True, kw_only=True)
class Level:
    """One place in the quality order: its answers, who wrote them, and what auto-check gave (0..1)."""

    answers: tuple[str, ...]
    source: str
    accuracy: float | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("accuracy", self.accuracy), ("score", self.score)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not is_number:
                raise RecordError(f"'{name}' of a level must be a number, not {value!r:.80}")

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"answers": list(self.answers), "source": self.source}
        if self.accuracy is not None:
            record["accuracy"] = self.accuracy
        if self.score is not None:
            record["score"] = self.score
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            answers=texts(required(record, "answers"), "answers"),
            source=str(record.get("source", "unknown")),
            accuracy=_finite_or_none(record.get("accuracy")),
            score=_finite_or_none(record.get("score")),
        )


def _finite_or_none(value: Any) -> Any:
    """Return None for NaN and infinity: that number cannot be used, the answer can."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


PAIR_SETS = ("all", "adjacent", "best-vs-rest")
"""Which pairs of an item's levels are compared, in training and in exports that hold pairs."""


def pairs_of(levels: int, pairs: str) -> tuple[tuple[int, int], ...]:
    """Return the (better, worse) levels that `pairs` compares among `levels` levels."""
    if pairs not in PAIR_SETS:
        raise ValueError(f"pairs must be one of {', '.join(PAIR_SETS)}, not {pairs!r}")
    every = [(better, worse) for better in range(levels) for worse in range(better + 1, levels)]
    if pairs == "adjacent":
        return tuple((better, worse) for better, worse in every if worse == better + 1)
    if pairs == "best-vs-rest":
        return tuple((better, worse) for better, worse in every if better == 0)
    return tuple(every)


MOST_LEVELS = 8
"""K is 2 to 8."""


@dataclass(frozen=True, kw_only=True)
class PreferenceItem:
    """K responses in quality order, level 0 the best, 2 to 8 of them: one line of `preferences.jsonl`."""

    id: str
    images: tuple[str, ...]
    questions: tuple[str, ...]
    levels: tuple[Level, ...]
    frame: Frame = PLAIN
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_empty_id(self.id)
        if not self.questions:
            raise RecordError("the item has no question")
        if len(self.levels) < 2:
            raise RecordError(f"the item has {len(self.levels)} level(s); a preference needs at least 2")
        if len(self.levels) > MOST_LEVELS:
            raise RecordError(
                f"the item has {len(self.levels)} levels; at most {MOST_LEVELS} are possible",
                hint=f"Keep {MOST_LEVELS} of its levels, the best and the worst among them",
            )
        for number, level in enumerate(self.levels):
            _refuse_uneven(level.answers, self.questions, f"level {number}")
        self.frame.refuse_misfit(len(self.images), len(self.questions))

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "images": list(self.images),
            "questions": list(self.questions),
            "levels": [level.to_json() for level in self.levels],
            **self.frame.to_json(),
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        levels = required(record, "levels")
        if not isinstance(levels, Sequence) or isinstance(levels, str):
            raise RecordError(f"'levels' must be a list, not {levels!r:.80}")
        return cls(
            id=required(record, "id"),
            images=texts(record.get("images", []), "images"),
            questions=texts(required(record, "questions"), "questions"),
            levels=tuple(Level.from_json(_object(level, "a level")) for level in levels),
            frame=Frame.from_json(record),
            meta=dict(_object(record.get("meta") or {}, "'meta'")),
        )


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """What a benchmark asks, and in `reference` what its scorer needs to know of the item."""

    id: str
    images: tuple[str, ...]
    questions: tuple[str, ...]
    reference: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_empty_id(self.id)


@dataclass(frozen=True, kw_only=True)
class YesOrNo:
    """The probabilities, 0 to 1, that an answer begins as a yes and as a no; it may begin otherwise."""

    yes: float
    no: float

    def __post_init__(self) -> None:
        for name in ("yes", "no"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise RecordError(f"the probability of '{name}' must be a number from 0 to 1, not {value!r:.80}")

    def to_json(self) -> dict[str, float]:
        return {"yes": self.yes, "no": self.no}

    @classmethod
    def from_json(cls, value: object) -> Self:
        record = _object(value, "the probabilities of an answer")
        return cls(yes=required(record, "yes"), no=required(record, "no"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answers to the questions of one item: one line of `answers.jsonl`.

    Attributes:
        is_whole: whether the model ended each of them itself; the file is without it.
        probabilities: one for each answer, or none at all: of texts alone, and of what is not asked with yes or no.
    """

    id: str
    answers: tuple[str, ...]
    is_whole: bool = field(default=True, compare=False)
    probabilities: tuple[YesOrNo, ...] = ()

    def __post_init__(self) -> None:
        _refuse_empty_id(self.id)
        if self.probabilities and len(self.probabilities) != len(self.answers):
            raise RecordError(f"{len(self.probabilities)} pairs of probabilities for {len(self.answers)} answers")

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self.id, "answers": list(self.answers)}
        return record | ({"probabilities": [one.to_json() for one in self.probabilities]} if self.probabilities else {})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        stored = record.get("probabilities")
        if not isinstance(stored, list | None):
            raise RecordError(f"'probabilities' must be a list, not {stored!r:.80}")
        return cls(
            id=required(record, "id"),
            answers=texts(required(record, "answers"), "answers"),
            probabilities=tuple(map(YesOrNo.from_json, stored or ())),
        )


MOST_TOKENS = 10**9
"""No reply has more: a larger count is a fault of whoever counted."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's raw reply to one item: one line of `verdicts.jsonl`, whose key is (id, repeat).

    Attributes:
        model: what the judge calls itself. request_id: what its operator can find the request by.
        finish_reason: why the reply ended, as the judge says it; None where that is not known.
        max_tokens: the limit of its length, where that is known.
    """

    id: str
    text: str
    repeat: int = 0
    model: str | None = None
    request_id: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        _refuse_empty_id(self.id)
        if not isinstance(self.text, str):
            raise RecordError(f"'text' must be the judge's reply, not {self.text!r:.80}")
        if type(self.repeat) is not int or self.repeat < 0:
            raise RecordError(f"'repeat' must be a number from 0, not {self.repeat!r:.80}")
        for name in ("text", "model", "request_id", "finish_reason"):
            _refuse_half_characters(getattr(self, name), name)
        for name in ("prompt_tokens", "completion_tokens", "max_tokens"):
            count = getattr(self, name)
            if count is not None and (type(count) is not int or not 0 <= count <= MOST_TOKENS):
                raise RecordError(f"'{name}' must be a number of tokens, at most {MOST_TOKENS:,}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            id=required(record, "id"),
            text=required(record, "text"),
            repeat=record.get("repeat", 0),
            **{name: record.get(name) for name in _SAID_OF_A_VERDICT},
        )


_SAID_OF_A_VERDICT = ("model", "request_id", "prompt_tokens", "completion_tokens", "finish_reason", "max_tokens")


def is_storable(text: str | None) -> bool:
    """Tell whether a file can hold a text: it has no half of a surrogate pair."""
    return text is None or not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_half_characters(value: object, what: str) -> None:
    """Refuse what is no text, or holds half of a surrogate pair, which no file can hold."""
    if value is not None and not isinstance(value, str):
        raise RecordError(f"'{what}' must be a text, not {value!r:.80}")
    if not is_storable(value):
        raise RecordError(f"'{what}' holds half of a surrogate pair, which is not a character")
