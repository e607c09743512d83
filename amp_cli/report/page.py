"""The report as one self-contained HTML page: what came out, differences, tables, answers, training curves, prose."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.showing import Column, Table, shown
from amp_cli.disk.run import Run
from amp_cli.disk.templates import template_path
from amp_cli.report.answers import choose_example, choose_images, rows_by_image
from amp_cli.report.opening import Opening
from amp_cli.report.paper import QuotedTable, quoted_table
from amp_cli.report.plots import (
    WORDS,
    Beliefs,
    Plot,
    beliefs_of,
    difference_of,
    difference_plots,
    difference_text,
    judgement_of,
    level_plots,
    minus,
)
from amp_cli.report.runs import GatheredRun, sentences
from amp_cli.training.curves import CURVES, DARK_CURVES, describe_curves


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A score as text, its interval, and how it differs from the first run."""

    value: str
    interval: str = ""
    difference: str = ""
    p_value: str = ""
    judgement: str = ""  # a key of WORDS; "" means that it may be chance


@dataclass(frozen=True, kw_only=True)
class Section:
    """A benchmark: its plots, its table, how to read them, and the paper's rows in a table of their own.

    `measured` are the runs' own numbers in the columns of the paper's table, where their own table lacks them.
    """

    title: str
    rule: str
    asked: str
    plots: tuple[Plot, ...]
    are_differences: bool
    beliefs: tuple[Beliefs, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    has_p_values: bool
    reading: str
    quoted: QuotedTable | None
    measured: tuple[list[str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A plot as a data address: what it is, what is seen in it, and its version for dark pages, if there is one."""

    name: str
    source: str
    seen: str
    dark: str = ""


def render_page(
    runs: Sequence[GatheredRun],
    opening: Opening,
    *,
    title: str | None,
    notes: Sequence[str],
    commands: Sequence[str],
    max_items: int,
) -> str:
    """Return the page. All text of models and data is escaped.

    Args:
        title: instead of the opening's.
    """
    rows = rows_by_image(runs)
    images, total = choose_images(rows, max_items)
    return _render(
        title=title or opening.title,
        opening=opening,
        example=choose_example(rows, opening.base, opening.other),
        notes=list(notes),
        commands=list(commands),
        names=[run.name for run in runs],
        sections=[_section(name, runs) for name in BENCHMARKS if any(name in run.evaluations for run in runs)],
        curves=_curves(runs),
        images=images,
        shown_items=sum(image.count for image in images),
        differing=sum(image.differing for image in images),
        total_items=total.items,
        total_images=total.images,
        made=date.today().isoformat(),
        folders=[(run.name, str(run.path)) for run in runs],
    )


def render_summary(
    *, title: str, notes: Sequence[str], tables: Sequence[Table], sentences: Sequence[str], curves: Sequence[Curve]
) -> str:
    """Return a page of finished tables, sentences and plots, which is the same whenever it is made."""
    return _render(title=title, remarks=list(notes), tables=list(tables), sentences=list(sentences), plots=list(curves))


def _render(**parts: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    template = template_path("report", "report.html.jinja")
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    absent: dict[str, Any] = dict.fromkeys(PARTS, ())
    beside = {
        name: template_path("report", f"report.{kind}").read_text(encoding="utf-8")
        for name, kind in (("style", "css"), ("script", "js"))
    }
    return environment.get_template(template.name).render(absent | beside | {"made": "", "words": WORDS} | parts)


PARTS = (
    "opening", "example", "notes", "names", "sections", "curves", "images", "commands", "folders", "remarks", "tables",
    "sentences", "plots",
)  # fmt: skip
"""What a page may hold; what is not given is left out of it."""


def _section(name: str, runs: Sequence[GatheredRun]) -> Section:
    benchmark = BENCHMARKS[name]
    having = [(number, run) for number, run in enumerate(runs) if name in run.evaluations]
    columns = [
        column
        for column in benchmark.columns
        if any(column.value(run.evaluations[name].scores) is not None for _, run in having)
    ]
    scores = having[0][1].evaluations[name].scores
    rows = tuple((run.name, tuple(_cell(column, name, run) for column in columns)) for _, run in having)
    quoted = quoted_table(name)
    measure = None if quoted is None else quoted.measured
    differences = difference_plots(benchmark, having)
    return Section(
        title=benchmark.title,
        rule=scores["rule"],
        asked=f"{benchmark.count(scores):,} {benchmark.items}",
        plots=differences or level_plots(benchmark, having),
        are_differences=bool(differences),
        beliefs=tuple(
            beliefs for _, run in having if (beliefs := beliefs_of(run.name, benchmark, run.evaluations[name].scores))
        ),
        headings=tuple(column.title for column in columns),
        rows=rows,
        has_p_values=any(cell.p_value for _, cells in rows for cell in cells),
        reading=benchmark.reading,
        quoted=quoted,
        measured=tuple([run.name, *measure(run.evaluations[name].scores)] for _, run in having) if measure else (),
        notes=tuple(
            f"{run.name}: {sentence}" for _, run in having for sentence in sentences(benchmark, run.evaluations[name])
        ),
    )


def _cell(column: Column, name: str, run: GatheredRun) -> Cell:
    evaluation = run.evaluations[name]
    value, bounds = column.value(evaluation.scores), column.interval(evaluation.scores)
    whole = shown(value, bounds, name=column.name)
    text, _, interval = whole.partition("\n")
    difference = difference_of(column, name, run)
    if difference is None:
        return Cell(value=text, interval=interval)
    return Cell(
        value=text,
        interval=interval,
        difference=minus(difference_text(difference)),
        p_value=p_value_text(difference),
        judgement=judgement_of(difference, column.lower_is_better),
    )


def p_value_text(difference: Difference) -> str:
    """Return `p = 0.004, corrected 0.012`; McNemar's p where that is the test."""
    if difference.p_value is None:
        return ""
    corrected = "" if difference.adjusted is None else f", corrected {_p(difference.adjusted).removeprefix('= ')}"
    return f"p {_p(difference.p_value)}{corrected}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _curves(runs: Sequence[GatheredRun]) -> list[Curve]:
    """Return the plots of the training runs among `runs`, each once."""
    plots = {folder / CURVES: run for run in runs for folder in run.training}
    return [
        Curve(
            name=f"{run.name}: {Run.read(plot.parent).settings.get('method', 'training')}",
            source=_png(plot),
            dark=_png(dark) if (dark := plot.with_name(DARK_CURVES)).is_file() else "",
            seen=describe_curves(plot.parent),
        )
        for plot, run in plots.items()
        if plot.is_file()
    ]


def _png(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
