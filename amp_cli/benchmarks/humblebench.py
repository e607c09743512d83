"""HumbleBench: 22,831 questions with five choices, the last of which is "None of the above" (arXiv 2509.09658).

The question takes its choices along, as the model gets them:

    What color is the chandelier?      label E: it is none of these colours
    A. Red
    B. Blue
    C. Black
    D. Gold
    E. None of the above

`--part nota-only`, which the paper calls HumbleBench-E, takes the right choice away, so that E is right everywhere.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import yes_no
from amp_cli.benchmarks.answer_files import LAYOUTS, GivenAnswer, read_answers
from amp_cli.benchmarks.benchmark import OFFICIAL, ONE_WORD, Benchmark, LoadedBenchmark, Option
from amp_cli.benchmarks.choice_reading import LETTERS, choices_of, read_choice, read_letter
from amp_cli.benchmarks.comparing import (
    METHOD,
    Difference,
    mcnemar_of,
    paired_differences,
    ratio,
    score_intervals,
    score_values,
)
from amp_cli.benchmarks.files import add_answer, records_of, text_field
from amp_cli.benchmarks.pope import label_file
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import Given, Row, Table, column, shown, title_of, yes_no_reply
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings

FILE = "metadata.jsonl"
COUNT = 22831
NONE = "E"
"""The choice "None of the above"."""
UNREAD = "NA"
"""What the official script calls an answer without one of the letters, or with several; it counts as wrong."""
TYPES = ("Object", "Attribute", "Relation")
_HINT = f"Give --data the folder with {FILE} of HumbleBench's data set, or run `amp download humblebench` first"


@dataclass(frozen=True, kw_only=True)
class ChoiceScore:
    """One question's result. `reading` is the letter of the choice taken, None where the answer is not scored."""

    id: str
    type: str
    images: tuple[str, ...]
    question: str
    answer: str
    label: str
    reading: str | None

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None where it is unscored."""
        return None if self.reading is None else self.reading == self.label

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": self.type,
            "images": list(self.images),
            "question": self.question,
            "answer": self.answer,
            "label": self.label,
            "reading": self.reading,
            "correct": self.correct,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "ChoiceScore":
        return cls(
            id=record["id"],
            type=record["type"],
            images=tuple(record["images"]),
            question=record["question"],
            answer=record["answer"],
            label=record["label"],
            reading=record["reading"],
        )


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read `metadata.jsonl`, wherever it lies below `data`: file_name, question, label, type and question_id."""
    file = label_file(data, FILE, _HINT)
    if file is None:
        raise AmpError(f"No {FILE} below '{data}'", hint=_HINT)
    records = enumerate(records_of(file), start=1)
    items = [_item(record, f"'{file}', record {number},", settings.part) for number, record in records]
    if twice := [item_id for item_id, count in Counter(item.id for item in items).items() if count > 1]:
        raise AmpError(f"'{file}' asks question '{twice[0]}' twice", hint="Keep one of the two records")
    short = f"HumbleBench has {COUNT:,} questions, this file has {len(items):,}"
    return LoadedBenchmark(
        items=tuple(items),
        files=(file,),
        facts={"questions": dict(Counter(str(item.reference["type"]) for item in items)), "part": settings.part},
        warnings=() if len(items) == COUNT else (short,),
    )


def _item(record: Mapping[str, Any], where: str, part: str) -> BenchmarkItem:
    image, question, label, kind = (
        text_field(record, name, where) for name in ("file_name", "question", "label", "type")
    )
    number = record.get("question_id")
    if label not in LETTERS or not isinstance(number, int | str):
        raise AmpError(
            f"{where} has the label {label!r:.40} and the question_id {number!r:.40}",
            hint=f"A label is one of {', '.join(LETTERS)}; a question_id is a number",
        )
    item_id = str(number)
    if part == "nota-only":
        item_id, question, label = f"{number}-nota-only", _without(label, question), NONE
    return BenchmarkItem(
        id=item_id,
        images=(image,),
        questions=(question,),
        reference={"label": label, "type": kind, "number": str(number)},
    )


def _without(label: str, question: str) -> str:
    """Return the question without its right choice, unless that is E."""
    first, *others = question.strip().split("\n")
    kept = others if label == NONE else [line for line in others if not line.strip().startswith(f"{label}.")]
    return "\n".join([first, *kept])


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or records with question_id and prediction, as the official script writes them."""
    known = {item.reference["number"]: item for item in items}

    def join(given: Sequence[GivenAnswer]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for one in given:
            if one.number is None:
                raise AmpError(f"{one.where}: no question_id in it", hint=LAYOUTS)
            item = known.get(one.number)
            if item is not None and one.question is not None:
                _check_choices(one, item, settings.part)
            add_answer(answers, Answer(id=item.id if item else one.number, answers=(one.text,)), path)
        return answers

    return read_answers(path, join)


def _check_choices(given: GivenAnswer, item: BenchmarkItem, part: str) -> None:
    """Refuse an answer to other choices: the letters would mean something else."""
    asked = choices_of(given.question or "")
    if asked and asked != choices_of(item.questions[0]):
        raise AmpError(
            f"{given.where}: its choices are not those of question {given.number} with --part {part}",
            hint=f"Give --part {'original' if part == 'nota-only' else 'nota-only'} if that was asked; "
            "choices in another order cannot be scored",
        )


def score(item: BenchmarkItem, answer: Answer, rule: str) -> ChoiceScore:
    """Read one answer; under `official`, one with no letter or several is `NA`, and wrong."""
    (question,), text = item.questions, answer.answers[0]
    return ChoiceScore(
        id=item.id,
        type=item.reference["type"],
        images=item.images,
        question=question,
        answer=text,
        label=item.reference["label"],
        reading=(read_letter(text) or UNREAD) if rule == "official" else read_choice(text, choices_of(question)),
    )


READINGS = (*LETTERS, UNREAD)


def image_counts(scores: Sequence[ChoiceScore], types: Sequence[str], rule: str) -> "Array":
    """Return (images, types * 2 + 2 + 6): right and scored of each type and of those whose label is E; the readings.

    Under `official`, an answer to those whose label is E is right there only if it is the bare letter, as in the
    official script.
    """
    import numpy as np

    rows = {images: row for row, images in enumerate(dict.fromkeys(one.images for one in scores))}
    counts = np.zeros((len(rows), len(types) * 2 + 2 + len(READINGS)))
    for one in scores:
        if one.reading is None:
            continue
        row = counts[rows[one.images]]
        place = types.index(one.type) * 2
        row[place : place + 2] += (bool(one.correct), 1)
        if one.label == NONE:
            is_right = one.answer == NONE if rule == "official" else bool(one.correct)
            row[-len(READINGS) - 2 : -len(READINGS)] += (is_right, 1)
        row[-len(READINGS) + READINGS.index(one.reading)] += 1
    return counts


def rates(sums: "Array", types: Sequence[str]) -> dict[str, "Array"]:
    """Name every score of (draws, types * 2 + 2 + 6) sums."""
    by_type = sums[:, : len(types) * 2].reshape(len(sums), len(types), 2)
    none_right, none_asked = sums[:, -len(READINGS) - 2 : -len(READINGS)].T
    readings = sums[:, -len(READINGS) :]
    said = ratio(readings, readings.sum(axis=1, keepdims=True))  # (draws, readings)
    return {
        "overall/accuracy": ratio(*by_type.sum(axis=1).T),
        "overall/none_accuracy": ratio(none_right, none_asked),
        "overall/none_ratio": said[:, LETTERS.index(NONE)],
        **{f"{kind}/accuracy": ratio(*by_type[:, number].T) for number, kind in enumerate(types)},
        **{f"said/{letter}": said[:, number] for number, letter in enumerate(READINGS)},
    }


def summarise(scores: Sequence[ChoiceScore], rule: str) -> dict[str, Any]:
    """Return accuracy over all, by type and where E is right, and how often each letter was said."""
    types = list(dict.fromkeys(one.type for one in scores))
    units = image_counts(scores, types, rule)
    values = score_values(units, lambda sums: rates(sums, types))
    if rule == "official" and not any(one.label == NONE for one in scores):
        values["overall/none_accuracy"] = 0.0  # as the official script says of no such question
    bounds = score_intervals(units, lambda sums: rates(sums, types))

    def block(group: str, members: Sequence[ChoiceScore], *names: str) -> dict[str, Any]:
        return {
            "n": len(members),
            **{name: values[f"{group}/{name}"] for name in names},
            "unparsed": sum(one.reading is None for one in members),
            "ci95": {name: bounds.get(f"{group}/{name}") for name in names},
        }

    return {
        "types": {kind: block(kind, [one for one in scores if one.type == kind], "accuracy") for kind in types},
        "overall": block("overall", scores, "accuracy", "none_accuracy", "none_ratio")
        | {"said": {letter: values[f"said/{letter}"] for letter in READINGS}},
        "interval": METHOD,
    }


def compare(pairs: Sequence[tuple[ChoiceScore, ChoiceScore]], rule: str) -> list[Difference]:
    """Compare accuracy over all and by type, that where E is right, and how often E was said."""
    types = list(dict.fromkeys(old.type for old, _ in pairs))
    paired = paired_differences(
        pairs, lambda scores: image_counts(scores, types, rule), lambda sums: rates(sums, types)
    )
    groups = {"overall": list(pairs)} | {kind: [pair for pair in pairs if pair[0].type == kind] for kind in types}
    differences = []
    for group, members in groups.items():
        p_value = mcnemar_of(members)
        accuracy = paired[f"{group}/accuracy"]
        differences.append(replace(accuracy, n=len(members), p_value=p_value, test="mcnemar"))
    nobody = sum(old.label == NONE for old, _ in pairs)
    return [*differences, replace(paired["overall/none_accuracy"], n=nobody), paired["overall/none_ratio"]]


def row(first: ChoiceScore, given: Given[ChoiceScore]) -> Row:
    """Return a question with every run's answer; a wrong choice other than E says what is not in the image."""
    choices = choices_of(first.question)
    replies = [(yes_no_reply(name, one.answer, one.correct), one) for name, one in given]
    return Row(
        images=first.images,
        question=first.question,
        truth=f"{first.label}. {choices[first.label]}" if first.label in choices else first.label,
        note=first.type,
        replies=tuple(
            replace(reply, made_up=one.correct is False and one.reading not in (NONE, UNREAD)) for reply, one in replies
        ),
        differs=len({one.reading for _, one in given}) > 1,
        is_short=True,
    )


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return the table of accuracies, and how often each letter was said."""
    overall = scores["overall"]
    blocks = {"all": overall, **scores["types"]}
    rows = [
        ["questions", *(str(block["n"]) for block in blocks.values())],
        ["accuracy", *(shown(block["accuracy"], block["ci95"]["accuracy"]) for block in blocks.values())],
        ["unparsed", *(str(block["unparsed"]) for block in blocks.values())],
    ]
    for name, called in (("none_accuracy", "accuracy where E is right"), ("none_ratio", "said E")):
        rows.append([called, shown(overall[name], overall["ci95"][name]), *("" for _ in scores["types"])])
    said = [[letter, shown(share)] for letter, share in overall["said"].items() if share is not None]
    shares = [("How often each letter was said", ["letter", "share"], said)] if said else []
    return [(title_of(scores), ["", *blocks], rows), *shares]


BENCHMARK = Benchmark(
    name="humblebench",
    title='HumbleBench: "none of the above" among the choices (accuracy)',
    help="""Ask HumbleBench's questions with five choices, the last of which is "None of the above".

    Scored are accuracy, over all and by type (object, attribute, relation), that of the questions where none of the
    above is right, and how often that was said. --part nota-only takes the right choice away (HumbleBench-E).

    Example: amp eval humblebench --model 7b --data HumbleBench --out runs/base-humble
    """,
    options=(
        Option(name="data", help=f"Folder with {FILE} and its images."),
        Option(
            name="part",
            help="The questions as they are, or without their right choice.",
            default="original",
            choices=("original", "nota-only"),
        ),
        OFFICIAL,
        replace(ONE_WORD, default="\nAnswer with the letter of the right choice alone."),
    ),
    decoding=Decoding(max_new_tokens=128),
    load=load,
    ask=yes_no.ask,
    adopt=adopt,
    sampling=Sampling(strata=lambda item: (item.reference["type"], item.reference["label"])),
    score=score,
    summarise=summarise,
    read_score=ChoiceScore.from_json,
    is_scored=lambda one: one.reading is not None,
    is_readable=lambda one: read_choice(one.answer, choices_of(one.question)) is not None,
    unreadable="answers cannot be read as one of the choices",
    compare=compare,
    row=row,
    tables=tables,
    columns=(
        column("accuracy, all", "overall/accuracy"),
        *(replace(column(kind, f"{kind}/accuracy"), group=("types", kind)) for kind in TYPES),
        column("accuracy where E is right", "overall/none_accuracy"),
        replace(column("said E", "overall/none_ratio", lower_is_better=None), difference=None),
    ),
    curves=(column("HumbleBench accuracy", "overall/accuracy"),),
    count=lambda scores: int(scores["overall"]["n"]),
    reading='E is the choice "None of the above": a model that says it too often gains there and loses elsewhere.',
)
