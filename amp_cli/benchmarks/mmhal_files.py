"""MMHal-Bench's files: the questions (also inside `test_data.zip`), the released code's answers and evaluations."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from amp_cli.benchmarks.answers import add_answer, records_of
from amp_cli.benchmarks.json_lists import find_list, numbered, spoken, text_field, text_list
from amp_cli.benchmarks.verdict_files import own_verdicts, reply_of
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

TEMPLATE = "response_template.json"
ARCHIVE = "test_data.zip"
_HINT = f"Give --data the folder with {TEMPLATE} or {ARCHIVE}, or run `amp download mmhal` first"


def data_files(data: Path) -> Path:
    """Return the file with the questions: `response_template.json`, else `test_data.zip`, else a list like them."""
    if data.is_dir():
        for name in (TEMPLATE, ARCHIVE):
            found = sorted(data.rglob(name))
            if found:
                return found[0]
    elif data.suffix == ".zip" and data.is_file():
        return data
    file = find_list(data, _is_question, "questions of MMHal-Bench", _HINT)
    if file is None:
        raise AmpError(f"No {TEMPLATE} and no {ARCHIVE} below '{data}'", hint=_HINT)
    return file


def _is_question(record: Mapping[str, Any]) -> bool:
    return all(name in record for name in ("question_type", "image_content", "question", "gt_answer"))


def read_data(file: Path) -> list[dict[str, Any]]:
    """Return the records of a questions file, or of the one inside an archive, which is not unpacked for it."""
    if file.suffix != ".zip":
        return records_of(file)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if PurePosixPath(name).name == TEMPLATE]
            if not names:
                raise AmpError(f"'{file}' holds no {TEMPLATE}", hint=_HINT)
            records = json.loads(archive.read(names[0]).decode("utf-8-sig"))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise AmpError(f"'{file}' cannot be read: {error}", hint="Fetch it again: `amp download mmhal`") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise AmpError(f"'{names[0]}' in '{file}' is no list of questions", hint=_HINT)
    return records


def items_of(records: Sequence[Mapping[str, Any]], file: Path, types: Sequence[str]) -> tuple[BenchmarkItem, ...]:
    """Return the items; `place` is the record's place in the file, by which the official script takes its type."""
    items = []
    for place, (item_id, record) in enumerate(zip(_ids(records, file), records, strict=True)):
        where = f"'{file}', record {place + 1},"
        kind = text_field(record, "question_type", where)
        if kind not in types:
            raise AmpError(f"{where} has the question_type '{kind}'", hint=f"Known: {', '.join(types)}")
        items.append(
            BenchmarkItem(
                id=item_id,
                images=(_image(record, where),),
                questions=(spoken(text_field(record, "question", where)),),
                reference={
                    "place": place,
                    "type": kind,
                    "contents": list(text_list(record, "image_content", where)),
                    "answers": [text_field(record, "gt_answer", where)],
                },
            )
        )
    return tuple(items)


def _image(record: Mapping[str, Any], where: str) -> str:
    """Return a picture's file name: `image_path` where a record has one, else the last part of `image_src`."""
    source = record.get("image_path") or text_field(record, "image_src", where)
    return PurePosixPath(urlsplit(str(source)).path).name


def _ids(records: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    where = f"'{file}': a record"
    return numbered(str(record.get("image_id") or PurePosixPath(_image(record, where)).stem) for record in records)


def upstream_answers(
    records: Sequence[Mapping[str, Any]], items: Sequence[BenchmarkItem], path: Path, types: Sequence[str]
) -> dict[str, Answer]:
    """Join answers to items by picture and question."""
    asked = {item.id: item for item in items}
    answers: dict[str, Answer] = {}
    for answered, record in zip(items_of(records, path, types), records, strict=True):
        text = text_field(record, "model_answer", f"'{path}': the record of '{answered.id}'")
        item = asked.get(answered.id)
        if item is not None and item.questions != answered.questions:
            raise AmpError(
                f"'{path}' answers another question about '{item.images[0]}': {answered.questions[0]!r:.80} instead "
                f"of {item.questions[0]!r:.80}",
                hint="Answers and --data must be of the same version of the benchmark",
            )
        add_answer(answers, Answer(id=answered.id, answers=(text,)), path)
    return answers


def upstream_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read the list that `--evaluation` wrote, an endpoint's response per question; it has no ids, only its order."""
    values = records_of(path)
    if all("choices" in value for value in values):
        if len(values) != len(items):
            raise AmpError(
                f"'{path}' holds {len(values):,} verdicts for {len(items):,} questions, and they go by their order",
                hint="Give the evaluation of all questions, or JSONL with `id` and `text`",
            )
        return [
            reply_of(value, item.id, f"'{path}', record {number}")
            for number, (value, item) in enumerate(zip(values, items, strict=True), start=1)
        ]
    return own_verdicts(path, items)
