"""What a report opens with, all of the last run and the first: a title from the result, a sentence, three numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.showing import Column, shown
from amp_cli.report.plots import difference_of, difference_text, judgement_of, minus
from amp_cli.report.runs import GatheredRun

MOST_NAMED = 3
"""Scores that a part of the sentence names; more are counted."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A score to read at a glance: what it is, its value, the value before, and how sure the difference is."""

    what: str
    value: str
    before: str
    difference: str
    judgement: str


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first lines of a report. `base` and `other` are the runs that they are about; no `other` without a second."""

    title: str
    sentence: str
    numbers: tuple[Number, ...]
    base: str = ""
    other: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A score of the two runs; `is_main` is what its benchmark is first of all about."""

    called: str
    column: Column
    difference: Difference
    is_main: bool

    @property
    def judgement(self) -> str:
        return judgement_of(self.difference, self.column.lower_is_better)

    @property
    def is_same(self) -> bool:
        """Whether both runs have the same score, be it by chance."""
        return self.judgement == "same" or (not self.judgement and self.difference.difference == 0)

    @property
    def change(self) -> str:
        """`BENCHMARK accuracy (all) from 0.612 to 0.688`."""
        before, after = (shown(one, name=self.column.name) for one in (self.difference.base, self.difference.other))
        if self.is_same:
            return f"{self.called}, {after}"
        return f"{self.called} from {before} to {after}"


def opening_of(runs: Sequence[GatheredRun]) -> Opening:
    """Return the opening: the last run that was compared with the first, every clear loss named beside the gains."""
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        names = ", ".join(run.name for run in runs)
        return Opening(title=f"Training of {names}", sentence="No evaluation was given.", numbers=())
    other = next((run for run in reversed(evaluated) if any(one.differences for one in run.evaluations.values())), None)
    compared = [] if other is None else list(_compared(other))
    if other is None or not compared:
        return _of_one(evaluated)
    base = evaluated[0].name
    numbers = sorted(compared, key=_rank)[:3]
    return Opening(
        title=_title(base, other.name, compared),
        sentence=_sentence(base, other.name, compared),
        numbers=tuple(map(_number, numbers)),
        base=base,
        other=other.name,
    )


def _compared(run: GatheredRun) -> Iterator[_Compared]:
    """Yield the scores of a run that were compared and of which one end is better."""
    for name in run.evaluations:
        benchmark = BENCHMARKS[name]
        main = benchmark.curves[0].difference if benchmark.curves else None
        is_first = True
        for column in benchmark.columns:
            difference = difference_of(column, name, run)
            if difference is None or column.lower_is_better is None:
                continue
            is_main = column.difference == main if main else is_first
            yield _Compared(called=called(name, column), column=column, difference=difference, is_main=is_main)
            is_first = False


def called(benchmark: str, column: Column) -> str:
    """Return what a score is called outside its own table: `BENCHMARK accuracy (all)`."""
    of = BENCHMARKS[benchmark].title.partition(":")[0]
    score, _, rest = column.title.partition(", ")
    return (score if score.startswith(of) else f"{of} {score}") + (f" ({rest})" if rest else "")


def _rank(one: _Compared) -> tuple[bool, bool, bool]:
    """Put main scores first, then what was lost, then what is had at the cost of the first."""
    if one.is_main:
        return False, False, False
    tradeoff = BENCHMARKS[one.difference.benchmark].tradeoff
    partners = [] if tradeoff is None else [column.difference for column in tradeoff]
    return True, one.judgement != "worse", one.column.difference not in partners


def _number(one: _Compared) -> Number:
    name = one.column.name
    return Number(
        what=one.called,
        value=shown(one.difference.other, name=name),
        before=shown(one.difference.base, name=name),
        difference=minus(difference_text(one.difference)),
        judgement=one.judgement,
    )


def _title(base: str, other: str, compared: Sequence[_Compared]) -> str:
    counts = {kind: sum(one.judgement == kind for one in compared) for kind in ("better", "worse")}
    of = "1 score" if len(compared) == 1 else f"{len(compared)} scores"
    if not any(counts.values()):
        return f"{other} against {base}: no clear difference in {of}"
    said = [f"clearly {kind} in {count}" for kind, count in counts.items() if count]
    return f"{other} against {base}: {' and '.join(said)} of {of}"


def _sentence(base: str, other: str, compared: Sequence[_Compared]) -> str:
    """Say of every main score, and of every other one that is clearly worse, what came of it."""
    told: dict[str, list[_Compared]] = {"better": [], "worse": [], "": [], "same": []}
    for one in sorted(compared, key=lambda one: not one.is_main):
        if one.is_main or one.judgement == "worse":
            told["same" if one.is_same else one.judgement].append(one)
    parts = []
    if told["better"]:
        parts.append(f"{other} is clearly better than {base} in {_listed(told['better'])}")
    if told["worse"]:
        worse = _listed(told["worse"])
        if parts:
            parts[0] += f", but clearly worse in {worse}"
        else:
            parts.append(f"{other} is clearly worse than {base} in {worse}")
    if told[""]:
        whose = "" if parts else f" between {other} and {base}"
        parts.append(f"the difference{whose} in {_listed(told[''])} may be chance")
    if told["same"]:
        whose = "" if parts else f" between {other} and {base}"
        parts.append(f"there is no difference{whose} in {_listed(told['same'])}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if not told["better"] and not told["worse"] else f"{text}."


def _listed(scores: Sequence[_Compared]) -> str:
    named = [one.change for one in scores[:MOST_NAMED]]
    if len(scores) > MOST_NAMED:
        named.append(f"{len(scores) - MOST_NAMED} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _of_one(evaluated: Sequence[GatheredRun]) -> Opening:
    """Return the opening where nothing was compared: the scores of the first run by themselves."""
    first = evaluated[0]
    numbers = []
    for place in range(max(len(BENCHMARKS[name].columns) for name in first.evaluations)):
        for name, evaluation in first.evaluations.items():
            column = next(iter(BENCHMARKS[name].columns[place : place + 1]), None)
            value = None if column is None else column.value(evaluation.scores)
            if column is None or value is None or column.lower_is_better is None:
                continue
            bounds = column.interval(evaluation.scores)
            ends = [shown(bound, name=column.name) for bound in bounds or ()]
            numbers.append(
                Number(
                    what=called(name, column),
                    value=shown(value, name=column.name),
                    before="",
                    difference=f"[{ends[0]}, {ends[1]}]" if ends else "",
                    judgement="",
                )
            )
    numbers = numbers[:3]
    said = " and ".join(f"{one.value} in {one.what}" for one in numbers[:2])
    why = (
        "give a second run to compare it with"
        if len(evaluated) == 1
        else "no other run answered the same questions under the same judge and rule"
    )
    return Opening(
        title=f"{first.name}: {numbers[0].what} {numbers[0].value}" if numbers else first.name,
        sentence=f"{first.name} reaches {said}; {why}." if said else f"{first.name} has no score; {why}.",
        numbers=tuple(numbers),
        base=first.name,
    )
