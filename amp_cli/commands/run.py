"""`amp run`: a pipeline in one file, from data to a report of before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli import ui
from amp_cli.commands.options import OUTPUT_PANEL, RUNNING_PANEL, JsonOption, OverwriteOption

if TYPE_CHECKING:
    from amp_cli.commands.pipeline_file import Pipeline

AgainOption = Annotated[
    list[str] | None,
    typer.Option(
        "--again",
        metavar="STAGE",
        help="Do this stage and all that follows from it afresh: prefs, train, eval/before, ...; repeatable.",
        rich_help_panel=RUNNING_PANEL,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only print each command, what is done, what is missing, and what it takes; writes nothing.",
        rich_help_panel=RUNNING_PANEL,
    ),
]


def run(
    context: typer.Context,
    pipeline: Annotated[Path, typer.Argument(help="A .yaml file; `amp init` writes one.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for all results (default: the file's `out`)", rich_help_panel=OUTPUT_PANEL
        ),
    ] = None,
    again: AgainOption = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Run a pipeline: preferences, evaluation before, training, merging, evaluation after, report.

    What is done is skipped, what was stopped goes on. Paths in the file start from the current folder.

    Example: amp run pipeline.yaml --out runs/first
    """
    from amp_cli.commands.defaults import tell_unheard
    from amp_cli.commands.pipeline_file import read_pipeline

    read = read_pipeline(pipeline, context.find_root().command, out=out)
    tell_unheard(context, [stage.words for stage in read.stages])
    do(read, again=again or (), dry_run=dry_run, overwrite=overwrite, as_json=json)


def do(pipeline: "Pipeline", *, again: Sequence[str], dry_run: bool, overwrite: bool, as_json: bool) -> None:
    """Run a pipeline, or show what it would do; exit status 3 where a stage left items out."""
    from amp_cli.commands.pipeline import run_stages, show_results
    from amp_cli.commands.pipeline_plan import refuse_missing, show_plan
    from amp_cli.launching import use_one_thread

    if dry_run and (again or overwrite):
        raise typer.BadParameter("it writes nothing, so nothing is done afresh", param_hint="--dry-run")
    if dry_run:
        show_plan(pipeline, as_json=as_json)
        return
    redone = pipeline.stages if overwrite else pipeline.with_followers(again)
    if pipeline.base == "tiny":
        use_one_thread()
    refuse_missing(pipeline, redone={stage.name for stage in redone})
    result = run_stages(pipeline, again=again, overwrite=overwrite)
    if as_json:
        ui.data(result)
    else:
        show_results(pipeline, result)
    if result["left_out"]:
        raise typer.Exit(3)
