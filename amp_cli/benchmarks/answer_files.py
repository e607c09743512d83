"""Reads answer files in the layouts in which they are published; each benchmark joins them to its own items.

{"id": "random-...", "answers": ["Yes"]}                                     our own
{"question_id": 1, "image": ..., "prompt": "Is there ...?", "text": "Yes"}   LLaVA's, for any benchmark
{"question": "Is there ...?", "answer": "yes"}                               POPE's own
{"id": 1, "response": "Yes"}                                                 AMBER's
{"question_id": 1, "question": "What ...?\\nA. ...", "prediction": "B"}       HumbleBench's
{"image_id": 42, "caption": "A dog."}                                        CHAIR's, in `imgToEval` too
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.files import add_answer, own_answers, records_of
from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.parsing import read_json
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings

ANSWERS = "answers.jsonl"
"""Our own, in the folder of a run."""
TEXTS = ("answer", "response", "prediction", "caption", "text")
"""Where the answer stands. The first that is there: beside one of the others, `text` is the question."""
QUESTIONS = ("prompt", "question", "query", "text")
IMAGES = ("image", "image_id", "image_file")
LAYOUTS = (
    "It takes records with `question_id` and `text`, `question` and `answer`, `id` and `response`, or `image_id` and "
    "`caption`"
)


@dataclass(frozen=True, kw_only=True)
class GivenAnswer:
    """One answer, and what its record says of the question: each None where it says nothing.

    Attributes:
        where: the record, for messages.
        number: its `question_id` or `id`, as text.
        image: its image's name or number.
        question: its question as it was asked, instructions included.
        category: the split or category that it says it belongs to.
    """

    where: str
    text: str
    number: str | None
    image: str | None
    question: str | None
    category: str | None


def read_answers(path: Path, join: Callable[[Sequence[GivenAnswer]], dict[str, Answer]]) -> dict[str, Answer]:
    """Return item id -> answer: of our own records by their ids, of others' as `join` finds the items.

    Raises:
        AmpError: a record holds no answer, or two answers to one question differ.
    """
    records = _records(path)
    if all("answers" in record for record in records):
        return own_answers(records, path)
    return join([_given(record, f"'{path}', record {number}") for number, record in enumerate(records, start=1)])


def given_on_disk(settings: "EvalSettings") -> dict[str, Answer] | None:
    """Return the answers in `out` that are scored again, if they came from a file; None where a model gave them."""
    if settings.only != "score" or Run.read(settings.out).settings.get("answers") is None:
        return None
    return {record["id"]: Answer.from_json(record) for record in RecordLog(settings.out / ANSWERS).read()}


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a list or of lines, whatever the file is called, or of the object that CHAIR's takes."""
    captions = _evaluated(path)
    return records_of(path) if captions is None else captions


def _evaluated(path: Path) -> list[dict[str, Any]] | None:
    """Return the records within `imgToEval`, the images by name; None where the file is not one object of that kind."""
    if path.suffix != ".json":
        return None
    try:
        whole = read_json(path)
    except AmpError:  # lines, or nothing that can be read: `records_of` says what
        return None
    if not isinstance(whole, dict) or not isinstance(captions := whole.get("imgToEval"), dict):
        return None
    return [{"image_id": image, **record} for image, record in captions.items() if isinstance(record, Mapping)]


def _given(record: Mapping[str, Any], where: str) -> GivenAnswer:
    held = next((name for name in TEXTS if isinstance(record.get(name), str)), None)
    if held is None:
        raise AmpError(f"{where}: no text of an answer in it: {dict(record)!r:.120}", hint=LAYOUTS)
    asked = (record[name] for name in QUESTIONS if name != held and isinstance(record.get(name), str))
    return GivenAnswer(
        where=where,
        text=record[held],
        number=_named(record, ("question_id", "id")),
        image=_named(record, IMAGES),
        question=next(asked, None),
        category=_named(record, ("category", "split")),
    )


def _named(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    found = (record[name] for name in names if isinstance(record.get(name), str | int))
    return next((str(value) for value in found), None)


_PREFIX = re.compile(r"^COCO_(?:train|val|test)20\d\d_")


def image_key(name: str) -> str:
    """Return what makes an image the same one, however it is named: `val2014/COCO_val2014_000000000042.jpg`, 42."""
    bare = _PREFIX.sub("", PurePosixPath(name.strip()).name)
    stem = re.sub(r"\.(?:jpe?g|png|webp)$", "", bare, flags=re.IGNORECASE)
    return stem.lstrip("0") or "0" if stem.isdigit() else stem


def question_key(text: str) -> str:
    """Return what makes a question the same one.

    Without an instruction line below it, without an image tag, with single blanks, and with the "imange" of one version
    of POPE read as "image".
    """
    first = next((line for line in text.replace("<image>", "").splitlines() if line.strip()), "")
    return re.sub(r"\s+", " ", first).strip().lower().replace("imange", "image")


def is_asked(question: str, prompt: str) -> bool:
    """Return whether a prompt asks a question: it may stand under an image tag, or before or above an instruction."""
    key = question_key(question)
    lines = [question_key(line) for line in (*prompt.splitlines(), prompt)]
    return any(line == key or (line.startswith(key) and key.endswith(("?", "."))) for line in lines)


def by_number_or_image(given: Sequence[GivenAnswer], items: Sequence[BenchmarkItem], path: Path) -> dict[str, Answer]:
    """Join to the items whose id is the number; where the prompts are others, by image and question.

    Raises:
        AmpError: a record has neither, or its prompt is the question of another item than its number.
    """
    known = {item.id: item for item in items}
    contents = {(image_key(item.images[0]), question_key(item.questions[0])): item.id for item in items}
    found = [contents.get((image_key(one.image or ""), question_key(one.question or ""))) for one in given]
    astray = _astray(given, known)
    if astray is not None and not any(found):
        what = (
            "has no number" if astray.number is None else f"carries the prompt of another question than {astray.number}"
        )
        raise AmpError(f"{astray.where}: it {what}", hint=LAYOUTS)
    answers: dict[str, Answer] = {}
    for one, by_content in zip(given, found, strict=True):
        item_id = one.number if astray is None else by_content or f"{one.image}: {one.question}"
        add_answer(answers, Answer(id=str(item_id), answers=(one.text,)), path)
    return answers


def _astray(given: Sequence[GivenAnswer], known: Mapping[str, BenchmarkItem]) -> GivenAnswer | None:
    """Return the first answer without a number, or with another item's question; the first of all if none is known."""
    questions = {question_key(item.questions[0]) for item in known.values()}
    for one in given:
        item = known.get(one.number or "")
        if one.number is None:
            return one
        if item is None or one.question is None or is_asked(item.questions[0], one.question):
            continue
        if question_key(one.question) in questions:
            return one
    is_known = any(one.number in known for one in given)
    return None if is_known or not any(one.image and one.question for one in given) else given[0]
