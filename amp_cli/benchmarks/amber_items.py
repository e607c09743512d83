"""AMBER's results, item by item: a description, or an answer to a yes/no question."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from amp_cli.benchmarks.amber_files import GENERATIVE
from amp_cli.benchmarks.amber_words import NamedObject

ANSWER_COUNTS = ("n", "correct", "truth_no", "said_no", "right_no")
DESCRIPTION_COUNTS = ("descriptions", "with_invented", "nouns", "invented", "truth", "covered", "foreseen", "came_true")


@dataclass(frozen=True, kw_only=True)
class AmberDescription:
    """One description's result. `covered` and `came_true` are places in `truth` and `foreseen`."""

    id: str
    images: tuple[str, ...]
    question: str
    answer: str
    objects: tuple[NamedObject, ...]
    truth: tuple[str, ...]
    covered: tuple[int, ...]
    foreseen: tuple[str, ...]
    came_true: tuple[int, ...]
    likeness: str
    rule: str
    kind: str = GENERATIVE

    @property
    def counted(self) -> tuple[NamedObject, ...]:
        """The objects that assert something: AMBER's script counts denied ones too."""
        return tuple(one for one in self.objects if self.rule == "official" or not one.denied)

    @property
    def invented(self) -> tuple[NamedObject, ...]:
        """The counted objects that the image does not hold."""
        return tuple(one for one in self.counted if one.invented)

    def counts(self) -> tuple[int, ...]:
        """What this description adds to each of DESCRIPTION_COUNTS."""
        invented = len(self.invented)
        found = (len(self.truth), len(self.covered), len(self.foreseen), len(self.came_true))
        return (1, invented > 0, len(self.counted), invented, *found)

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        record["invented"] = sorted({one.word for one in self.invented})
        record["missed"] = [one for place, one in enumerate(self.truth) if place not in self.covered]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "AmberDescription":
        return cls(
            objects=tuple(NamedObject(**one) for one in record["objects"]),
            images=tuple(record["images"]),
            truth=tuple(record["truth"]),
            covered=tuple(record["covered"]),
            foreseen=tuple(record["foreseen"]),
            came_true=tuple(record["came_true"]),
            **{name: record[name] for name in ("id", "question", "answer", "likeness", "rule", "kind")},
        )


@dataclass(frozen=True, kw_only=True)
class AmberAnswer:
    """One yes/no answer's result. `reading` is None where the answer is neither; the truth is `label`."""

    id: str
    images: tuple[str, ...]
    question: str
    answer: str
    kind: str
    label: bool
    reading: bool | None
    rule: str

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None where it is unscored. AMBER's script takes what it cannot read as wrong."""
        if self.reading is None:
            return False if self.rule == "official" else None
        return self.reading == self.label

    def counts(self) -> tuple[int, ...]:
        """What this answer adds to each of ANSWER_COUNTS; an unscored one adds nothing."""
        if self.correct is None:
            return (0,) * len(ANSWER_COUNTS)
        said_no = self.reading is False
        return (1, self.correct, not self.label, said_no, said_no and not self.label)

    def to_json(self) -> dict[str, Any]:
        words = {True: "yes", False: "no", None: None}
        label, reading = words[self.label], words[self.reading]
        return asdict(self) | {"label": label, "reading": reading, "correct": self.correct}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "AmberAnswer":
        return cls(
            images=tuple(record["images"]),
            label=record["label"] == "yes",
            reading=None if record["reading"] is None else record["reading"] == "yes",
            **{name: record[name] for name in ("id", "question", "answer", "kind", "rule")},
        )


AmberScore = AmberDescription | AmberAnswer


def read_score(record: Mapping[str, Any]) -> AmberScore:
    """Return a line of `items.jsonl` as what it was."""
    of_kind: type[AmberDescription] | type[AmberAnswer]
    of_kind = AmberDescription if record["kind"] == GENERATIVE else AmberAnswer
    return of_kind.from_json(record)
