"""MRHal-Bench's files: the dialogues, the released code's answers and evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amp_cli.benchmarks.answers import add_answer, records_of
from amp_cli.benchmarks.json_lists import find_list, numbered, spoken, text_field, text_list
from amp_cli.benchmarks.verdict_files import check_verdicts, own_verdicts
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

_HINT = "Give --data the folder with MRHal-Bench's JSON list, or run `amp download mrhal` first"


def data_file(data: Path) -> Path:
    """Return the JSON list with `revised` dialogues; where there is none, one with `question` and `gt_answer` lists."""
    what = "dialogues of MRHal-Bench"
    file = find_list(data, lambda record: "revised" in record, what, _HINT)
    file = file or find_list(data, lambda record: isinstance(record.get("gt_answer"), list), what, _HINT)
    if file is None:
        raise AmpError(f"No JSON list with `revised` dialogues below '{data}'", hint=_HINT)
    return file


def items_of(records: Sequence[Mapping[str, Any]], file: Path) -> tuple[BenchmarkItem, ...]:
    """Return the items: of `revised` turns the even ones ask, the odd ones are the standard answers."""
    items = []
    for item_id, record in zip(_ids(records), records, strict=True):
        where = f"'{file}', the dialogue '{item_id}',"
        questions, references = _turns(record, where)
        if not questions or len(questions) != len(references):
            raise AmpError(f"{where} has {len(questions)} questions and {len(references)} answers")
        items.append(
            BenchmarkItem(
                id=item_id,
                images=(text_field(record, "image", where),),
                questions=tuple(map(spoken, questions)),
                reference={
                    "contents": list(text_list(record, "image_content", where)),
                    "answers": [reference.strip() for reference in references],
                },
            )
        )
    return tuple(items)


def _ids(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return numbered(str(record.get("id", place)) for place, record in enumerate(records))


def _turns(record: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if "revised" not in record:
        return text_list(record, "question", where), text_list(record, "gt_answer", where)
    turns = record["revised"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise AmpError(f"{where} has no list of turns 'revised'")
    said = [text_field(turn, "value", f"{where} a turn") for turn in turns]
    return tuple(said[0::2]), tuple(said[1::2])


def upstream_answers(
    records: Sequence[Mapping[str, Any]], items: Sequence[BenchmarkItem], path: Path
) -> dict[str, Answer]:
    """Join answers to items by id; the questions must be the same."""
    asked = {item.id: item for item in items}
    answers: dict[str, Answer] = {}
    for item_id, record in zip(_ids(records), records, strict=True):
        where = f"'{path}', the dialogue '{item_id}',"
        questions = tuple(map(spoken, text_list(record, "question", where)))
        item = asked.get(item_id)
        if item is not None and item.questions != questions:
            raise AmpError(
                f"{where} asks {questions[:1]!r:.80}, --data asks {item.questions[:1]!r:.80}",
                hint="Answers and --data must be of the same version of the benchmark",
            )
        add_answer(answers, Answer(id=item_id, answers=text_list(record, "model_answer", where)), path)
    return answers


def upstream_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read `id` and `response` of an evaluation file; the ratings in it are read from the responses again."""
    records = records_of(path)
    if not all("response" in record for record in records):
        return own_verdicts(path, items)
    verdicts = [
        Verdict(id=item_id, text=text_field(record, "response", f"'{path}', the dialogue '{item_id}',"))
        for item_id, record in zip(_ids(records), records, strict=True)
    ]
    check_verdicts(verdicts, items, path)
    return verdicts
