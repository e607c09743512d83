"""What judged benchmarks share: an item's result, means over repeats with spread and intervals, tables and rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.benchmark import OFFICIAL, Benchmark, Judged, LoadedBenchmark, Option
from amp_cli.benchmarks.comparing import (
    Difference,
    chosen_differences,
    interval,
    paired_differences,
    resampled_totals,
)
from amp_cli.benchmarks.files import refuse_missing
from amp_cli.benchmarks.ratings import HALLUCINATED, HIGHEST, Reading
from amp_cli.benchmarks.showing import Column, Given, Piece, Reply, Row, Table
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings

Contribution = Callable[[tuple[float, ...]], Sequence[float]]
Rates = Callable[["Array"], Mapping[str, "Array"]]


@dataclass(frozen=True, kw_only=True)
class JudgedScore:
    """One item's result: a line of `items.jsonl`.

    Attributes:
        group: its question type or category.
        references, answers: one per question; no answers where verdicts were given without them.
        verdicts: the judge's replies, one per repeat; "" where there is none.
        readings: what they say. Ratings are one number (MMHal), one per round (MRHal), or reference and model.
    """

    id: str
    images: tuple[str, ...]
    group: str
    questions: tuple[str, ...]
    references: tuple[str, ...]
    answers: tuple[str, ...]
    verdicts: tuple[str, ...]
    readings: tuple[Reading, ...]

    @property
    def readable(self) -> tuple[tuple[float, ...], ...]:
        """The ratings of the repeats that could be read."""
        return tuple(one.ratings for one in self.readings if one.ratings is not None)

    @property
    def ratings(self) -> tuple[float, ...] | None:
        """The mean over the repeats, rating by rating; None where the item is unscored."""
        import statistics

        return tuple(map(statistics.fmean, zip(*self.readable, strict=True))) if self.readable else None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "images": list(self.images),
            "group": self.group,
            "questions": list(self.questions),
            "references": list(self.references),
            "answers": list(self.answers),
            "verdicts": list(self.verdicts),
            "ratings": [None if one.ratings is None else [_plain(n) for n in one.ratings] for one in self.readings],
            "reasons": [one.reason for one in self.readings],
            "substituted": [one.substituted for one in self.readings],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "JudgedScore":
        said = zip(record["ratings"], record["reasons"], record["substituted"], strict=True)
        return cls(
            **{name: tuple(record[name]) for name in ("images", "questions", "references", "answers", "verdicts")},
            id=record["id"],
            group=record["group"],
            readings=tuple(
                Reading(
                    ratings=None if ratings is None else tuple(map(float, ratings)),
                    reason=reason,
                    substituted=substituted,
                )
                for ratings, reason, substituted in said
            ),
        )


def _plain(number: float) -> float | str:
    """Return a number as JSON can hold it: `nan` and `inf`, which one official script lets pass, become texts."""
    return number if math.isfinite(number) else str(number)


def contributions(
    scores: Sequence[JudgedScore], groups: Sequence[str], width: int, contribution: Contribution
) -> "Array":
    """Return (items, groups * width): what each item adds to its group's counts, as the mean over its repeats."""
    import numpy as np

    rows = np.zeros((len(scores), len(groups), width))
    for number, one in enumerate(scores):
        if one.readable:
            added = np.array([contribution(ratings) for ratings in one.readable], dtype=np.float64)
            rows[number, groups.index(one.group)] = added.mean(axis=0)
    return rows.reshape(len(scores), len(groups) * width)


def by_image(rows: "Array", scores: Sequence[JudgedScore]) -> "Array":
    """Return (images, columns): the rows of each image's items added up."""
    import numpy as np

    images = {image: number for number, image in enumerate(dict.fromkeys(one.images for one in scores))}
    sums = np.zeros((len(images), rows.shape[1]))
    for row, one in zip(rows, scores, strict=True):
        sums[images[one.images]] += row
    return sums


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores by name, their 95 % intervals, and their standard deviation over repeats (None without repeats)."""

    values: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    spread: dict[str, float | None] | None

    def block(self, group: str, names: Sequence[str]) -> dict[str, Any]:
        """Return one group's scores and intervals; the group "" has names without a group."""
        keys = {name: f"{group}/{name}" if group else name for name in names}
        return {
            **{name: self.values[key] for name, key in keys.items()},
            "ci95": {name: self.intervals.get(key) for name, key in keys.items()},
        }


def measure(scores: Sequence[JudgedScore], rows: Callable[[Sequence[JudgedScore]], "Array"], rates: Rates) -> Measured:
    """Compute every score from the items' contributions, its interval by drawing images, its spread over repeats."""
    draws = rates(resampled_totals(by_image(rows(scores), scores))) if scores else {}
    return Measured(
        values=_values(rows(scores), rates),
        intervals={name: interval(values) for name, values in draws.items()},
        spread=_spread(scores, rows, rates),
    )


def _values(rows: "Array", rates: Rates) -> dict[str, float | None]:
    import numpy as np

    total = np.add.reduce(rows, axis=0, keepdims=True)  # row by row, in the order in which the official scripts add
    values = {name: float(value[0]) for name, value in rates(total).items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _spread(
    scores: Sequence[JudgedScore], rows: Callable[[Sequence[JudgedScore]], "Array"], rates: Rates
) -> dict[str, float | None] | None:
    """Return the standard deviation (n - 1) of each score over the repeats."""
    import statistics

    repeats = max((len(one.readings) for one in scores), default=0)
    if repeats < 2:
        return None
    each = [
        _values(rows([replace(one, readings=one.readings[number : number + 1]) for one in scores]), rates)
        for number in range(repeats)
    ]
    columns = {name: [values[name] for values in each] for name in each[0]}
    return {
        name: None if None in column else statistics.stdev(value for value in column if value is not None)
        for name, column in columns.items()
    }


def unscored(scores: Sequence[JudgedScore]) -> int:
    """Return how many items have no readable verdict."""
    return sum(not one.readable for one in scores)


@dataclass(frozen=True, kw_only=True)
class Rated:
    """What ratings mean: in words, the share of the best rating that is missing, and whether something is made up."""

    words: str
    fault: float
    made_up: bool = False


def rated_of_six(ratings: Sequence[float]) -> Rated:
    """Say how an answer, or every round's, was rated."""
    return Rated(
        words=f"rated {', '.join(f'{rating:g}' for rating in ratings)} of {HIGHEST}",
        fault=1 - sum(ratings) / len(ratings) / HIGHEST,
        made_up=min(ratings) < HALLUCINATED,
    )


def row(first: JudgedScore, given: Given[JudgedScore], rated: Callable[[Sequence[float]], Rated]) -> Row:
    """Return a question's answers side by side, each with its rating and what the judge said."""
    return Row(
        images=first.images,
        question=_rounds(first.questions),
        truth=_rounds(first.references),
        note=first.group,
        replies=tuple(_reply(name, one, rated) for name, one in given),
        differs=len({one.ratings for _, one in given}) > 1,
        is_short=False,
        truth_is="Reference",
    )


def _reply(run: str, one: JudgedScore, rated: Callable[[Sequence[float]], Rated]) -> Reply:
    pieces = (Piece(text=_rounds(one.answers) or "(the answer was not given)"),)
    if one.ratings is None:
        reasons = [reading.reason for reading in one.readings if reading.reason]
        summary = f"unscored: {reasons[0]}" if reasons else "unscored"
        return Reply(run=run, pieces=pieces, verdict="unclear", summary=summary, judged=one.verdicts, fault=0.5)
    meant = rated(one.ratings)
    summary = meant.words
    if len(one.readings) > 1:
        summary += f" (mean; {len(one.readable)} of {len(one.readings)} verdicts could be read)"
    fault = meant.fault if math.isfinite(meant.fault) else 0.5
    return Reply(run=run, pieces=pieces, summary=summary, judged=one.verdicts, fault=fault, made_up=meant.made_up)


def _rounds(texts: Sequence[str]) -> str:
    """Return one text, or several as numbered lines: the rounds of a dialogue."""
    if len(texts) < 2:
        return "".join(texts)
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def read_each(
    strict: Callable[[str], Reading], official: Callable[[str], Reading]
) -> Callable[[Sequence[BenchmarkItem], Mapping[str, Verdict], str], dict[str, Reading]]:
    """Return what reads one repeat's verdicts, each for itself.

    It raises AmpError where an item has no verdict and the rule is `official`.
    """

    def read(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict], rule: str) -> dict[str, Reading]:
        if rule == "strict":
            return {item_id: strict(verdict.text) for item_id, verdict in verdicts.items()}
        refuse_missing(items, verdicts)
        return {item_id: official(verdict.text) for item_id, verdict in verdicts.items()}

    return read


def judge_sentence(scores: Mapping[str, Any]) -> str:
    """Say who judged, by which template, how often, and what could not be read."""
    if not (judge := scores.get("judge")):
        return ""
    names = ", ".join(judge["reported_models"]) or judge.get("model") or judge.get("file") or judge.get("kind", "?")
    template = judge.get("template")
    parts = [f"judged by {names}"]
    if template:
        parts.append(f"template {template['name']} ({template['origin']}, {template['sha256'][:8]})")
    if scores["repeats"] > 1:
        parts.append(f"{scores['repeats']} verdicts an item")
    if scores["unread_verdicts"]:
        parts.append(f"{scores['unread_verdicts']:,} of {judge['replies']:,} verdicts unreadable")
    if judge.get("cost") is not None:
        parts.append(f"cost {judge['cost']:.2f}")
    return "; ".join(parts)


def data_options(data: str) -> tuple[Option, ...]:
    """Return the options of a judged benchmark, whose folder holds `data`."""
    return (Option(name="data", help=f"{data} (default: what `amp download` fetched)"), OFFICIAL)


def judged_benchmark(
    *,
    name: str,
    title: str,
    help: str,
    data: str,
    load: Callable[[Path, "EvalSettings"], LoadedBenchmark],
    adopt: Callable[[Path, Sequence[BenchmarkItem], Path, "EvalSettings"], dict[str, Answer]],
    judge: Judged,
    rows: Callable[[Sequence[JudgedScore]], "Array"],
    rates: Rates,
    summarise: Callable[[Sequence[JudgedScore], str], dict[str, Any]],
    tables: Callable[[Mapping[str, Any]], list[Table]],
    columns: tuple[Column, ...],
    differences: Sequence[str],
    rated: Callable[[Sequence[float]], Rated] = rated_of_six,
    **others: Any,
) -> Benchmark[JudgedScore]:
    """Return a benchmark whose answers are rated by a judge.

    Args:
        data: what its folder holds, for the help page.
        rows: (items, counts) what each item adds. rates: names the scores of (draws, counts) sums.
        differences: the names of the scores in which two runs are compared.
        rated: says what an item's ratings are.
        others: more fields of Benchmark.
    """

    def compare(pairs: Sequence[tuple[JudgedScore, JudgedScore]], rule: str) -> list[Difference]:
        paired = paired_differences(pairs, lambda scores: by_image(rows(scores), scores), rates)
        return chosen_differences(paired, differences)

    return Benchmark(
        name=name,
        title=title,
        help=help,
        options=data_options(data),
        template="authors",
        load=load,
        adopt=adopt,
        judge=judge,
        summarise=summarise,
        read_score=JudgedScore.from_json,
        is_scored=lambda one: bool(one.readable),
        is_readable=lambda one: any(said.ratings is not None and not said.substituted for said in one.readings),
        compare=compare,
        row=lambda first, given: row(first, given, rated),
        tables=tables,
        columns=columns,
        about=judge_sentence,
        **others,
    )
