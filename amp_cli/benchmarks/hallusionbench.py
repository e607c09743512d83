"""HallusionBench: yes/no questions on figures and altered figures, accuracy by question, figure and pair.

One set: two figures (0 as found, 1 altered), each asked questions 0 and 1; "+" is right, "-" wrong.

                  question 0   question 1
    figure 0          +            +         the figure is right: every question on it is
    figure 1          +            -         the figure is wrong
                      ^            ^
                 the pair is    the pair       aAcc 3/4, fAcc 1/2, qAcc 1/2
                 right          is wrong

arXiv 2310.14566; counted as `utils.py` of its repository does. Sets are drawn for the intervals: the questions, figures
and pairs of one are not independent.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import yes_no
from amp_cli.benchmarks.answer_text import EDGES
from amp_cli.benchmarks.benchmark import LoadedBenchmark, Option, rule_option
from amp_cli.benchmarks.comparing import METHOD, Difference, mcnemar_of, paired_differences, ratio, score_intervals
from amp_cli.benchmarks.files import (
    add_answer,
    own_answers,
    records_of,
    text_field,
)
from amp_cli.benchmarks.pope import label_file
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import Column, Table, column, shown, title_of
from amp_cli.benchmarks.yes_no import YesNoScore, yes_no_benchmark
from amp_cli.benchmarks.yes_no_reading import read_strict, read_words
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings

FILE = "HallusionBench.json"
PARTS = {"image": "questions with a figure", "all": "questions with and without a figure"}
CATEGORIES = ("VD", "VS")
"""Visual dependent: no answer without the figure. Visual supplement: the first questions of a set come without one."""
SCORES = ("aAcc", "fAcc", "qAcc", "easy", "hard")
"""Accuracy by question, figure and question pair; and by pair, of the questions on figures as found and altered."""
_HINT = f"Give --data the folder with {FILE} of HallusionBench's repository, or run `amp download hallusionbench` first"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a question stands: its id is the name that the official script gives it, with easy or hard behind."""

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    level: str

    @classmethod
    def of(cls, item_id: str) -> "Place":
        """Return the place that an id names.

        Raises:
            ValueError: it is not an id of HallusionBench.
        """
        category, subcategory, set_id, figure_id, question_id, level = item_id.split("_")
        return cls(
            category=category,
            subcategory=subcategory,
            set_id=set_id,
            figure_id=figure_id,
            question_id=question_id,
            level=level,
        )

    @property
    def set(self) -> tuple[str, ...]:
        return self.category, self.subcategory, self.set_id

    @property
    def figure(self) -> tuple[str, ...] | None:
        """The figure; None where the question comes without one."""
        return None if self.has_none else (*self.set, self.figure_id)

    @property
    def pair(self) -> tuple[str, ...]:
        """The same question on every figure of its set."""
        return *self.set, self.question_id

    @property
    def has_none(self) -> bool:
        return self.category == "VS" and self.figure_id == "0"


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read `HallusionBench.json`, wherever it lies below `data`; `image` leaves out the questions without a figure."""
    file = label_file(data, FILE, _HINT)
    if file is None:
        raise AmpError(f"No {FILE} below '{data}'", hint=_HINT)
    items = [_item(record, f"'{file}', record {number},") for number, record in enumerate(records_of(file), start=1)]
    if settings.part == "image":
        items = [item for item in items if item.images]
    if twice := [item_id for item_id, count in Counter(item.id for item in items).items() if count > 1]:
        raise AmpError(f"'{file}' asks '{twice[0]}' twice", hint="Keep one of the two records")
    figures = {figure for item in items if (figure := Place.of(item.id).figure)}
    return LoadedBenchmark(
        items=tuple(items),
        files=(file,),
        facts={"questions": len(items), "figures": len(figures), "part": settings.part},
    )


def _item(record: Mapping[str, Any], where: str) -> BenchmarkItem:
    label, visual = text_field(record, "gt_answer", where), text_field(record, "visual_input", where)
    if label not in ("0", "1") or visual not in ("0", "1", "2"):
        raise AmpError(
            f"{where} has the gt_answer {label!r:.40} and the visual_input {visual!r:.40}",
            hint="A gt_answer is 0 or 1, a visual_input 0, 1 or 2",
        )
    item_id = f"{name_of(record, where)}_{'hard' if visual == '2' else 'easy'}"
    file = record.get("filename")
    if (visual == "0") != (file is None):
        raise AmpError(
            f"{where} has the visual_input {visual} and the filename {file!r:.60}",
            hint="A visual_input 0 goes without a figure, 1 and 2 with one",
        )
    return BenchmarkItem(
        id=item_id,
        images=(str(file).removeprefix("./").removeprefix("hallusion_bench/"),) if file else (),
        questions=(text_field(record, "question", where),),
        reference={
            "split": item_id.split("_")[0],
            "label": "yes" if label == "1" else "no",
            "answers": [text_field(record, "gt_answer_details", where)],
        },
    )


_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")


def name_of(record: Mapping[str, Any], where: str) -> str:
    """Return the name that the official script gives a question: an id without easy or hard."""
    values = ["" if record.get(key) is None else str(record[key]).strip() for key in _KEYS]
    if values[0] not in CATEGORIES or not all(re.fullmatch(r"[A-Za-z0-9-]+", value) for value in values):
        raise AmpError(f"{where} lacks one of {', '.join(_KEYS)}", hint=_HINT)
    return "_".join(values)


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or HallusionBench's own list with `model_prediction`."""
    records = records_of(path)
    if all("answers" in record for record in records):
        return own_answers(records, path)
    ids = {item.id.rpartition("_")[0]: item.id for item in items}
    answers: dict[str, Answer] = {}
    for number, record in enumerate(records, start=1):
        where = f"'{path}', record {number},"
        name = name_of(record, where)
        if settings.part == "image" and str(record.get("visual_input")) == "0":
            continue
        said = record.get("model_prediction")
        text = str(said) if type(said) is int else text_field(record, "model_prediction", where)
        add_answer(answers, Answer(id=ids.get(name, name), answers=(text,)), path)
    return answers


def score(item: BenchmarkItem, answer: Answer, rule: str) -> YesNoScore:
    """Read one answer; under `vlmevalkit`, one with neither or both of the words yes and no is wrong."""
    if rule == "strict":
        return replace(yes_no.score(item, answer, rule), reading=read(answer.answers[0], item.questions[0]))
    found = yes_no.score(item, answer, "official", official=read_words)
    return replace(found, reading=not found.label) if found.reading is None else found


def read(text: str, question: str) -> bool | None:
    """Return True for yes, False for no, None for neither; 1 and 0 are what the official script asks models for."""
    return {"1": True, "0": False}.get(text.strip(EDGES), read_strict(text, question))


Outcome = tuple[str, bool | None]
"""A question's id, and whether its answer is right; None where that is not known."""


def set_counts(outcomes: Sequence[Outcome]) -> "Array":
    """Return (sets, categories * scores * 2): of each set how many questions, figures and pairs are right, and known.

    A figure or pair is right if every answer on it is, and wrong if one is wrong, whatever is not known.
    """
    import numpy as np

    sets: dict[tuple[str, ...], int] = {}
    places = [Place.of(item_id) for item_id, _ in outcomes]
    for place in places:
        sets.setdefault(place.set, len(sets))
    counts = np.zeros((len(sets), len(CATEGORIES), len(SCORES), 2))
    groups: dict[tuple[Any, ...], list[bool | None]] = {}
    for place, (item_id, is_right) in zip(places, outcomes, strict=True):
        where = (sets[place.set], CATEGORIES.index(place.category))
        of_levels = ("easy", "hard").index(place.level) + 3
        for number, key in ((0, item_id), (1, place.figure), (2, place.pair), (of_levels, place.pair)):
            if key is not None:
                groups.setdefault((*where, number, key), []).append(is_right)
    for (row, category, number, _), members in groups.items():
        if False in members or None not in members:
            counts[row, category, number] += (False not in members, 1)
    return counts.reshape(len(sets), -1)


def rates(sums: "Array") -> dict[str, "Array"]:
    """Name every accuracy, over all and by category, from (draws, categories * scores * 2) sums."""
    by_category = sums.reshape(len(sums), len(CATEGORIES), len(SCORES), 2)
    groups = {"": by_category.sum(axis=1)}
    groups |= {f"{name}/": by_category[:, number] for number, name in enumerate(CATEGORIES)}
    return {
        f"{group}{name}": ratio(*counts[:, number].T)
        for group, counts in groups.items()
        for number, name in enumerate(SCORES)
    }


def accuracies(units: "Array") -> dict[str, Any]:
    """Return the accuracies over all and by category, each with its interval, of (sets, ...) counts."""
    values = {name: float(value[0]) for name, value in rates(units.sum(axis=0, keepdims=True)).items()}
    bounds = score_intervals(units, rates)

    def block(group: str) -> dict[str, Any]:
        named = {name: values[f"{group}{name}"] for name in SCORES}
        found: dict[str, Any] = {name: None if value != value else value for name, value in named.items()}
        return found | {"ci95": {name: bounds.get(f"{group}{name}") for name in SCORES}}

    return {
        **block(""),
        "categories": {name: block(f"{name}/") for name in CATEGORIES},
        "interval": METHOD | {"unit": "set of figures"},
    }


def summarise(scores: Sequence[YesNoScore], rule: str) -> dict[str, Any]:
    """Return HallusionBench's accuracies, and what yes/no questions are scored by."""
    summary = yes_no.summarise(scores, rule)
    return {**summary, **accuracies(set_counts([(one.id, one.correct) for one in scores]))}


def compare(pairs: Sequence[tuple[YesNoScore, YesNoScore]], rule: str) -> list[Difference]:
    """Compare the accuracies, over what both runs have an answer to that can be read."""
    both = readable(pairs)
    if not both:
        raise ValueError("not one answer can be read in both")
    alike = [
        (old, new) if old.reading is not None and new.reading is not None else (unread(old), unread(new))
        for old, new in pairs
    ]
    paired = paired_differences(alike, lambda scores: set_counts([(one.id, one.correct) for one in scores]), rates)
    p_value = mcnemar_of(both)
    paired["aAcc"] = replace(paired["aAcc"], n=len(both), p_value=p_value, test="mcnemar")
    return [*(paired[name] for name in SCORES), *yes_no.compare(both, rule)]


def readable(pairs: Sequence[tuple[YesNoScore, YesNoScore]]) -> list[tuple[YesNoScore, YesNoScore]]:
    """Return the pairs whose answers can both be read."""
    return [pair for pair in pairs if all(one.reading is not None for one in pair)]


def unread(one: YesNoScore) -> YesNoScore:
    """Return a result as that of an answer that cannot be read."""
    return replace(one, reading=None)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return the table of accuracies, and where answers are read here that of yes/no questions."""
    blocks = {"all": scores, **scores["categories"]}
    rows = [[name, *(shown(block[name], block["ci95"].get(name)) for block in blocks.values())] for name in SCORES]
    shown_tables: list[Table] = [(title_of(scores), ["", *blocks], rows)]
    if "splits" in scores:
        shown_tables += yes_no.tables(scores)
    return shown_tables


COLUMNS: tuple[Column, ...] = (
    column("aAcc, by question", "aAcc"),
    column("fAcc, by figure", "fAcc"),
    column("qAcc, by question pair", "qAcc"),
    column("easy", "easy"),
    column("hard", "hard"),
)
DATA = (
    Option(name="data", help=f"Folder with {FILE} and its figures (VD, VS)."),
    Option(name="part", help="Which of its questions.", default="image", choices=tuple(PARTS)),
)
SAMPLING = Sampling(
    whole=lambda item: "_".join(Place.of(item.id).set), strata=lambda item: tuple(item.id.split("_")[:2])
)
"""A set stays whole, and so do its figures and question pairs."""
READING = (
    "aAcc counts questions, fAcc figures on which every question is right, qAcc questions that are right on every "
    "figure of their set; easy and hard are qAcc among figures as found and altered ones."
)

BENCHMARK = yes_no_benchmark(
    name="hallusionbench",
    title="HallusionBench: figures and altered figures (accuracies)",
    help="""Ask HallusionBench's yes/no questions and score them by question, figure and question pair; no judge.

    Its own script has a judge read the answers: that is `amp eval hallusionbench-judged`. Without one, --rule
    vlmevalkit counts as VLMEvalKit's exact matching does.

    Example: amp eval hallusionbench --model 7b --data HallusionBench --out runs/base-hallusion
    """,
    options=DATA,
    rule=rule_option(
        "strict", "vlmevalkit", help="vlmevalkit looks for the words yes and no; strict leaves out and counts."
    ),
    splits=CATEGORIES,
    suffix="",
    decoding=Decoding(max_new_tokens=128),
    files=(FILE,),
    load=load,
    sampling=SAMPLING,
    adopt=adopt,
    score=score,
    summarise=summarise,
    is_scored=lambda one: True,
    is_readable=lambda one: read(one.answer, one.question) is not None,
    curves=(column("HallusionBench aAcc", "aAcc"),),
    compare=compare,
    measure=lambda pairs: yes_no.measure(readable(pairs)),
    tables=tables,
    columns=(*COLUMNS, *(one for one in yes_no.columns(()) if one.name not in ("accuracy", "mean_f1"))),
    reading=READING,
)
