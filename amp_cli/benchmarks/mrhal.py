"""MRHal-Bench: dialogues of several rounds about one image; a judge rates every round's answer from 0 to 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.asking.templates import JudgeTemplate, Messages, choose_judge_template, mrhal_prompt
from amp_cli.benchmarks.benchmark import Judged, LoadedBenchmark
from amp_cli.benchmarks.comparing import METHOD, ratio
from amp_cli.benchmarks.files import (
    add_answer,
    check_verdicts,
    find_list,
    numbered,
    own_answers,
    own_verdicts,
    records_of,
    refuse_missing,
    spoken,
    text_field,
    text_list,
)
from amp_cli.benchmarks.judged import JudgedScore, contributions, judged_benchmark, measure, unscored
from amp_cli.benchmarks.ratings import (
    HALLUCINATED,
    OfficialCrashError,
    Reading,
    read_mrhal_official,
    read_mrhal_strict,
)
from amp_cli.benchmarks.showing import Table, block_rows, column, title_of
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings


COUNT = 105
WAYS = ("cumulative", "mean")
"""Over all rounds, and over the dialogues' means."""
SCORES = ("score", "hallucination_rate")


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read the one JSON list of dialogues (`revised`), wherever it lies below `data`."""
    file = data_file(data)
    items = items_of(records_of(file), file)
    rounds = sum(len(item.questions) for item in items)
    return LoadedBenchmark(
        items=items,
        files=(file,),
        facts={"dialogues": len(items), "rounds": rounds},
        warnings=() if len(items) == COUNT else (f"'{file}' holds {len(items)} dialogues, MRHal-Bench has {COUNT}",),
    )


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or the list with `question`, `gt_answer` and `model_answer`."""
    records = records_of(path)
    own = all("answers" in record for record in records)
    return own_answers(records, path) if own else upstream_answers(records, items, path)


def wording(data: Path, file: Path | None) -> JudgeTemplate:
    """Return the judge template: `file`, else the official one beside the data, else ours."""
    return choose_judge_template("mrhal", file=file, data=data)


def prompt(item: BenchmarkItem, answer: Answer, template: JudgeTemplate) -> Messages:
    """Return what the judge is told: all rounds of a dialogue at once."""
    return mrhal_prompt(
        template,
        contents=item.reference["contents"],
        questions=item.questions,
        references=item.reference["answers"],
        answers=answer.answers,
    )


def verdict_line(item: BenchmarkItem, template: JudgeTemplate) -> str | None:
    """Return the form of the verdict's line, for our own wording; the official prompts are not to be bent."""
    more = len(item.questions) - 1
    return rf"^Ratings: \[[0-6](, [0-6]){{{more}}}\]$" if template.origin == "own" else None


def read(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict], rule: str) -> dict[str, Reading]:
    """Read one repeat's verdicts.

    Raises:
        AmpError: rule `official`, and the official script would crash at a verdict.
    """
    judged = [item for item in items if item.id in verdicts]
    if rule == "strict":
        return {item.id: read_mrhal_strict(verdicts[item.id].text, len(item.questions)) for item in judged}
    refuse_missing(items, verdicts)
    readings: dict[str, Reading] = {}
    previous = None
    for item in judged:
        text = verdicts[item.id].text
        try:
            readings[item.id] = read_mrhal_official(text, len(item.questions), previous)
        except OfficialCrashError as error:
            raise AmpError(
                f"The official script stops at the verdict on '{item.id}': {error}. The verdict: {text!r:.120}",
                hint="Use --rule strict: it leaves out what cannot be read, counts it and lists it",
            ) from error
        previous = readings[item.id].ratings
    return readings


def group_of(item: BenchmarkItem, rule: str) -> str:
    """Return nothing: all dialogues are of one kind."""
    return ""


def rows(scores: Sequence[JudgedScore]) -> "Array":
    """Return (items, 6): rounds, their ratings, how many are below 3; and 1, the mean rating, whether it is below 3."""
    return contributions(scores, ("",), 6, _contribution)


def _contribution(ratings: tuple[float, ...]) -> tuple[float, ...]:
    mean = sum(ratings) / len(ratings)
    below = sum(rating < HALLUCINATED for rating in ratings)
    return (len(ratings), sum(ratings), below, 1.0, mean, float(mean < HALLUCINATED))


def rates(sums: "Array") -> dict[str, "Array"]:
    """Name the mean rating and hallucination rate, cumulative and mean, from (draws, 6) sums."""
    rounds, total, below, dialogues, means, low = sums.T
    return {
        "cumulative/score": ratio(total, rounds),
        "cumulative/hallucination_rate": ratio(below, rounds),
        "mean/score": ratio(means, dialogues),
        "mean/hallucination_rate": ratio(low, dialogues),
    }


def summarise(scores: Sequence[JudgedScore], rule: str) -> dict[str, Any]:
    """Return mean rating and hallucination rate, over all rounds (cumulative) and over the dialogues' means."""
    measured = measure(scores, rows, rates)
    summary: dict[str, Any] = {**{way: measured.block(way, SCORES) for way in WAYS}}
    summary["n"] = len(scores)
    summary["rounds"] = sum(len(one.questions) for one in scores)
    summary["unscored"] = unscored(scores)
    if rule == "official" and measured.spread is None:
        titles = {"score": "Average score", "hallucination_rate": "Hallucination rate"}
        summary["printed"] = [
            f"{way.capitalize()} {titles[name]}: {measured.values[f'{way}/{name}']:.2f}"
            for way in WAYS
            for name in SCORES
        ]
    return summary | {"spread": measured.spread, "interval": METHOD}


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
            raise AmpError(
                f"{where} has {len(questions)} questions and {len(references)} answers",
                hint="Correct or remove that record, then run again",
            )
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
        raise AmpError(f"{where} has no list of turns 'revised'", hint="Correct or remove that record, then run again")
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


def adopt_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read `id` and `response` of the released code's evaluation file; ratings are read from the responses again."""
    records = records_of(path)
    if not all("response" in record for record in records):
        return own_verdicts(path, items)
    verdicts = [
        Verdict(id=item_id, text=text_field(record, "response", f"'{path}', the dialogue '{item_id}',"))
        for item_id, record in zip(_ids(records), records, strict=True)
    ]
    check_verdicts(verdicts, items, path)
    return verdicts


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return one table: a line for each way of counting."""
    title = f"{title_of(scores)}\n{scores['n']} dialogues, {scores['rounds']} rounds, {scores['unscored']} unscored"
    return [(title, *block_rows({way: scores[way] for way in WAYS}, SCORES))]


BENCHMARK = judged_benchmark(
    name="mrhal",
    title="MRHal-Bench: a judge's ratings of every round of a dialogue, 0 to 6",
    help="""Lead MRHal-Bench's 105 dialogues, own earlier answers included, and have every round rated from 0 to 6.

    Example: amp eval mrhal --model 7b --judge local:Qwen/Qwen2.5-7B-Instruct --out runs/base-mrhal
    """,
    data="Folder with MRHal-Bench's JSON list",
    answers_hold_truth=True,
    load=load,
    adopt=adopt,
    judge=Judged(
        temperature=0.0,
        substitute="takes the ratings of the dialogue before",
        wording=wording,
        prompt=prompt,
        verdict_line=verdict_line,
        adopt_verdicts=adopt_verdicts,
        read=read,
        group_of=group_of,
    ),
    rows=rows,
    rates=rates,
    summarise=summarise,
    tables=tables,
    columns=(
        column("score, cumulative", "cumulative/score", full=6.0),
        column("score, mean", "mean/score", full=6.0),
        column("hallucination rate, cumulative", "cumulative/hallucination_rate", lower_is_better=True),
        column("hallucination rate, mean", "mean/hallucination_rate", lower_is_better=True),
    ),
    differences=[f"{way}/{name}" for way in WAYS for name in SCORES],
    items="dialogues",
)
