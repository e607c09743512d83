"""HallusionBench with a judge, as its own script has it: correct, incorrect or unclear, counted as without one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.asking.templates import JudgeTemplate, Messages, choose_judge_template, filled
from amp_cli.benchmarks import judged
from amp_cli.benchmarks.benchmark import OFFICIAL, Benchmark, Judged
from amp_cli.benchmarks.comparing import Difference, paired_differences
from amp_cli.benchmarks.files import check_verdicts, own_verdicts, records_of
from amp_cli.benchmarks.hallusionbench import (
    COLUMNS,
    DATA,
    FILE,
    READING,
    SAMPLING,
    SCORES,
    Outcome,
    Place,
    accuracies,
    adopt,
    load,
    name_of,
    rates,
    set_counts,
    tables,
)
from amp_cli.benchmarks.judged import JudgedScore
from amp_cli.benchmarks.ratings import Reading
from amp_cli.benchmarks.replies import said_lines
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array

CODES = {"incorrect": 0.0, "correct": 1.0, "unclear": 2.0}
"""What a verdict may say of an answer, and the number that the official script writes for it."""
_VERDICT = re.compile(
    r"^(?:(?:so|therefore|thus|the|my|final|overall)[\s,]+)*(?:verdict|judge?ment|assessment|evaluation|output|result)"
    r"(?:\s+is)?\s*[:=-]?\s*(incorrect|correct|unclear)\b",
    re.I,
)
_WORD = re.compile(r"\b(?:not\s+(?:in)?correct|incorrect|correct|unclear)\b", re.I)


def read_official(text: str) -> Reading:
    """Read as the official script: "incorrect" anywhere, else "correct" anywhere, else unclear."""
    lower = text.lower()
    word = next((one for one in ("incorrect", "correct") if one in lower), "unclear")
    is_said = word in lower
    return Reading(ratings=(CODES[word],), reason="" if is_said else "no verdict", substituted=not is_said)


def read_strict(text: str) -> Reading:
    """Read the verdict of the last line that declares one, or the only one of the three words that is there."""
    lines = said_lines(text)
    declared = [match[1].lower() for line in lines if (match := _VERDICT.match(line))]
    words = declared[-1:] or sorted({match[0].lower() for line in lines for match in _WORD.finditer(line)})
    if len(words) != 1:
        return Reading(ratings=None, reason="several different verdicts" if words else "no verdict")
    if words[0] not in CODES:
        return Reading(ratings=None, reason="a verdict that is denied")
    return Reading(ratings=(CODES[words[0]],))


def is_right(item_id: str, code: float) -> bool:
    """Return whether an answer counts as right; without a figure, one that says it does not know does too."""
    return code == CODES["correct"] or (code == CODES["unclear"] and Place.of(item_id).has_none)


def adopt_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read our own verdicts, or the official script's list with `gpt4v_output_gpt_check`: 0, 1 or 2."""
    records = records_of(path)
    if not all("gpt4v_output_gpt_check" in record for record in records):
        return own_verdicts(path, items)
    ids = {item.id.rpartition("_")[0]: item.id for item in items}
    words = {f"{code:.0f}": word for word, code in CODES.items()}
    verdicts = []
    for number, record in enumerate(records, start=1):
        name, code = name_of(record, f"'{path}', record {number},"), str(record["gpt4v_output_gpt_check"])
        if code not in words:
            raise AmpError(f"'{path}', record {number}: the verdict {code!r:.40}", hint="It is 0, 1 or 2")
        if name in ids:
            verdicts.append(Verdict(id=ids[name], text=words[code]))
    check_verdicts(verdicts, items, path)
    return verdicts


def prompt(item: BenchmarkItem, answer: Answer, template: JudgeTemplate) -> Messages:
    """Return what the judge is told."""
    return filled(
        template, question=item.questions[0], reference=item.reference["answers"][0], answer=answer.answers[0]
    )


def verdict_line(item: BenchmarkItem, template: JudgeTemplate) -> str | None:
    """Return the form of the verdict's line, for our own wording."""
    return r"^Verdict: (correct|incorrect|unclear)$" if template.origin == "own" else None


def judged_counts(scores: Sequence[JudgedScore]) -> "Array":
    """Return (sets, ...) counts as `set_counts`, the mean over the repeats."""
    import numpy as np

    repeats = max(len(one.readings) for one in scores)
    counts = np.array([set_counts([_outcome(one, repeat) for one in scores]) for repeat in range(repeats)])
    mean: Array = counts.mean(axis=0)
    return mean


def _outcome(one: JudgedScore, repeat: int) -> Outcome:
    ratings = one.readings[repeat].ratings if repeat < len(one.readings) else None
    return one.id, None if ratings is None else is_right(one.id, ratings[0])


def summarise_judged(scores: Sequence[JudgedScore], rule: str) -> dict[str, Any]:
    """Return HallusionBench's accuracies by the judge's verdicts."""
    return {"n": len(scores), "unscored": judged.unscored(scores), **accuracies(judged_counts(scores))}


def compare_judged(pairs: Sequence[tuple[JudgedScore, JudgedScore]], rule: str) -> list[Difference]:
    """Compare the accuracies by the judge's verdicts."""
    paired = paired_differences(pairs, judged_counts, rates)
    return [paired[name] for name in SCORES]


def said_of(ratings: Sequence[float]) -> judged.Rated:
    """Say what the judge found of an answer."""
    found = ratings[0]
    words = next((word for word, code in CODES.items() if found == code), f"{found:g} (mean of repeats)")
    return judged.Rated(words=words, fault=float(found != CODES["correct"]), made_up=found == CODES["incorrect"])


BENCHMARK = Benchmark(
    name="hallusionbench-judged",
    title="HallusionBench: a judge reads the answers (accuracies)",
    help="""Ask HallusionBench's questions and have a judge say of each answer: correct, incorrect or unclear.

    --rule official reads the judge as the official script does. Its wording is not copied here: --judge-template
    takes it from a file.

    Example: amp eval hallusionbench-judged --model 7b --judge gpt-4o-2024-08-06 --out runs/base-hallusion-judged
    """,
    options=(*DATA, OFFICIAL),
    decoding=Decoding(max_new_tokens=512),
    files=(FILE,),
    files_of="hallusionbench",
    load=load,
    sampling=SAMPLING,
    adopt=adopt,
    judge=Judged(
        temperature=0.0,
        substitute="counts them as unclear",
        wording=lambda data, file: choose_judge_template("hallusionbench", file=file),
        prompt=prompt,
        verdict_line=verdict_line,
        adopt_verdicts=adopt_verdicts,
        read=judged.read_each(read_strict, read_official),
        group_of=lambda item, rule: " ".join(item.id.split("_")[:2]),
    ),
    summarise=summarise_judged,
    read_score=JudgedScore.from_json,
    is_scored=lambda one: bool(one.readable),
    is_readable=lambda one: any(said.ratings is not None and not said.substituted for said in one.readings),
    compare=compare_judged,
    row=lambda first, given: judged.row(first, given, said_of),
    tables=tables,
    columns=COLUMNS,
    about=judged.judge_sentence,
    reading=READING,
)
