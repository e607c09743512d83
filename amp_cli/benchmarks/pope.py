"""POPE: is an object in the picture, yes or no? Three splits, by how the absent objects were chosen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.answers import check_complete, own_answers, records_of
from amp_cli.benchmarks.intervals import METHOD, ratio, score_intervals
from amp_cli.benchmarks.pope_files import (
    label_file,
    labelled_items,
    of_first_pictures,
    questions_by_id,
    upstream_answers,
)
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.benchmarks.yes_no import read_official, read_strict
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array

SPLITS = ("random", "popular", "adversarial")
COUNTS = ("tp", "fp", "tn", "fn")
VERSIONS = {
    2910: "2,910 random questions (8,910 in all; the one LLaVA links)",
    3000: "3,000 random questions (9,000 in all)",
}


@dataclass(frozen=True, kw_only=True)
class PopeScore:
    """One question's result. `reading` is None where the answer is no readable yes or no."""

    id: str
    split: str
    images: tuple[str, ...]
    question: str
    answer: str
    label: bool
    reading: bool | None

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None where it is unscored."""
        return None if self.reading is None else self.reading == self.label

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "split": self.split,
            "images": list(self.images),
            "question": self.question,
            "answer": self.answer,
            "label": _word(self.label),
            "reading": None if self.reading is None else _word(self.reading),
            "correct": self.correct,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "PopeScore":
        return cls(
            id=record["id"],
            split=record["split"],
            images=tuple(record["images"]),
            question=record["question"],
            answer=record["answer"],
            label=record["label"] == "yes",
            reading=None if record["reading"] is None else record["reading"] == "yes",
        )


def load(data: Path, settings: EvalSettings) -> LoadedBenchmark:
    """Read the label files `coco_pope_{random,popular,adversarial}.json`, wherever they lie below `data`."""
    files = {split: file for split in SPLITS if (file := label_file(data, split))}
    if not files:
        raise AmpError(
            f"No coco_pope_random.json, coco_pope_popular.json or coco_pope_adversarial.json below '{data}'",
            hint="Give --data the folder with POPE's label files (output/coco of its repository)",
        )
    items: list[BenchmarkItem] = []
    for split, file in files.items():
        items += labelled_items(file, split)
    if settings.limit is not None:
        items = of_first_pictures(items, settings.limit)
    counts = Counter(str(item.reference["split"]) for item in items)
    version = VERSIONS.get(counts["random"], "another size") if "random" in counts else "without the random split"
    if settings.limit is not None:
        version = f"the questions about {settings.limit:,} pictures"
    absent = [split for split in SPLITS if split not in files]
    return LoadedBenchmark(
        items=tuple(items),
        files=tuple(files.values()),
        facts={"data_version": version, "questions": dict(counts)},
        warnings=(f"No label file of the split(s) {', '.join(absent)}: `overall` is over the others",)
        if absent
        else (),
    )


def ask(item: BenchmarkItem, settings: EvalSettings) -> tuple[str, ...]:
    """Return the question with the prompt suffix, unless its text ends with that already."""
    (question,) = item.questions
    suffix = settings.prompt_suffix
    return (question if suffix.strip() in question else question + suffix,)


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings) -> dict[str, Answer]:
    """Read our own answers, or upstream's `question_id` + `text` by way of a questions file."""
    records = records_of(path)
    if all("answers" in record for record in records):
        answers = own_answers(records, path)
    else:
        answers = upstream_answers(records, items, questions_by_id(data, settings.questions), path)
    check_complete(items, answers, path)
    return answers


def score(item: BenchmarkItem, answer: Answer, rule: str) -> PopeScore:
    """Read one answer by the official or the strict rule."""
    text = answer.answers[0]
    return PopeScore(
        id=item.id,
        split=item.reference["split"],
        images=item.images,
        question=item.questions[0],
        answer=text,
        label=item.reference["label"] == "yes",
        reading=read_official(text) if rule == "official" else read_strict(text),
    )


def summarise(scores: Sequence[PopeScore], rule: str) -> dict[str, Any]:
    """Return counts, accuracy, precision, recall, F1 and yes ratio of each split and over all, with intervals."""
    splits = [split for split in SPLITS if any(one.split == split for one in scores)]
    units = image_counts(scores, splits)  # (images, splits * 4)
    intervals = score_intervals(units, lambda sums: all_scores(sums, splits))
    summary: dict[str, Any] = {}
    for split in splits:
        summary[split] = _block([one for one in scores if one.split == split], intervals, split)
    overall = _block(scores, intervals, "overall")
    f1s = [summary[split]["f1"] for split in splits]
    overall["mean_f1"] = None if None in f1s or not f1s else sum(f1s) / len(f1s)
    overall["ci95"]["mean_f1"] = intervals.get("overall/mean_f1")
    return {"benchmark": "pope", "rule": rule, "splits": summary, "overall": overall, "interval": METHOD}


def image_counts(scores: Sequence[PopeScore], splits: Sequence[str]) -> "Array":
    """Return (images, splits * 4): how often each picture's questions were tp, fp, tn, fn in each split."""
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


def _block(scores: Sequence[PopeScore], intervals: Mapping[str, list[float] | None], group: str) -> dict[str, Any]:
    """Return one split's object. Unparsed answers are in `n` and in no other number."""
    counts = Counter(_outcome(one) for one in scores)
    block: dict[str, Any] = {"n": len(scores), **{name: counts[name] for name in COUNTS}}
    measured = rates(*(counts[name] for name in COUNTS))
    block |= {name: None if value != value else float(value) for name, value in measured.items()}
    block["unparsed"] = counts[None]
    block["ci95"] = {name: intervals.get(f"{group}/{name}") for name in measured}
    return block


def _outcome(one: PopeScore) -> str | None:
    if one.reading is None:
        return None
    return ("t" if one.reading == one.label else "f") + ("p" if one.reading else "n")


def _word(value: bool) -> str:
    return "yes" if value else "no"
