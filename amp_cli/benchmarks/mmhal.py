"""MMHal-Bench: 96 questions of 8 types; a judge rates each answer from 0 to 6, below 3 something is made up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.answers import check_complete, own_answers, records_of
from amp_cli.benchmarks.intervals import METHOD, ratio
from amp_cli.benchmarks.judged_scores import JudgedScore, contributions, measure, unscored
from amp_cli.benchmarks.mmhal_files import data_files, items_of, read_data, upstream_answers, upstream_verdicts
from amp_cli.benchmarks.ratings import HALLUCINATED, Reading, read_mmhal_official, read_mmhal_strict
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.benchmarks.verdict_files import refuse_missing
from amp_cli.core.judging.prompts import Messages, mmhal_prompt
from amp_cli.core.judging.templates import JudgeTemplate, choose_judge_template
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
COUNT = 96
TEMPERATURE = 0.0
SUBSTITUTE = "counts them as 0"
"""What the official script does with verdicts that it cannot read."""
SCORES = ("score", "hallucination_rate")
DIFFERENCES = SCORES


def load(data: Path, settings: EvalSettings) -> LoadedBenchmark:
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


def ask(item: BenchmarkItem, settings: EvalSettings) -> tuple[str, ...]:
    """Return the question as it is."""
    return item.questions


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings) -> dict[str, Answer]:
    """Read our own answers, or the list with `model_answer`."""
    records = records_of(path)
    own = all("answers" in record for record in records)
    answers = own_answers(records, path) if own else upstream_answers(records, items, path, TYPES)
    check_complete(items, answers, path)
    return answers


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


def adopt_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read the released code's evaluation file: the endpoint's responses in the order of the questions."""
    return upstream_verdicts(path, items)


def read(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict], rule: str) -> dict[str, Reading]:
    """Read one repeat's verdicts.

    Raises:
        AmpError: rule `official`, and a question has no verdict.
    """
    if rule == "strict":
        return {item_id: read_mmhal_strict(verdict.text) for item_id, verdict in verdicts.items()}
    refuse_missing(items, verdicts)
    return {item_id: read_mmhal_official(verdict.text) for item_id, verdict in verdicts.items()}


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
    summary: dict[str, Any] = {"rule": rule, **measured.block("", SCORES), "n": len(scores)}
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
