"""POPE: is an object in the image, yes or no? Three splits, by how the absent objects were chosen."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.files import add_answer, check_complete, own_answers, records_of
from amp_cli.benchmarks.intervals import METHOD, ratio, score_intervals
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.benchmarks.yes_no import read_official, read_strict
from amp_cli.disk.jsonl import read_json_records
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
        items = of_first_images(items, settings.limit)
    counts = Counter(str(item.reference["split"]) for item in items)
    version = VERSIONS.get(counts["random"], "another size") if "random" in counts else "without the random split"
    if settings.limit is not None:
        version = f"the questions about {settings.limit:,} images"
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


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A line of a questions file: which split's question about which image a `question_id` stands for."""

    split: str
    key: str
    item_id: str


def label_file(data: Path, split: str) -> Path | None:
    name = f"coco_pope_{split}.json"
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint="Give --data the folder with POPE's label files")
    found = sorted(data.rglob(name))
    if len({file.read_bytes() for file in found}) > 1:
        listed = ", ".join(f"'{file}'" for file in found)
        raise AmpError(
            f"{len(found)} different {name} below '{data}': {listed}", hint="Point --data at one of their folders"
        )
    return found[0] if found else None


def labelled_items(file: Path, split: str) -> list[BenchmarkItem]:
    """Return a split's items. Their ids come from their content, so that they outlive another order of the file."""
    items: list[BenchmarkItem] = []
    labels: dict[tuple[str, str], str] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for number, record in enumerate(records_of(file), start=1):
        lacking = [name for name in ("image", "text", "label") if not isinstance(record.get(name), str)]
        label = str(record.get("label", "")).strip().lower()
        if lacking or label not in ("yes", "no"):
            wrong = f"no text in {', '.join(lacking)}" if lacking else f"the label is '{label}', not yes or no"
            raise AmpError(f"'{file}', record {number}: {wrong}")
        content = (record["image"], question_key(record["text"]))
        if labels.setdefault(content, label) != label:
            raise AmpError(f"'{file}' labels {record['text']!r} for '{record['image']}' both yes and no")
        seen[content] += 1
        items.append(
            BenchmarkItem(
                id=_item_id(split, *content, seen[content]),
                images=(record["image"],),
                questions=(record["text"],),
                reference={"split": split, "label": label},
            )
        )
    return items


def of_first_images(items: Sequence[BenchmarkItem], limit: int) -> list[BenchmarkItem]:
    """Return all questions, in every split, about `limit` images: those whose names' SHA-256 come first."""
    different = {item.images for item in items}
    first = sorted(different, key=lambda images: hashlib.sha256("\n".join(images).encode()).digest())[:limit]
    kept = set(first)
    return [item for item in items if item.images in kept]


def question_key(text: str) -> str:
    """Return what makes a question the same one.

    Without an instruction line below it, without an image tag, with single blanks, and with the "imange" of one data
    version read as "image".
    """
    first = next((line for line in text.replace("<image>", "").splitlines() if line.strip()), "")
    return re.sub(r"\s+", " ", first).strip().lower().replace("imange", "image")


def _item_id(split: str, image: str, key: str, occurrence: int) -> str:
    digest = hashlib.sha256(f"{image}\n{key}".encode()).hexdigest()[:8]
    item_id = f"{split}-{PurePosixPath(image).stem}-{digest}"
    return item_id if occurrence == 1 else f"{item_id}-{occurrence}"


def upstream_answers(
    records: Sequence[Mapping[str, Any]],
    items: Sequence[BenchmarkItem],
    questions: Mapping[Any, AskedQuestion],
    path: Path,
) -> dict[str, Answer]:
    """Join `question_id` to a question, and the question's (split, image, text) to an item.

    Answers to splits that no label file holds are left aside.
    """
    splits = {item.reference["split"] for item in items}
    texts: dict[Any, str] = {}
    answers: dict[str, Answer] = {}
    strangers: list[Any] = []
    mismatched: list[Any] = []
    for record in records:
        if "question_id" not in record or not isinstance(record.get("text"), str):
            raise AmpError(f"'{path}' holds a record without `question_id` and `text`: {dict(record)!r:.120}")
        number, text = record["question_id"], record["text"]
        if texts.setdefault(number, text) != text:
            raise AmpError(f"'{path}' answers question_id {number} twice: {texts[number]!r:.60} and {text!r:.60}")
        question = questions.get(number)
        if question is None:
            strangers.append(number)
        elif record.get("prompt") and question.key not in question_keys(record["prompt"]):
            mismatched.append(number)
        elif question.split in splits:
            add_answer(answers, Answer(id=question.item_id, answers=(text,)), path)
    _refuse_misaligned(path, records, strangers, mismatched)
    return answers


def _refuse_misaligned(
    path: Path, records: Sequence[object], strangers: Sequence[Any], mismatched: Sequence[Any]
) -> None:
    hint = "Give --questions the file that was asked (question_id, image, text, category)"
    if strangers:
        raise AmpError(
            f"{len(strangers):,} of {len(records):,} answers in '{path}' have a question_id that no question has, "
            f"first {strangers[0]}",
            hint=hint,
        )
    if mismatched:
        raise AmpError(
            f"{len(mismatched):,} of {len(records):,} answers in '{path}' carry the prompt of another question, "
            f"first question_id {mismatched[0]}",
            hint=hint,
        )


def question_keys(prompt: str) -> set[str]:
    """Return the keys of a prompt's lines: a question may stand under an image tag or above an instruction."""
    return {question_key(line) for line in prompt.splitlines()} | {question_key(prompt)}


def questions_by_id(data: Path, questions: Path | None) -> dict[Any, AskedQuestion]:
    """Read the questions file, given or found below `data`; the same id for two questions is refused."""
    file = questions or _questions_file(data)
    asked: dict[Any, AskedQuestion] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for number, record in enumerate(records_of(file), start=1):
        if not _is_question(record):
            raise AmpError(f"'{file}', record {number}: no question_id, image, text and category in it")
        content = (str(record["category"]), str(record["image"]), question_key(str(record["text"])))
        if record["question_id"] in asked:
            raise AmpError(f"'{file}' has the question_id {record['question_id']} twice")
        seen[content] += 1
        asked[record["question_id"]] = AskedQuestion(
            split=content[0], key=content[2], item_id=_item_id(*content, seen[content])
        )
    return asked


def _questions_file(data: Path) -> Path:
    found = []
    for file in sorted(data.rglob("*.jsonl")):
        first = next((record for _, record, _ in read_json_records(file)), None) if file.stat().st_size else None
        if first is not None and _is_question(first):
            found.append(file)
    if len(found) != 1:
        listed = ", ".join(f"'{file}'" for file in found) or "none"
        raise AmpError(
            f"The answers are known by question_id only; one file with question_id, image, text and category is needed "
            f"below '{data}', found: {listed}",
            hint="Give --questions FILE, for example llava_pope_test.jsonl",
        )
    return found[0]


def _is_question(record: Mapping[str, Any]) -> bool:
    return all(name in record for name in ("question_id", "image", "text", "category"))
