"""Reads answers that exist already (ours or the released code's) and joins them to the items by content."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amp_cli.core.store import read_json_records
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON list or JSONL file; a line that is none is an error that names it."""
    records = []
    for number, record, reason in read_json_records(path):
        if record is None:
            raise AmpError(f"'{path}', record {number}: {reason}", hint="Mend or remove that line, then run again")
        records.append(record)
    return records


def own_answers(records: Iterable[Mapping[str, Any]], path: Path) -> dict[str, Answer]:
    """Return id -> answer of our own `{"id", "answers"}` records; the same id with two answers is refused."""
    answers: dict[str, Answer] = {}
    for number, record in enumerate(records, start=1):
        try:
            answer = Answer.from_json(record)
        except AmpError as error:
            raise AmpError(f"'{path}', record {number}: {error.message}") from error
        add_answer(answers, answer, path)
    return answers


def add_answer(answers: dict[str, Answer], answer: Answer, path: Path) -> None:
    """Add one answer; a repetition is harmless, a second, other answer to the same id is refused."""
    earlier = answers.setdefault(answer.id, answer)
    if earlier.answers != answer.answers:
        texts = [" / ".join(one.answers)[:80] for one in (earlier, answer)]
        raise AmpError(
            f"'{path}' answers '{answer.id}' twice and differently: {texts[0]!r} and {texts[1]!r}",
            hint="Keep one of the two lines",
        )


def check_complete(items: Sequence[BenchmarkItem], answers: Mapping[str, Answer], path: Path) -> None:
    """Refuse answers that do not cover the items one to one; the message counts and shows both sides."""
    wanted = {item.id: item for item in items}
    missing = [item for item_id, item in wanted.items() if item_id not in answers]
    unknown = [item_id for item_id in answers if item_id not in wanted]
    uneven = [item for item in items if item.id in answers and len(answers[item.id].answers) != len(item.questions)]
    if uneven:
        found = len(answers[uneven[0].id].answers)
        raise AmpError(
            f"'{path}': {len(uneven):,} items have another number of answers than of questions, first "
            f"'{uneven[0].id}' with {found} for {len(uneven[0].questions)}"
        )
    if missing:
        shown = "; ".join(_described(item) for item in missing[:3])
        raise AmpError(
            f"'{path}' has no answer to {len(missing):,} of {len(items):,} questions"
            + (f", and {len(unknown):,} answers to others" if unknown else "")
            + f". Missing first: {shown}",
            hint="Answers and --data must be of the same version of the benchmark",
        )
    if unknown:
        raise AmpError(
            f"'{path}' has {len(unknown):,} answers to questions that --data does not hold, first '{unknown[0]}'",
            hint="Answers and --data must be of the same version of the benchmark",
        )


def _described(item: BenchmarkItem) -> str:
    pictures = ", ".join(item.images)
    return f"{item.id} ({pictures} {item.questions[0]!r})" if item.questions else f"{item.id} ({pictures})"
