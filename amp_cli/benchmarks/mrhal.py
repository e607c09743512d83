"""MRHal-Bench: dialogues of several rounds about one picture; a judge rates every round's answer from 0 to 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.answers import check_complete, own_answers, records_of
from amp_cli.benchmarks.intervals import METHOD, ratio
from amp_cli.benchmarks.judged_scores import JudgedScore, contributions, measure, unscored
from amp_cli.benchmarks.mrhal_files import data_file, items_of, upstream_answers, upstream_verdicts
from amp_cli.benchmarks.ratings import (
    HALLUCINATED,
    OfficialCrashError,
    Reading,
    read_mrhal_official,
    read_mrhal_strict,
)
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.benchmarks.verdict_files import refuse_missing
from amp_cli.core.judging.prompts import Messages, mrhal_prompt
from amp_cli.core.judging.templates import JudgeTemplate, choose_judge_template
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array

COUNT = 105
TEMPERATURE = 0.0
SUBSTITUTE = "takes the ratings of the dialogue before"
"""What the official script does with verdicts that it cannot read."""
WAYS = ("cumulative", "mean")
"""Over all rounds, and over the dialogues' means."""
SCORES = ("score", "hallucination_rate")
DIFFERENCES = tuple(f"{way}/{name}" for way in WAYS for name in SCORES)


def load(data: Path, settings: EvalSettings) -> LoadedBenchmark:
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


def ask(item: BenchmarkItem, settings: EvalSettings) -> tuple[str, ...]:
    """Return the rounds' questions; they are asked in turn, the model's own earlier answers before each."""
    return item.questions


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings) -> dict[str, Answer]:
    """Read our own answers, or the list with `question`, `gt_answer` and `model_answer`."""
    records = records_of(path)
    own = all("answers" in record for record in records)
    answers = own_answers(records, path) if own else upstream_answers(records, items, path)
    check_complete(items, answers, path)
    return answers


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


def adopt_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read the released code's evaluation file: `id` and `response` of each dialogue."""
    return upstream_verdicts(path, items)


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
    summary: dict[str, Any] = {"rule": rule, **{way: measured.block(way, SCORES) for way in WAYS}}
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
