"""POPE: is an object in the image, yes or no? Three splits, by how the absent objects were chosen."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.benchmark import LoadedBenchmark, Option
from amp_cli.benchmarks.files import add_answer, own_answers, records_of
from amp_cli.benchmarks.showing import column
from amp_cli.benchmarks.yes_no import yes_no_benchmark
from amp_cli.disk.entries import read_entries
from amp_cli.disk.jsonl import content_hash
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings

SPLITS = ("random", "popular", "adversarial")
VERSIONS = {
    2910: "2,910 random questions (8,910 in all; the one LLaVA links)",
    3000: "3,000 random questions (9,000 in all)",
}
QUESTIONS = Option(
    name="questions", help="JSONL with question_id, image, text, category (default: found below --data)."
)
LIMIT = Option(name="limit", help="Ask about so many images only, always the same.")


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read the label files `coco_pope_{random,popular,adversarial}.json`, wherever they lie below `data`."""
    loaded = load_splits(data, settings, "coco_pope", "POPE's label files (output/coco of its repository)")
    questions = loaded.facts["questions"]
    version = VERSIONS.get(questions["random"], "another size") if "random" in questions else "without the random split"
    if settings.limit is not None:
        version = f"the questions about {settings.limit:,} images"
    return replace(loaded, facts={"data_version": version, **loaded.facts})


def load_splits(data: Path, settings: "EvalSettings", stem: str, what: str) -> LoadedBenchmark:
    """Read the label files `STEM_{random,popular,adversarial}.json`; those that are absent are named in a warning.

    Args:
        what: what they are, and where they come from, for the hint.
    """
    hint = f"Give --data the folder with {what}"
    files = {split: file for split in SPLITS if (file := label_file(data, f"{stem}_{split}.json", hint))}
    if not files:
        names = [f"{stem}_{split}.json" for split in SPLITS]
        raise AmpError(f"No {', '.join(names[:-1])} or {names[-1]} below '{data}'", hint=hint)
    items = [item for split, file in files.items() for item in labelled_items(file, split)]
    if settings.limit is not None:
        items = of_first_images(items, settings.limit)
    absent = [split for split in SPLITS if split not in files]
    return LoadedBenchmark(
        items=tuple(items),
        files=tuple(files.values()),
        facts={"questions": dict(Counter(str(item.reference["split"]) for item in items))},
        warnings=(f"No label file of the split(s) {', '.join(absent)}: `overall` is over the others",)
        if absent
        else (),
    )


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or upstream's `question_id` + `text` by way of a questions file."""
    records = records_of(path)
    if all("answers" in record for record in records):
        return own_answers(records, path)
    return upstream_answers(records, items, questions_by_id(data, settings.questions), path)


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A line of a questions file: which split's question about which image a `question_id` stands for."""

    split: str
    key: str
    item_id: str


def label_file(data: Path, name: str, hint: str) -> Path | None:
    """Return the one file of that name at or below `data`; None where there is none.

    Raises:
        AmpError: there is no such folder, or there are several such files with different content.
    """
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint=hint)
    found = sorted(data.rglob(name))
    if len({content_hash(file) for file in found}) > 1:
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
            raise AmpError(f"'{file}', record {number}: {wrong}", hint="Correct or remove that record, then run again")
        content = (record["image"], question_key(record["text"]))
        if labels.setdefault(content, label) != label:
            raise AmpError(
                f"'{file}' labels {record['text']!r} for '{record['image']}' both yes and no",
                hint="Keep the right one of the two lines",
            )
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
            raise AmpError(
                f"'{path}' holds a record without `question_id` and `text`: {dict(record)!r:.120}",
                hint="Correct or remove that record, then run again",
            )
        number, text = record["question_id"], record["text"]
        if texts.setdefault(number, text) != text:
            raise AmpError(
                f"'{path}' answers question_id {number} twice: {texts[number]!r:.60} and {text!r:.60}",
                hint="Keep one of the two lines",
            )
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
            raise AmpError(
                f"'{file}', record {number}: no question_id, image, text and category in it",
                hint="Correct or remove that record, then run again",
            )
        content = (str(record["category"]), str(record["image"]), question_key(str(record["text"])))
        if record["question_id"] in asked:
            raise AmpError(
                f"'{file}' has the question_id {record['question_id']} twice", hint="Keep one of the two lines"
            )
        seen[content] += 1
        asked[record["question_id"]] = AskedQuestion(
            split=content[0], key=content[2], item_id=_item_id(*content, seen[content])
        )
    return asked


def _questions_file(data: Path) -> Path:
    found = []
    for file in sorted(data.rglob("*.jsonl")):
        first = next((record for _, record, _ in read_entries(file)), None) if file.stat().st_size else None
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


BENCHMARK = yes_no_benchmark(
    name="pope",
    title="POPE: is the object there? (accuracy)",
    help="""Ask POPE's yes/no questions about objects and score accuracy, F1 and yes ratio of each split.

    Example: amp eval pope --model 7b --data POPE/output/coco --image-root val2014 --out runs/base-pope
    """,
    options=(
        Option(name="data", help="Folder with coco_pope_{random,popular,adversarial}.json."),
        QUESTIONS,
        LIMIT,
    ),
    splits=SPLITS,
    files=("coco_pope_*.json",),
    load=load,
    adopt=adopt,
    curves=(column("POPE accuracy", "overall/accuracy"),),
)
