"""What the page draws: scores and differences as dots with intervals on a zoomed axis, and how beliefs lie."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.margins import Distribution
from amp_cli.benchmarks.showing import Column, digits_of, shown
from amp_cli.report.runs import GatheredRun

DIRECTIONS = {True: "lower is better", False: "higher is better", None: "neither end is better"}
WORDS = {"better": "better", "worse": "worse", "other": "changed", "same": "no difference", "": "may be chance"}
"""What is said of a judgement; "" is that of a difference that is not clear."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The part of a scale that is drawn; `ticks` are (place, label), every place a percentage of the width."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Return where a value lies, in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A run's score or difference in a plot: places in percent of the width, texts, and what is seen in words."""

    name: str
    series: int
    place: float
    low: float | None
    high: float | None
    value: str
    interval: str
    judgement: str
    seen: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One score of all runs. `zero` is where no difference lies, None where scores and no differences are drawn."""

    title: str
    direction: str
    axis: Axis
    zero: float | None
    is_better_left: bool | None
    dots: tuple[Dot, ...]


def axis(values: Sequence[float], *, is_difference: bool, full: float) -> Axis:
    """Return an axis that holds the values with a little room, on round steps.

    Args:
        full: the whole scale, from which the width comes where all values are the same.
    """
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.01 * full
    starts = low - room if is_difference or low < 0 else max(0.0, low - room)
    ends = high + room
    step = _round_step((ends - starts) / 6)
    first, last = math.ceil(starts / step - 1e-9), math.floor(ends / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9), len(f"{step:.10f}".rstrip("0").partition(".")[2]))
    made = Axis(low=starts, high=ends, ticks=())
    labels = []
    for number in range(first, last + 1):
        value = number * step
        sign = "+" if is_difference and number > 0 else ""
        labels.append((made.place(value), "0" if not number else minus(f"{sign}{value:.{digits}f}")))
    return Axis(low=starts, high=ends, ticks=tuple(labels))


def minus(text: str) -> str:
    """Return a number with a real minus sign."""
    return text.replace("-", "−")


def _round_step(wanted: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next((times * power for times in (1, 2, 5) if times * power >= wanted * (1 - 1e-9)), 10 * power)


def difference_text(difference: Difference) -> str:
    """Return `+0.029 [+0.011, +0.047]`."""
    if difference.difference is None or difference.ci95 is None:
        return ""
    digits = digits_of(difference.name)
    low, high = difference.ci95
    return f"{difference.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def judgement_of(difference: Difference, lower_is_better: bool | None) -> str:
    """Return "better", "worse", "other" where neither end is good, "same", or "" where the difference is not clear."""
    if difference.difference == 0 and difference.ci95 is not None and not any(difference.ci95):
        return "same"
    if not difference.is_clear or difference.difference is None:
        return ""
    if lower_is_better is None:
        return "other"
    return "better" if (difference.difference < 0) == lower_is_better else "worse"


def difference_of(column: Column, name: str, run: GatheredRun) -> Difference | None:
    """Return how a run's score differs from the first run's; None where that is not known."""
    found = (one for one in run.evaluations[name].differences if one.name == column.difference)
    return next((one for one in found if one.difference is not None and one.ci95 is not None), None)


def _side(low: float, high: float) -> str:
    """Say where an interval is seen; one beside zero may still be chance, once its p-value is corrected."""
    if low > 0:
        return "right of zero"
    return "left of zero" if high < 0 else "across zero"


Having = Sequence[tuple[int, GatheredRun]]
"""The runs that have a benchmark, each with its place among all runs."""


def difference_plots(benchmark: Benchmark[Any], having: Having) -> tuple[Plot, ...]:
    """Return a plot of each score in which any run was compared with the first; scores of one scale share an axis."""
    base = having[0][1].name

    def dots_of(column: Column) -> list[_Drawn]:
        drawn = []
        for number, run in having[1:]:
            found = difference_of(column, benchmark.name, run)
            if found is None or found.difference is None or found.ci95 is None:
                continue
            judgement = judgement_of(found, column.lower_is_better)
            text, _, bounds = difference_text(found).partition(" ")
            says = f"{run.name} less {base}: {text}, 95 % interval {bounds[1:-1].replace(', ', ' to ')}"
            seen = minus(f"{says}, {_side(*found.ci95)}: {WORDS[judgement]}")
            drawn.append(
                _Drawn(run.name, number, found.difference, found.ci95, minus(text), minus(bounds), judgement, seen)
            )
        return drawn

    return _plots(benchmark, dots_of, is_difference=True)


def level_plots(benchmark: Benchmark[Any], having: Having) -> tuple[Plot, ...]:
    """Return a plot of each score of the runs by themselves; scores of one scale share an axis."""

    def dots_of(column: Column) -> list[_Drawn]:
        drawn = []
        for number, run in having:
            scores = run.evaluations[benchmark.name].scores
            value, bounds = column.value(scores), column.interval(scores)
            if value is None:
                continue
            text = shown(value, name=column.name)
            ends = [shown(bound, name=column.name) for bound in bounds or ()]
            seen = f"{run.name}: {text}, " + (f"95 % interval {ends[0]} to {ends[1]}" if ends else "no interval")
            interval = f"[{ends[0]}, {ends[1]}]" if ends else ""
            drawn.append(_Drawn(run.name, number, value, bounds, text, interval, "", seen))
        return drawn

    return _plots(benchmark, dots_of, is_difference=False)


@dataclass(frozen=True)
class _Drawn:
    """A dot before its axis is known."""

    name: str
    series: int
    at: float
    bounds: Sequence[float] | None
    value: str
    interval: str
    judgement: str
    seen: str

    @property
    def ends(self) -> Sequence[float]:
        return (self.at, *(self.bounds or ()))


def _plots(
    benchmark: Benchmark[Any], dots_of: Callable[[Column], list[_Drawn]], *, is_difference: bool
) -> tuple[Plot, ...]:
    found = [(column, dots) for column in benchmark.columns if column.is_charted and (dots := dots_of(column))]
    found.sort(key=lambda one: -one[0].full)
    plots: dict[str, Plot] = {}
    for full, of_scale in groupby(found, key=lambda one: one[0].full):
        scale = list(of_scale)
        ends = [end for _, dots in scale for one in dots for end in one.ends]
        shared = axis([*ends, 0.0] if is_difference else ends, is_difference=is_difference, full=full)
        for column, dots in scale:
            plots[column.title] = Plot(
                title=column.title,
                direction=DIRECTIONS[column.lower_is_better],
                axis=shared,
                zero=shared.place(0.0) if is_difference else None,
                is_better_left=column.lower_is_better if is_difference else None,
                dots=tuple(_placed(one, shared) for one in dots),
            )
    return tuple(plots[column.title] for column in benchmark.columns if column.title in plots)


def _placed(one: _Drawn, on: Axis) -> Dot:
    low, high = (on.place(bound) for bound in one.bounds) if one.bounds else (None, None)
    return Dot(
        name=one.name,
        series=one.series,
        place=on.place(one.at),
        low=low,
        high=high,
        value=one.value,
        interval=one.interval,
        judgement=one.judgement,
        seen=one.seen,
    )


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """How one run's probabilities of yes and no lie: dots of a reliability diagram, and bars of a histogram.

    Attributes:
        dots: (mean p(yes), share of true yes, radius in pixels, what a pointer shows) of each bin with questions.
        bars: (share of the highest bar for a true yes, for a true no, what a pointer shows) of each bin of margins.
        borders: of the first and last bar, nats. threshold: at balance, as a share of the width; None if undefined.
        seen: what the drawing shows, in words.
    """

    name: str
    asked: str
    ece: str
    dots: tuple[tuple[float, float, float, str], ...]
    bars: tuple[tuple[float, float, str], ...]
    borders: tuple[int, int]
    threshold: float | None
    threshold_text: str
    seen: str


def beliefs_of(name: str, benchmark: Benchmark[Any], scores: Mapping[str, Any]) -> Beliefs | None:
    """Return what is drawn of a run's probabilities; None where it has none."""
    distribution = Distribution.of_scores(scores)
    if distribution is None:
        return None
    filled = [(one.n, one.yes, one.true) for one in distribution.calibration if one.yes is not None]
    known = [(n, yes, true) for n, yes, true in filled if yes is not None and true is not None]
    largest = max(one.n for one in distribution.calibration)
    dots = [
        (
            yes,
            true,
            2 + 5 * math.sqrt(n / largest),
            f"{n:,} questions: {shown(yes)} yes by the model, {shown(true)} in truth",
        )
        for n, yes, true in known
    ]
    low, high = distribution.borders[0], distribution.borders[-1]
    highest = max(*distribution.yes, *distribution.no)
    bars = [
        (yes / highest, no / highest, f"margin {start} to {end}: {yes:,} are truly yes, {no:,} are truly no")
        for (start, end), yes, no in zip(pairwise(distribution.borders), distribution.yes, distribution.no, strict=True)
    ]
    measured = {column.name: column.value(scores) for column in benchmark.columns}
    threshold = measured.get("threshold_at_balance")
    threshold_text = shown(threshold, name="threshold_at_balance")
    return Beliefs(
        name=name,
        asked=f"{distribution.n:,} questions",
        ece=shown(measured.get("ece")),
        dots=tuple(dots),
        bars=tuple(bars),
        borders=(low, high),
        threshold=None if threshold is None else min(max((threshold - low) / (high - low), 0.0), 1.0),
        threshold_text=threshold_text,
        seen=f"{_leaning(name, known)} Calibration error {shown(measured.get('ece'))}; as many yes as are true come "
        f"from a threshold at a margin of {threshold_text} nats.",
    )


def _leaning(name: str, known: Sequence[tuple[int, float, float]]) -> str:
    """Say how probable yes was held, and how often it is true."""
    asked = sum(n for n, _, _ in known)
    if not asked:
        return f"{name}: no question has a probability."
    held, true = (sum(one[0] * one[place] for one in known) / asked for place in (1, 2))
    return f"{name}: yes was held {held:.0%} probable on average, and is true for {true:.0%} of the questions."
