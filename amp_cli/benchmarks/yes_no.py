"""Yes/no questions: all that benchmarks of such questions share."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import margins
from amp_cli.benchmarks.benchmark import OFFICIAL, ONE_WORD, ONE_WORD_ANSWERS, Benchmark, LoadedBenchmark, Option
from amp_cli.benchmarks.comparing import (
    METHOD,
    Difference,
    mcnemar_of,
    paired_differences,
    ratio,
    score_intervals,
)
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import Column, Given, Row, Table, column, shown, title_of, yes_no_reply
from amp_cli.benchmarks.yes_no_reading import read_official, read_strict
from amp_cli.records import Answer, BenchmarkItem, YesOrNo

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings

COUNTS = ("tp", "fp", "tn", "fn")


@dataclass(frozen=True, kw_only=True)
class YesNoScore:
    """One question's result. `reading` is None where the answer is no readable yes or no.

    `probabilities` are those of yes and no where the answer begins, None where they are not known.
    """

    id: str
    split: str
    images: tuple[str, ...]
    question: str
    answer: str
    label: bool
    reading: bool | None
    probabilities: YesOrNo | None = None

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None where it is unscored."""
        return None if self.reading is None else self.reading == self.label

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "id": self.id,
            "split": self.split,
            "images": list(self.images),
            "question": self.question,
            "answer": self.answer,
            "label": _word(self.label),
            "reading": None if self.reading is None else _word(self.reading),
            "correct": self.correct,
        }
        return record | margins.as_record(self.probabilities)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "YesNoScore":
        return cls(
            id=record["id"],
            split=record["split"],
            images=tuple(record["images"]),
            question=record["question"],
            answer=record["answer"],
            label=record["label"] == "yes",
            reading=None if record["reading"] is None else record["reading"] == "yes",
            probabilities=margins.of_record(record),
        )


def score(
    item: BenchmarkItem, answer: Answer, rule: str, *, official: Callable[[str], bool | None] = read_official
) -> YesNoScore:
    """Read one answer by the official or the strict rule."""
    text = answer.answers[0]
    return YesNoScore(
        id=item.id,
        split=item.reference["split"],
        images=item.images,
        question=item.questions[0],
        answer=text,
        label=item.reference["label"] == "yes",
        reading=official(text) if rule == "official" else read_strict(text, item.questions[0]),
        probabilities=margins.of_answer(answer),
    )


def summarise(scores: Sequence[YesNoScore], rule: str) -> dict[str, Any]:
    """Return counts, accuracy, precision, recall, F1 and yes ratio of each split and over all, with intervals."""
    splits = _splits_of(scores)
    units = image_counts(scores, splits)  # (images, splits * 4)
    intervals = score_intervals(units, lambda sums: all_scores(sums, splits))
    groups = {split: [one for one in scores if one.split == split] for split in splits} | {"overall": list(scores)}
    more = margins.measured(scores, groups)
    blocks = {
        group: margins.with_measures(_block(members, intervals, group), more.get(group))
        for group, members in groups.items()
    }
    overall = blocks.pop("overall")
    f1s = [blocks[split]["f1"] for split in splits]
    overall["mean_f1"] = None if None in f1s or not f1s else sum(f1s) / len(f1s)
    overall["ci95"]["mean_f1"] = intervals.get("overall/mean_f1")
    return {"splits": blocks, "overall": overall, "interval": METHOD} | margins.distribution_of(scores)


def _splits_of(scores: Sequence[YesNoScore]) -> list[str]:
    """Return the splits in the order of their files, which is that of the items."""
    return list(dict.fromkeys(one.split for one in scores))


def image_counts(scores: Sequence[YesNoScore], splits: Sequence[str]) -> "Array":
    """Return (images, splits * 4): how often each image's questions were tp, fp, tn, fn in each split."""
    import numpy as np

    images = {image: row for row, image in enumerate(dict.fromkeys(one.images for one in scores))}
    counts = np.zeros((len(images), len(splits) * len(COUNTS)))
    for one in scores:
        if outcome := _outcome(one):
            counts[images[one.images], splits.index(one.split) * len(COUNTS) + COUNTS.index(outcome)] += 1
    return counts


def rates(tp: Any, fp: Any, tn: Any, fn: Any) -> dict[str, Any]:
    """Return accuracy, precision, recall, f1 and yes ratio of (arrays of) counts; NaN where a ratio is undefined."""
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": precision,
        "recall": recall,
        "f1": ratio(2 * precision * recall, precision + recall),
        "yes_ratio": ratio(tp + fp, tp + fp + tn + fn),
    }


def all_scores(sums: "Array", splits: Sequence[str]) -> dict[str, "Array"]:
    """Name every score of every split and over all, from (resamples, splits * 4) sums."""
    by_split = sums.reshape(len(sums), len(splits), len(COUNTS))
    scores = {}
    for number, split in enumerate(splits):
        for name, values in rates(*by_split[:, number].T).items():
            scores[f"{split}/{name}"] = values
    for name, values in rates(*by_split.sum(axis=1).T).items():
        scores[f"overall/{name}"] = values
    scores["overall/mean_f1"] = sum(scores[f"{split}/f1"] for split in splits) / len(splits)
    return scores


def _block(scores: Sequence[YesNoScore], intervals: Mapping[str, list[float] | None], group: str) -> dict[str, Any]:
    """Return one split's object. Unparsed answers are in `n` and in no other number."""
    counts = Counter(_outcome(one) for one in scores)
    block: dict[str, Any] = {"n": len(scores), **{name: counts[name] for name in COUNTS}}
    measured = rates(*(counts[name] for name in COUNTS))
    block |= {name: None if value != value else float(value) for name, value in measured.items()}
    block["unparsed"] = counts[None]
    block["ci95"] = {name: intervals.get(f"{group}/{name}") for name in measured}
    return block


def _outcome(one: YesNoScore) -> str | None:
    if one.reading is None:
        return None
    return ("t" if one.reading == one.label else "f") + ("p" if one.reading else "n")


def _word(value: bool) -> str:
    return "yes" if value else "no"


def compare(pairs: Sequence[tuple[YesNoScore, YesNoScore]], rule: str) -> list[Difference]:
    """Compare accuracy and F1 of each split and over all."""
    splits = _splits_of([old for old, _ in pairs])
    differences = []
    paired = paired_differences(
        pairs, lambda scores: image_counts(scores, splits), lambda sums: all_scores(sums, splits)
    )
    for group, members in _groups_of(pairs).items():
        p_value = mcnemar_of(members)
        accuracy, f1 = paired[f"{group}/accuracy"], paired[f"{group}/f1"]
        differences += [replace(accuracy, n=len(members), p_value=p_value, test="mcnemar"), replace(f1, n=len(members))]
    return differences


def measure(pairs: Sequence[tuple[YesNoScore, YesNoScore]]) -> list[Difference]:
    """Compare the AUC of each split and over all, and what else the probabilities say over all."""
    return margins.measured_differences(
        pairs,
        {
            group: (members, margins.NAMES if group == "overall" else ("auc",))
            for group, members in _groups_of(pairs).items()
        },
    )


def _groups_of(
    pairs: Sequence[tuple[YesNoScore, YesNoScore]],
) -> dict[str, list[tuple[YesNoScore, YesNoScore]]]:
    """Return the pairs of each split, and all of them."""
    splits = _splits_of([old for old, _ in pairs])
    return {group: [pair for pair in pairs if group in (pair[0].split, "overall")] for group in (*splits, "overall")}


def row(first: YesNoScore, given: Given[YesNoScore]) -> Row:
    """Return a question with every run's answer: a line of a table."""
    return Row(
        images=first.images,
        question=first.question,
        truth=_word(first.label),
        note=first.split,
        replies=tuple(yes_no_reply(name, one.answer, one.correct) for name, one in given),
        differs=len({one.reading for _, one in given}) > 1,
        is_short=True,
    )


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return one table: a column for each split and for all questions."""
    blocks = {**scores["splits"], "overall": scores["overall"]}
    rows = [["questions", *(str(block["n"]) for block in blocks.values())]]
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        cells = [shown(block[name], block["ci95"].get(name)) for block in blocks.values()]
        rows.append([name.replace("_", " "), *cells])
    rows.append(["unparsed", *(str(block["unparsed"]) for block in blocks.values())])
    if "auc" in scores["overall"]:
        for name, called in margins.ROWS.items():
            rows.append(
                [called, *(shown(block.get(name), block["ci95"].get(name), name=name) for block in blocks.values())]
            )
    return [(title_of(scores), ["", *blocks], rows)]


def columns(splits: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of a report: accuracies, mean F1, how often the answer was yes, what probabilities say."""
    of_splits = (replace(column(split, f"{split}/accuracy"), group=("splits", split)) for split in splits)
    return (
        column("accuracy, all", "overall/accuracy"),
        *of_splits,
        replace(column("F1, mean of splits", "overall/mean_f1"), difference=None),
        replace(column("said yes", "overall/yes_ratio", lower_is_better=None), difference=None),
        *margins.columns_of("overall"),
    )


def ask(item: BenchmarkItem, settings: "EvalSettings") -> tuple[str, ...]:
    """Return the question with the prompt suffix, unless its text holds that already."""
    (question,) = item.questions
    suffix = settings.prompt_suffix
    return (question if suffix.strip() in question else question + suffix,)


def yes_no_benchmark(
    *,
    name: str,
    title: str,
    help: str,
    options: Sequence[Option],
    splits: Sequence[str],
    files: tuple[str, ...],
    load: Callable[[Path, "EvalSettings"], LoadedBenchmark],
    adopt: Callable[[Path, Sequence[BenchmarkItem], Path, "EvalSettings"], dict[str, Answer]],
    official: Callable[[str], bool | None] = read_official,
    suffix: str | None = None,
    rule: Option = OFFICIAL,
    **others: Any,
) -> Benchmark[YesNoScore]:
    """Return a benchmark of yes/no questions: items whose reference holds a `split` and a `label`, yes or no.

    Args:
        options: its own; rule and prompt suffix come with every one.
        official: how its own script reads an answer.
        rule: the rules by which answers can be read; `score` must know them.
        suffix: what stands after each question by default; None is the usual request for one word.
        others: more fields of Benchmark, or others than here.
    """
    shared: dict[str, Any] = {
        "decoding": ONE_WORD_ANSWERS,
        "score": partial(score, official=official),
        "summarise": summarise,
        "is_scored": lambda one: one.reading is not None,
        "is_readable": lambda one: read_strict(one.answer, one.question) is not None,
        "compare": compare,
        "measure": measure,
        "tables": tables,
        "sampling": Sampling(strata=lambda item: (item.reference["split"], item.reference["label"])),
        "columns": columns(splits),
        "count": lambda scores: int(scores["overall"]["n"]),
    }
    return Benchmark(
        name=name,
        title=title,
        help=help,
        options=(*options, rule, ONE_WORD if suffix is None else replace(ONE_WORD, default=suffix)),
        files=files,
        load=load,
        ask=ask,
        is_yes_no=lambda item: True,
        adopt=adopt,
        read_score=YesNoScore.from_json,
        unreadable="answers cannot be read as yes or no",
        row=row,
        about=margins.about,
        explain=partial(margins.explanation, group="overall"),
        **shared | others,
    )
