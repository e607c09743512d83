"""AMBER's records and rates: what a description or a yes/no answer adds, and the scores of such sums."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.amber_files import ATTRIBUTES, GENERATIVE
from amp_cli.benchmarks.amber_words import NamedObject
from amp_cli.benchmarks.intervals import ratio

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array

LEAVES = ("existence", *ATTRIBUTES, "relation")
GROUPS = {
    "discriminative": LEAVES,
    "existence": ("existence",),
    "attribute": ATTRIBUTES,
    **{name: (name,) for name in ATTRIBUTES},
    "relation": ("relation",),
}
DESCRIPTION_COUNTS = ("descriptions", "with_invented", "nouns", "invented", "truth", "covered", "foreseen", "came_true")
ANSWER_COUNTS = ("n", "correct", "truth_no", "said_no", "right_no")
DESCRIPTION_RATES = ("chair", "cover", "hal", "cog")
ANSWER_RATES = ("accuracy", "precision", "recall", "f1")
COLUMNS = len(DESCRIPTION_COUNTS) + len(LEAVES) * len(ANSWER_COUNTS)

_START = 0.001
"""AMBER's metrics.txt starts every denominator with it, so nothing is ever divided by zero there."""
_F1_TERM = 0.0001
_F1_TERM_EXISTENCE = 0.001


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
        """The counted objects that the picture does not hold."""
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


def image_counts(scores: Sequence[AmberScore]) -> "Array":
    """Return (pictures, COLUMNS): what each picture adds to the description's counts, then to each leaf's."""
    import numpy as np

    rows = {images: row for row, images in enumerate(dict.fromkeys(one.images for one in scores))}
    counts = np.zeros((len(rows), COLUMNS))
    for one in scores:
        start = 0 if isinstance(one, AmberDescription) else _first_column(one.kind)
        added = one.counts()
        counts[rows[one.images], start : start + len(added)] += added
    return counts


def rates(sums: "Array", rule: str) -> dict[str, "Array"]:
    """Name every score of (draws, COLUMNS) sums: `generative/chair`, `relation/f1`, ...; undefined ones are NaN.

    Under the rule `official`, denominators start at 0.001, so that nothing is undefined, and F1 is of precision and
    recall rounded to a tenth of a percent, its own denominator being enlarged a little.
    """
    import numpy as np

    extra = _START if rule == "official" else 0.0
    descriptions, with_invented, nouns, invented, truth, covered, foreseen, came_true = sums.T[
        : len(DESCRIPTION_COUNTS)
    ]
    named = {
        "generative/chair": ratio(invented, nouns + extra),
        "generative/cover": ratio(covered, truth + extra),
        "generative/hal": _share_with_invented(descriptions, with_invented, extra),
        "generative/cog": ratio(came_true, foreseen + extra),
    }
    for group, leaves in GROUPS.items():
        columns = np.sum([sums[:, _first_column(leaf) :][:, : len(ANSWER_COUNTS)] for leaf in leaves], axis=0)
        n, correct, truth_no, said_no, right_no = columns.T
        # each leaf's denominators start at 0.001 there, but the sum over all has a counter of its own
        more = extra * (len(leaves) if group == "attribute" else 1)
        precision, recall = ratio(right_no, said_no + more), ratio(right_no, truth_no + more)
        named |= {
            f"{group}/accuracy": ratio(correct, n + more),
            f"{group}/precision": precision,
            f"{group}/recall": recall,
            f"{group}/f1": _f1(precision, recall, group, rule),
        }
    named["amber_score"] = (1 - named["generative/chair"] + named["discriminative/f1"]) / 2
    return named


def _share_with_invented(descriptions: "Array", with_invented: "Array", extra: float) -> "Array":
    """Return Hal; AMBER's script takes it as what is left when the clean descriptions are taken away."""
    share: Array = 1 - ratio(descriptions - with_invented, descriptions + extra)
    return share


def _f1(precision: "Array", recall: "Array", group: str, rule: str) -> "Array":
    if rule != "official":
        plain: Array = ratio(2 * precision * recall, precision + recall)
        return plain
    term = _F1_TERM_EXISTENCE if group == "existence" else _F1_TERM
    p, r = _to_tenths_of_percent(precision), _to_tenths_of_percent(recall)
    return 2 * p * r / (p + r + term)


def _to_tenths_of_percent(shares: "Array") -> "Array":
    """Round as Python does: numpy's rounding goes the other way on some numbers that end in 5."""
    import numpy as np

    return np.array([round(float(share) * 100, 1) / 100 for share in shares])


def _first_column(leaf: str) -> int:
    return len(DESCRIPTION_COUNTS) + LEAVES.index(leaf) * len(ANSWER_COUNTS)
