"""MMHal-Bench: 96 questions of 8 types; a judge rates each answer from 0 to 6, below 3 something is made up."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from amp_cli.asking.templates import JudgeTemplate, Messages, choose_judge_template, mmhal_prompt
from amp_cli.benchmarks.benchmark import Judged, LoadedBenchmark
from amp_cli.benchmarks.comparing import METHOD, ratio
from amp_cli.benchmarks.files import (
    LARGEST_LIST,
    add_answer,
    find_list,
    numbered,
    own_answers,
    own_verdicts,
    records_of,
    reply_of,
    spoken,
    text_field,
    text_list,
)
from amp_cli.benchmarks.judged import JudgedScore, contributions, judged_benchmark, measure, read_each, unscored
from amp_cli.benchmarks.ratings import HALLUCINATED, read_mmhal_official, read_mmhal_strict
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import Column, Table, block_rows, column, title_of
from amp_cli.disk.parsing import UnreadableError, parse_json
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings


TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
COUNT = 96
SCORES = ("score", "hallucination_rate")


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read `response_template.json`, wherever it lies below `data`, or the one in `test_data.zip`.

    Raises:
        AmpError: no questions, or not 96 of them by the rule `official`: the official script crashes then.
    """
    file = data_files(data)
    items = items_of(read_data(file), file, TYPES)
    if settings.rule == "official" and len(items) != COUNT:
        raise AmpError(
            f"The official script scores {COUNT} questions and stops at any other number; these are {len(items)}",
            hint="Use --rule strict, or give the whole benchmark",
        )
    return LoadedBenchmark(
        items=items,
        files=(file,),
        facts={"questions": len(items)},
        warnings=() if len(items) == COUNT else (f"'{file}' holds {len(items)} questions, MMHal-Bench has {COUNT}",),
    )


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or the list with `model_answer`."""
    records = records_of(path)
    own = all("answers" in record for record in records)
    return own_answers(records, path) if own else upstream_answers(records, items, path, TYPES)


def wording(data: Path, file: Path | None) -> JudgeTemplate:
    """Return the judge template: `file`, else the official one beside the data, else ours."""
    return choose_judge_template("mmhal", file=file, data=data)


def prompt(item: BenchmarkItem, answer: Answer, template: JudgeTemplate) -> Messages:
    """Return what the judge is told."""
    return mmhal_prompt(
        template,
        contents=item.reference["contents"],
        question=item.questions[0],
        reference=item.reference["answers"][0],
        answer=answer.answers[0],
    )


def verdict_line(item: BenchmarkItem, template: JudgeTemplate) -> str | None:
    """Return the form of the verdict's line, for our own wording; the official prompts are not to be bent."""
    return r"^Rating: [0-6]$" if template.origin == "own" else None


def group_of(item: BenchmarkItem, rule: str) -> str:
    """Return a question's type; the official script goes by its place in the file."""
    by_place: int = item.reference["place"] % len(TYPES)
    return TYPES[by_place] if rule == "official" else str(item.reference["type"])


def rows(scores: Sequence[JudgedScore]) -> "Array":
    """Return (items, types * 3): for each type whether it is the item's, its rating, and whether that is below 3."""
    return contributions(scores, TYPES, 3, lambda ratings: (1.0, ratings[0], float(ratings[0] < HALLUCINATED)))


def rates(sums: "Array") -> dict[str, "Array"]:
    """Name the mean rating and hallucination rate over all and by type, from (draws, types * 3) sums."""
    by_type = sums.reshape(len(sums), len(TYPES), 3)
    named = {}
    for group, (count, total, hallucinated) in (
        ("", by_type.sum(axis=1).T),
        *((f"{name}/", by_type[:, number].T) for number, name in enumerate(TYPES)),
    ):
        named[f"{group}score"] = ratio(total, count)
        named[f"{group}hallucination_rate"] = ratio(hallucinated, count)
    return named


def summarise(scores: Sequence[JudgedScore], rule: str) -> dict[str, Any]:
    """Return mean rating and hallucination rate, over all and by question type."""
    measured = measure(scores, rows, rates)
    present = [name for name in TYPES if any(one.group == name for one in scores)]
    members = {name: [one for one in scores if one.group == name] for name in present}
    summary: dict[str, Any] = {**measured.block("", SCORES), "n": len(scores)}
    summary["unscored"] = unscored(scores)
    summary["types"] = {
        name: {**measured.block(name, SCORES), "n": len(members[name]), "unscored": unscored(members[name])}
        for name in present
    }
    if rule == "official" and measured.spread is None:
        values = measured.values
        by_type = ",".join(str(round(values[f"{name}/score"] or 0.0, 2)) for name in TYPES)
        summary["printed"] = [
            f"Average score: {values['score']:.2f}",
            f"Hallucination rate: {values['hallucination_rate']:.2f}",
            f"Average score for each question type: {by_type}",
        ]
    return summary | {"spread": measured.spread, "interval": METHOD}


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
            if archive.getinfo(names[0]).file_size > LARGEST_LIST:
                raise AmpError(f"'{names[0]}' in '{file}' has over {LARGEST_LIST >> 20} MB", hint=_HINT)
            records = parse_json(archive.read(names[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, UnreadableError) as error:
        raise AmpError(f"'{file}' cannot be read: {error}", hint="Fetch it again: `amp download mmhal`") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise AmpError(f"'{names[0]}' in '{file}' is not a list of questions", hint=_HINT)
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
    """Return an image's file name: `image_path` where a record has one, else the last part of `image_src`."""
    source = record.get("image_path") or text_field(record, "image_src", where)
    return PurePosixPath(urlsplit(str(source)).path).name


def _ids(records: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    where = f"'{file}': a record"
    return numbered(str(record.get("image_id") or PurePosixPath(_image(record, where)).stem) for record in records)


def upstream_answers(
    records: Sequence[Mapping[str, Any]], items: Sequence[BenchmarkItem], path: Path, types: Sequence[str]
) -> dict[str, Answer]:
    """Join answers to items by image and question."""
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


def adopt_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read what the released code's `--evaluation` wrote: an endpoint's responses in the order of the questions."""
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


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return one table: all questions, then a line for each type."""
    return [(title_of(scores), *block_rows({"all": scores, **scores["types"]}, SCORES))]


def _type(name: str) -> Column:
    return Column(title=name, group=("types", name), name="score", lower_is_better=False, is_charted=False)


BENCHMARK = judged_benchmark(
    name="mmhal",
    title="MMHal-Bench: a judge's ratings of 96 answers, 0 to 6",
    help="""Ask MMHal-Bench's 96 questions and have each answer rated from 0 to 6; below 3 something is made up.

    Example: amp eval mmhal --model 7b --judge gpt-4o-2024-08-06 --price 2.5,10 --max-cost 2 --out runs/base-mmhal
    """,
    data="Folder with response_template.json or test_data.zip",
    files=(TEMPLATE, ARCHIVE),
    answers_hold_truth=True,
    load=load,
    sampling=Sampling(strata=lambda item: (item.reference["type"],)),
    adopt=adopt,
    judge=Judged(
        temperature=0.0,
        substitute="counts them as 0",
        wording=wording,
        prompt=prompt,
        verdict_line=verdict_line,
        adopt_verdicts=adopt_verdicts,
        read=read_each(read_mmhal_strict, read_mmhal_official),
        group_of=group_of,
    ),
    rows=rows,
    rates=rates,
    summarise=summarise,
    tables=tables,
    columns=(
        column("score, 0 to 6", "score", full=6.0),
        column("hallucination rate", "hallucination_rate", lower_is_better=True),
        *map(_type, TYPES),
    ),
    differences=SCORES,
)
