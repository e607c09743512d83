"""`amp report`: runs side by side, with intervals, beside the paper's rows."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli.commands.options import OUTPUT_PANEL, JsonOption, number

if TYPE_CHECKING:
    from amp_cli.report.runs import GatheredRun


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of `amp eval` or `amp train`, or folders that hold such. The first is the "
            "base; the page opens with the last."
        ),
    ],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one self-contained page here.", rich_help_panel=OUTPUT_PANEL)
    ] = None,
    title: Annotated[
        str | None,
        typer.Option("--title", help="The page's title (default: what came out).", rich_help_panel=OUTPUT_PANEL),
    ] = None,
    max_items: Annotated[
        int, number("--max-items", help="Questions listed on the page.", rich_help_panel=OUTPUT_PANEL)
    ] = 600,
    json: JsonOption = False,
) -> None:
    """Set evaluations side by side: scores, intervals, and the paired difference of each run to the first.

    Example: amp report runs/base-pope runs/mdpo-pope --html report.html
    """
    from amp_cli import ui
    from amp_cli.disk.one_file import alone_writing, is_page
    from amp_cli.report.report import write_report
    from amp_cli.report.runs import gather, name_runs

    with nullcontext() if html is None else alone_writing(html, command="report", is_ours=is_page, inputs=()):
        gathered = gather(name_runs(runs))
        result = write_report(gathered, title=title, html=html, max_items=max_items)
    if json:
        ui.data(result)
    else:
        show(gathered)
        ui.note(result["headline"])
    if html is not None:
        ui.note(f"Wrote '{html}'")


def show(runs: "list[GatheredRun]") -> None:
    """Print a table for each benchmark, the differences, and the paper's rows."""
    from amp_cli import ui
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.showing import shown
    from amp_cli.report.page import p_value_text
    from amp_cli.report.paper import quoted_table
    from amp_cli.report.plots import difference_text
    from amp_cli.report.runs import compared, sentences

    comparisons = len(compared(runs))
    for name, benchmark in BENCHMARKS.items():
        having = [run for run in runs if name in run.evaluations]
        if not having:
            continue
        rows = []
        for one in benchmark.columns:
            scores = [run.evaluations[name].scores for run in having]
            if any(one.value(of) is not None for of in scores):
                rows.append([one.title, *(shown(one.value(of), one.interval(of), name=one.name) for of in scores)])
        ui.table(f"{benchmark.title}; below each score its 95 % interval", ["", *(run.name for run in having)], rows)
        for run in having:
            for sentence in sentences(benchmark, run.evaluations[name]):
                ui.note(f"{run.name}: {sentence}")
        differences = [
            [
                run.name,
                one.name,
                difference_text(one),
                p_value_text(one),
                "clear" if one.is_clear else "may be chance",
            ]
            for run in having
            for one in run.evaluations[name].differences
        ]
        if differences:
            ui.table(
                f"Difference to {having[0].name}, same items; p corrected for {comparisons} comparisons",
                ["run", "score", "difference [95 %]", "p", ""],
                differences,
            )
        if quoted := quoted_table(name):
            ui.table(f"Quoted: {quoted.what} ({quoted.source})", quoted.columns, quoted.rows)
