"""What an ablation says: means over seeds, paired differences with their uncertainty, sentences, a plot, pages.

A variant is compared with another on each seed, over the same items; those differences are what varies. With S of them,
of standard deviation s, the interval of their mean is Student's, with S - 1 degrees of freedom:

    seeds have items of their own    variance  max(s^2 / S, mean of the items' variances / S)
    all seeds share their items      variance  s^2 / S + the items' variance, which more seeds do not lower

The items' variance is that of the paired bootstrap over images (`benchmarks/comparing.py`). One seed gives no interval:
how much another training would differ is not known then. p-values are corrected by Holm (1979) over all comparisons
that the table makes.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import (
    LEVEL,
    MOST_SEEDS,
    Difference,
    Spread,
    holm,
    items_factor,
    seeds_needed,
    student,
)
from amp_cli.benchmarks.runner import read_scores
from amp_cli.benchmarks.showing import Column, Table, digits_of, shown
from amp_cli.disk.jsonl import disk_errors_explained, write_json, write_text
from amp_cli.errors import AmpError
from amp_cli.report.compare import Scored, compare_scored
from amp_cli.report.page import Curve, render_summary

RESULT, PLOT, PAGE, MARKDOWN = "ablation.json", "ablation.png", "ablation.html", "ablation.md"
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A score that variants are compared by."""

    benchmark: str
    column: Column

    @property
    def key(self) -> str:
        return f"{self.benchmark}/{self.column.difference}"

    @property
    def title(self) -> str:
        return _titled(self.benchmark, self.column)


def _titled(benchmark: str, column: Column) -> str:
    """Return a score's title with its benchmark's name, where it does not say that itself."""
    title = column.title.removesuffix(" (lower is better)")
    return title if benchmark in title.lower() else f"{benchmark} {title}"


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One variant against another by one score, over the seeds that both have.

    Attributes:
        differences: variant - against, by seed. mean, ci95, p_value: over the seeds; the latter two None with one seed.
        adjusted: the p-value, corrected for all comparisons of the table. same_sign: how many seeds have the mean's.
        seeds_needed: for 80 % power at the corrected level; None where it is clear, or where no number up to 200 would
            do. items_factor: how many times the items it would take where the items are what limits.
    """

    variant: str
    against: str
    score: str
    title: str
    lower_is_better: bool
    differences: dict[str, float]
    mean: float
    ci95: tuple[float, float] | None
    p_value: float | None
    adjusted: float | None = None
    same_sign: int
    seeds_needed: int | None = None
    items_factor: float | None = None

    @property
    def is_clear(self) -> bool:
        return self.adjusted is not None and self.adjusted < LEVEL

    @property
    def signs(self) -> str:
        return f"{self.same_sign} of {len(self.differences)}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "signs": self.signs, "clear": self.is_clear}


@dataclass(frozen=True, kw_only=True)
class _Found(Contrast):
    """A contrast, and what its uncertainty comes from."""

    spread: Spread


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The table.

    Attributes:
        scores: variant -> score key -> its mean over the seeds; the base first. columns: the keys' titles.
        by_seed: variant -> score key -> seed -> score. contrasts: the tested differences.
        seeds: by variant, those that it was trained from. held_out: whether they are the held-out ones.
    """

    scores: dict[str, dict[str, float | None]]
    columns: dict[str, str]
    by_seed: dict[str, dict[str, dict[str, float | None]]]
    contrasts: tuple[Contrast, ...]
    control: str
    seeds: dict[str, tuple[int, ...]]
    held_out: bool
    failed: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": self.scores,
            "by_seed": self.by_seed,
            "contrasts": [one.to_json() for one in self.contrasts],
            "comparisons": len(self.contrasts),
            "correction": "holm",
            "control": self.control,
            "seeds": {name: list(seeds) for name, seeds in self.seeds.items()},
            "held_out": self.held_out,
            "failed": list(self.failed),
            "sentences": sentences(self),
            "tables": [list(one) for one in tables(self)],
        }


Folders = Mapping[str, Mapping[int, Path]]
"""Variant -> seed -> the folder that holds its evaluations, each in a folder called as its benchmark."""


def compare_variants(
    folders: Folders,
    benchmarks: Sequence[str],
    *,
    control: str,
    shared_items: bool,
    held_out: bool,
    failed: Sequence[Mapping[str, Any]] = (),
) -> Ablation:
    """Compare every variant with the base and with the control.

    Args:
        folders: of the base too, under each seed.
        shared_items: whether all seeds are evaluated on the same items.
    """
    questions = [question for name in benchmarks for question in questions_of(name)]
    compared = _compare_pairs(folders, control, benchmarks)
    contrasts = [
        contrast
        for pair, (found, _) in compared.items()
        for contrast in _contrasts(pair, found, questions, shared_items=shared_items)
    ]
    not_done = [*map(dict, failed), *(one for _, reasons in compared.values() for one in reasons)]
    columns = {f"{name}/{_place(one)}": (name, one) for name in benchmarks for one in BENCHMARKS[name].columns}
    by_seed = {}
    for variant, of_seeds in folders.items():
        scores = {seed: {name: read_scores(folder / name) for name in benchmarks} for seed, folder in of_seeds.items()}
        by_seed[variant] = {
            key: {str(seed): column.value(of_seed[name]) for seed, of_seed in scores.items()}
            for key, (name, column) in columns.items()
        }
    tested = [question.key for question in questions]
    order = sorted(columns, key=lambda key: tested.index(key) if key in tested else len(tested))
    return Ablation(
        scores={variant: {key: _mean(scores[key]) for key in order} for variant, scores in by_seed.items()},
        columns={key: _titled(*columns[key]) for key in order},
        by_seed=by_seed,
        contrasts=tuple(_with_power(_corrected(contrasts))),
        control=control,
        seeds={variant: tuple(of_seeds) for variant, of_seeds in folders.items()},
        held_out=held_out,
        failed=tuple(not_done),
    )


def questions_of(benchmark: str) -> list[Question]:
    """Return what variants are compared by: the scores of which one end is good, and that a comparison knows."""
    found = BENCHMARKS[benchmark]
    columns = [one for one in found.curves or found.columns if one.difference and one.lower_is_better is not None]
    return [Question(benchmark=benchmark, column=one) for one in (columns if found.curves else columns[:1])]


def _place(column: Column) -> str:
    return column.difference or "/".join((*column.group, column.name))


def _mean(values: Mapping[str, float | None]) -> float | None:
    """Return the mean over the seeds; None where one of them has no score."""
    known = [one for one in values.values() if one is not None]
    return fmean(known) if known and len(known) == len(values) else None


Pair = tuple[str, str]
"""A variant, and what it is compared with."""
Found = dict[int, dict[str, Difference]]
"""Seed -> `BENCHMARK/SCORE` -> difference."""


def _compare_pairs(
    folders: Folders, control: str, benchmarks: Sequence[str]
) -> dict[Pair, tuple[Found, list[dict[str, Any]]]]:
    """Return each pair's differences, and why there are none; each folder is read once, those of a seed together."""
    against = [name for name in dict.fromkeys((BASE, control)) if name in folders]
    pairs = [(variant, one) for variant in folders for one in against if variant not in (BASE, one)]
    compared: dict[Pair, tuple[Found, list[dict[str, Any]]]] = {pair: ({}, []) for pair in pairs}
    for seed, name in product(dict.fromkeys(seed for of_seeds in folders.values() for seed in of_seeds), benchmarks):
        read = cache(lambda variant, seed=seed, name=name: Scored.read(folders[variant][seed] / name))
        for (variant, other), (found, reasons) in compared.items():
            if seed in folders[variant] and seed in folders[other]:
                try:
                    of_name = compare_scored(read(other), read(variant), with_measures=False)
                    found.setdefault(seed, {}).update({f"{name}/{one.name}": one for one in of_name})
                except AmpError as error:  # a variant whose answers nobody can read, say: the others are compared
                    reason = f"{name} is not compared with {other}: {error.message}"
                    reasons.append({"variant": variant, "seed": seed, "reason": reason})
    return compared


def _contrasts(pair: Pair, found: Found, questions: Sequence[Question], *, shared_items: bool) -> list[_Found]:
    contrasts = []
    for question in questions:
        of_seeds = {seed: one for seed, ones in found.items() if (one := ones.get(question.key)) is not None}
        differences = {str(seed): one.difference for seed, one in of_seeds.items() if one.difference is not None}
        errors = [(one.ci95[1] - one.ci95[0]) / (2 * 1.96) for one in of_seeds.values() if one.ci95 is not None]
        if differences:
            items = fmean(error**2 for error in errors) if errors else 0.0
            contrasts.append(_contrast(*pair, question, differences, items, shared=shared_items))
    return contrasts


def _contrast(
    variant: str, against: str, question: Question, differences: dict[str, float], items: float, *, shared: bool
) -> _Found:
    values = list(differences.values())
    mean, count = fmean(values), len(values)
    spread = Spread(between=variance(values) if count > 1 else 0.0, items=items, shared=shared)
    ci95 = p_value = None
    if count > 1:
        ci95, p_value = student(mean, spread.error(count), count)
    return _Found(
        variant=variant,
        against=against,
        score=question.key,
        title=question.title,
        lower_is_better=bool(question.column.lower_is_better),
        differences=differences,
        mean=mean,
        ci95=ci95,
        p_value=p_value,
        same_sign=sum((value > 0) == (mean > 0) and value != 0 for value in values) if mean else 0,
        spread=spread,
    )


def _corrected(contrasts: Sequence[_Found]) -> list[_Found]:
    adjusted = iter(holm([one.p_value for one in contrasts if one.p_value is not None]))
    return [one if one.p_value is None else replace(one, adjusted=next(adjusted)) for one in contrasts]


def _with_power(contrasts: Sequence[_Found]) -> list[Contrast]:
    """Add what an unclear difference would need to become clear, if it is as large as it looks."""
    level = LEVEL / max(1, len(contrasts))
    done = []
    for one in contrasts:
        kept = {name: value for name, value in vars(one).items() if name != "spread"}
        if not one.is_clear and len(one.differences) > 1 and one.mean:
            kept["seeds_needed"] = seeds_needed(one.mean, one.spread.error, level)
            if kept["seeds_needed"] is None and one.spread.shared and one.spread.items:
                kept["items_factor"] = items_factor(one.mean, one.spread, level)
        done.append(Contrast(**kept))
    return done


def sentences(ablation: Ablation) -> list[str]:
    """Return a sentence for each comparison, the clear ones first, and what the others would need."""
    clear_first = sorted(ablation.contrasts, key=lambda one: not one.is_clear)
    incomplete = [f"{one['variant']}, seed {one['seed']}, is not complete: {one['reason']}" for one in ablation.failed]
    return [*(_sentence(one, len(ablation.contrasts)) for one in clear_first), *incomplete]


def _sentence(one: Contrast, comparisons: int) -> str:
    digits = digits_of(one.score)
    against = "the base" if one.against == BASE else one.against
    start = f"{one.variant} against {against}, {one.title}: {one.mean:+.{digits}f}"
    if one.ci95 is None or one.adjusted is None:
        return f"{start} from one training seed, which cannot tell chance from effect; train from at least two."
    low, high = (f"{bound:+.{digits}f}" for bound in one.ci95)
    start += f", 95 % interval {low} to {high}"
    start += f", {'up' if one.mean > 0 else 'down'} on {one.signs} seeds" if one.mean else ""
    p_value = "p < 1e-16" if one.adjusted < 1e-16 else f"p = {one.adjusted:.3g}"
    corrected = f"{p_value} after correction for {comparisons} comparisons"
    if one.is_clear:
        judged = "better" if (one.mean < 0) == one.lower_is_better else "worse"
        return f"{start}: clearly {judged} ({corrected})."
    return f"{start}: unclear ({corrected}). {_need(one)}"


def _need(one: Contrast) -> str:
    if not one.mean:
        return "Nothing was seen to differ."
    if one.seeds_needed is not None and one.seeds_needed > len(one.differences):
        return f"If it is as large as it looks, {one.seeds_needed} seeds would show it in 4 of 5 tries."
    if one.seeds_needed is not None:
        return "If it is as large as it looks, so many seeds would show it in 4 of 5 tries; this was not one of them."
    if one.items_factor is not None:
        return f"The items limit it: it would take {one.items_factor:.0f} times as many, and more seeds."
    return f"{MOST_SEEDS} seeds would not show so small a difference."


def tables(ablation: Ablation) -> list[Table]:
    """Return the table of tested scores with their differences, and that of all other scores."""
    tested = list(dict.fromkeys(one.score for one in ablation.contrasts)) or list(ablation.columns)[:3]
    others = [key for key in ablation.columns if key not in tested]
    compared = f"differences to base{'' if ablation.control == BASE else f' and to {ablation.control}'}"
    which = "held-out seeds" if ablation.held_out else "seeds to choose on, not held out"
    head = (
        f"Means over {which}; {compared}, 95 % intervals over seeds, * clear after Holm's correction for "
        f"{len(ablation.contrasts)} comparisons"
    )
    first = (
        head,
        ["variant", "seeds", *(ablation.columns[key] for key in tested)],
        [
            [variant, str(len(ablation.seeds[variant])), *(_cell(ablation, variant, key) for key in tested)]
            for variant in ablation.scores
        ],
    )
    second = (
        "The other scores, means over the same seeds",
        ["variant", *(ablation.columns[key] for key in others)],
        [[variant, *(shown(scores[key], name=key) for key in others)] for variant, scores in ablation.scores.items()],
    )
    return [first, second] if others else [first]


def _cell(ablation: Ablation, variant: str, key: str) -> str:
    lines = [shown(ablation.scores[variant][key], name=key)]
    digits = digits_of(key)
    for one in ablation.contrasts:
        if (one.variant, one.score) != (variant, key):
            continue
        bounds = "" if one.ci95 is None else f" [{one.ci95[0]:+.{digits}f}, {one.ci95[1]:+.{digits}f}]"
        star = " *" if one.is_clear else ""
        lines.append(f"{one.against}: {one.mean:+.{digits}f}{bounds} {one.signs}{star}")
    return "\n".join(lines)


def write_ablation(
    ablation: Ablation, out: Path, *, title: str, notes: Sequence[str], chosen_on: Ablation | None = None
) -> dict[str, Any]:
    """Write the result as JSON, Markdown and a page, and the plot where a benchmark has a trade-off; return the JSON.

    Args:
        chosen_on: the result on the seeds that were there to choose on, where `ablation` is that on held-out ones.
    """
    result = ablation.to_json() | {"chosen_on": None if chosen_on is None else chosen_on.to_json()}
    write_json(out / RESULT, result)
    curves = []
    if drawn := draw_tradeoff(ablation, out / PLOT):
        source = "data:image/png;base64," + base64.b64encode((out / PLOT).read_bytes()).decode("ascii")
        curves = [Curve(name=drawn, source=source, seen="")]
    found, said = tables(ablation) + ([] if chosen_on is None else tables(chosen_on)[:1]), sentences(ablation)
    lines = [f"# {title}", *notes]
    for heading, columns, rows in found:
        lines += [f"## {heading}", _markdown(columns, rows)]
    lines += ["## Differences", "\n".join(f"- {one}" for one in said)]
    lines += [f"![{one.name}]({PLOT})" for one in curves]
    write_text(out / MARKDOWN, "\n\n".join(lines) + "\n")
    write_text(out / PAGE, render_summary(title=title, notes=notes, tables=found, sentences=said, curves=curves))
    return result


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        safe = (one.replace("|", "\\|").replace("*", "\\*").replace("\n", "<br>") for one in cells)
        return f"| {' | '.join(safe)} |"

    return "\n".join([line(columns), f"|{' --- |' * len(columns)}", *map(line, rows)])


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f")
"""Okabe and Ito's, which colour-blind people tell apart; yellow, too pale on white, is darker here."""
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""As many as have no common factor with the colours, so that 63 variants differ."""


def draw_tradeoff(ablation: Ablation, path: Path) -> str:
    """Draw the first trade-off that was evaluated, each variant's mean and a line to each seed.

    Returns:
        What is drawn; "" where there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    benchmarks = dict.fromkeys(key.partition("/")[0] for key in ablation.columns)
    name, tradeoff = next(((one, found) for one in benchmarks if (found := BENCHMARKS[one].tradeoff)), ("", None))
    if tradeoff is None:
        return ""
    across, up = tradeoff
    of_variants = {
        variant: points
        for variant, scores in ablation.by_seed.items()
        if (points := _points(*(scores[f"{name}/{_place(one)}"] for one in tradeoff)))
    }
    if not of_variants:
        return ""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (variant, points) in enumerate(of_variants.items()):
        x, y = (fmean(values) for values in zip(*points, strict=True))
        is_base = variant == BASE
        colour = "#1d2125" if is_base else COLOURS[number % len(COLOURS)]
        for of_seed in points:
            axes.plot([x, of_seed[0]], [y, of_seed[1]], color=colour, alpha=0.35, linewidth=1)
        shape = "*" if is_base else SHAPES[number % len(SHAPES)]
        size = 12 if is_base else 8
        axes.plot([x], [y], marker=shape, markersize=size, color=colour, linestyle="", label=variant)
    axes.set_xlabel(f"{across.title} ({'left' if across.lower_is_better else 'right'} is better)")
    axes.set_ylabel(f"{up.title} ({'down' if up.lower_is_better else 'up'} is better)")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, title="mean; lines to each seed")
    disk_errors_explained(lambda: figure.savefig(path, format="png", dpi=110, metadata={"Software": None}), path)
    return f"{across.title}, against {up.title}"


def _points(across: Mapping[str, float | None], up: Mapping[str, float | None]) -> list[tuple[float, float]]:
    """Return a variant's two scores by seed, of the seeds that have both."""
    pairs = zip(across.values(), up.values(), strict=True)
    return [(x, y) for x, y in pairs if x is not None and y is not None]
