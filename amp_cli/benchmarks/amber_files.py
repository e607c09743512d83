"""AMBER's files, and what one answer to one of its questions is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_cli.benchmarks.amber_words import AmberWords, NamedObject
from amp_cli.benchmarks.files import records_of
from amp_cli.benchmarks.margins import as_record, of_record
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.parsing import read_json, read_text
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem, YesOrNo

GENERATIVE = "generative"
KINDS = {
    "generative": GENERATIVE,
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""AMBER's `type` -> what it is called here and in its paper. Of relations, some carry the long name, some the short."""
ATTRIBUTES = ("state", "number", "action")
PARTS = {
    "all": (GENERATIVE, "existence", *ATTRIBUTES, "relation"),
    "generative": (GENERATIVE,),
    "discriminative": ("existence", *ATTRIBUTES, "relation"),
    "existence": ("existence",),
    "attribute": ATTRIBUTES,
    "relation": ("relation",),
}
"""What `--part` may ask: AMBER's query files by name."""


def find_file(data: Path, name: str) -> Path:
    """Return the one file of that name at or below `data`.

    Raises:
        AmpError: none, or several with different content.
    """
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint="Give --data the data folder of AMBER's repository")
    found = sorted(data.rglob(name))
    if not found:
        raise AmpError(
            f"There is no {name} below '{data}'",
            hint="Give --data the data folder of AMBER's repository, or run `amp download amber`",
        )
    if len({content_hash(file) for file in found}) > 1:
        listed = ", ".join(f"'{file}'" for file in found)
        raise AmpError(f"{len(found)} different {name} below '{data}': {listed}", hint="Point --data at one of them")
    return found[0]


def query_files(data: Path) -> list[Path]:
    """Return the file with all queries if it is there, else whichever of the files of its parts are."""
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint="Give --data the data folder of AMBER's repository")
    every = sorted(data.rglob("query_all.json"))
    files = every[:1] or sorted(data.rglob("query_*.json"))
    if not files:
        raise AmpError(
            f"There is no query_all.json, query_generative.json or query_discriminative.json below '{data}'",
            hint="Give --data the data folder of AMBER's repository, or run `amp download amber`",
        )
    return files


def read_queries(files: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Return id -> image and question; the same id with two questions is refused."""
    queries: dict[str, tuple[str, str]] = {}
    for file in files:
        for number, record in enumerate(records_of(file), start=1):
            if "id" not in record or not all(isinstance(record.get(name), str) for name in ("image", "query")):
                raise AmpError(
                    f"'{file}', record {number}: `id`, `image` and `query` are needed",
                    hint="Correct or remove that record, then run again",
                )
            asked = (record["image"], record["query"])
            if queries.setdefault(str(record["id"]), asked) != asked:
                raise AmpError(
                    f"'{file}', record {number}: the id {record['id']} has another question elsewhere",
                    hint="Correct or remove that record, then run again",
                )
    return queries


def read_annotations(file: Path) -> dict[str, dict[str, Any]]:
    """Return id -> kind and truth. They are joined by id, where AMBER's script counts lines."""
    annotations: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(records_of(file), start=1):
        kind, truth, foreseen = KINDS.get(str(record.get("type"))), record.get("truth"), record.get("hallu", [])
        if "id" not in record or kind is None:
            raise AmpError(
                f"'{file}', record {number}: no `id`, or the type {record.get('type')!r} is unknown",
                hint="Correct or remove that record, then run again",
            )
        if kind == GENERATIVE:
            is_valid = _are_texts(truth) and _are_texts(foreseen)
        else:
            is_valid = truth in ("yes", "no")
        if not is_valid:
            raise AmpError(
                f"'{file}', record {number}: {truth!r:.60} is not a truth of the type {record['type']!r}",
                hint="Correct or remove that record, then run again",
            )
        if str(record["id"]) in annotations:
            raise AmpError(
                f"'{file}', record {number}: the id {record['id']} is there twice",
                hint="Correct or remove that record, then run again",
            )
        annotations[str(record["id"])] = {"kind": kind, "truth": truth, "foreseen": foreseen}
    return annotations


def read_words(data: Path) -> tuple[AmberWords, list[Path]]:
    """Read relation.json and safe_words.txt."""
    table_file, safe_file = find_file(data, "relation.json"), find_file(data, "safe_words.txt")
    table = read_json(table_file)
    if not isinstance(table, dict) or not all(map(_are_texts, table.values())):
        raise AmpError(f"'{table_file}' is not a table of words", hint='Its form is {"sofa": ["couch", "chair"]}')
    safe = read_text(safe_file).splitlines()
    return AmberWords(table, frozenset(word for word in safe if word)), [table_file, safe_file]


def refuse_unknown_words(items: Sequence[BenchmarkItem], words: AmberWords, file: Path) -> None:
    """Refuse a description whose objects the table lacks: AMBER's script stops there too."""
    for item in items:
        for word in (*item.reference["truth"], *item.reference["foreseen"]):
            if word not in words.table:
                raise AmpError(
                    f"relation.json lacks the word '{word}', which '{file}' has for id {item.id}",
                    hint="relation.json and the annotations must be of the same version of AMBER",
                )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, str) for element in value)


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
    """One yes/no answer's result. `reading` is None where the answer is neither; the truth is `label`.

    `probabilities` are those of yes and no where the answer begins, None where they are not known.
    """

    id: str
    images: tuple[str, ...]
    question: str
    answer: str
    kind: str
    label: bool
    reading: bool | None
    rule: str
    probabilities: YesOrNo | None = None

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
        record = asdict(self) | {"label": label, "reading": reading, "correct": self.correct}
        del record["probabilities"]
        return record | as_record(self.probabilities)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "AmberAnswer":
        return cls(
            images=tuple(record["images"]),
            label=record["label"] == "yes",
            reading=None if record["reading"] is None else record["reading"] == "yes",
            probabilities=of_record(record),
            **{name: record[name] for name in ("id", "question", "answer", "kind", "rule")},
        )


AmberScore = AmberDescription | AmberAnswer


def read_score(record: Mapping[str, Any]) -> AmberScore:
    """Return a line of `items.jsonl` as what it was."""
    of_kind: type[AmberDescription] | type[AmberAnswer]
    of_kind = AmberDescription if record["kind"] == GENERATIVE else AmberAnswer
    return of_kind.from_json(record)
