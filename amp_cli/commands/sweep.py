"""`amp eval sweep RUN`: every checkpoint of a training run on the cheap benchmarks, as a curve."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli.asking.answerer import Running
from amp_cli.commands.options import (
    DATA_PANEL,
    DECODING_PANEL,
    LOADING,
    MODEL_PANEL,
    RUNNING,
    ImageRootOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    number,
    takes,
)
from amp_cli.models.spec import Loading

if TYPE_CHECKING:
    from amp_cli.report.sweep import Sweep


UNASKED = ("pope", "chair")
"""The benchmarks that a sweep asks without being told: both are about COCO's images, so one --image-root is enough."""


@takes(loading=LOADING, running=RUNNING.only("batch_size", "num_processes", "seed"))
def sweep(
    run: Annotated[Path, typer.Argument(help="Run folder of `amp train`.")],
    out: OutOption,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]DIR",
            help="Files of pope or chair (default: what `amp download` fetched), dashb=DIR, hallusionbench=DIR or "
            "humblebench=DIR; repeatable.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    limit: Annotated[
        int,
        number(
            "--limit",
            help="Images of POPE and CHAIR, questions of the others, always the same.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = 100,
    model: Annotated[
        str | None, typer.Option("--model", help="Base model (default: the run's)", rich_help_panel=MODEL_PANEL)
    ] = None,
    loading: Loading = Loading(),
    image_root: ImageRootOption = None,
    num_beams: Annotated[int, number("--num-beams", help="Beams.", rich_help_panel=DECODING_PANEL)] = 4,
    max_new_tokens: Annotated[
        int,
        number("--max-new-tokens", help="Length limit of a description.", rich_help_panel=DECODING_PANEL),
    ] = 512,
    no_repeat_ngram_size: Annotated[
        int,
        number("--no-repeat-ngram-size", help="No n tokens twice in a description.", rich_help_panel=DECODING_PANEL),
    ] = 5,
    prompt_suffix: Annotated[
        str,
        typer.Option(
            "--prompt-suffix", help="Put after each question that asks for one word.", rich_help_panel=DECODING_PANEL
        ),
    ] = "\\nAnswer the question using a single word or phrase.",
    running: Running = Running(),
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Score every checkpoint of a training run on POPE and CHAIR, draw the curve, and name the best step.

    `amp train` keeps the two newest checkpoints; --set keep_checkpoints=20 keeps more of them for a sweep.

    DASH-B, HallusionBench and HumbleBench, whose images lie elsewhere, are asked where --data names them.

    Example: amp eval sweep runs/train --data pope=POPE/output/coco --image-root val2014 --limit 100 --out runs/sweep
    """
    from amp_cli import ui
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.settings import EvalSettings
    from amp_cli.errors import AmpError
    from amp_cli.report.everything import folder_of, named_folders
    from amp_cli.report.sweep import find_points, run_sweep, swept, trained_model

    points, left_out = find_points(run)
    for sentence in left_out:
        ui.warn(sentence)
    given = named_folders(data or (), swept())
    folders = {
        name: folder
        for name in swept()
        if (name in given or name in UNASKED) and (folder := folder_of(name, given)) is not None
    }
    if not folders:
        raise AmpError(
            "Neither POPE's nor CHAIR's files are at hand",
            hint="Give --data pope=DIR or --data chair=DIR, or run `amp download pope`",
        )
    trained = trained_model(run)
    spec = replace(
        loading,
        vision_tower=loading.vision_tower or trained.vision_tower,
        template=trained.template if loading.template == "auto" else loading.template,
    ).of(model or trained.model)
    asked = []
    for name, folder in folders.items():
        decoding = replace(BENCHMARKS[name].decoding, num_beams=num_beams)
        if BENCHMARKS[name].items == "descriptions":
            decoding = replace(decoding, max_new_tokens=max_new_tokens, no_repeat_ngram_size=no_repeat_ngram_size)
        asked.append(
            EvalSettings(
                benchmark=name,
                out=out,
                data=folder,
                limit=limit,
                spec=spec,
                image_root=image_root,
                prompt_suffix=suffix_of(name, prompt_suffix.replace("\\n", "\n")),
                decoding=decoding,
                running=running,
            )
        )
    result = run_sweep(run, points, asked, out, overwrite=overwrite)
    _show(result, as_json=json)
    if result.rejected:
        raise typer.Exit(3)


def suffix_of(name: str, given: str) -> str:
    """Return what is put after a benchmark's questions: what is given, unless its own asks for something else."""
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.benchmark import ONE_WORD

    own = {one.name: str(one.default) for one in BENCHMARKS[name].options}.get(ONE_WORD.name, ONE_WORD.default)
    return given if own == ONE_WORD.default else own


def _show(result: "Sweep", *, as_json: bool) -> None:
    """Print the scores by step, name the best, and warn of a last step that is clearly worse."""
    from amp_cli import ui
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.showing import shown

    if as_json:
        ui.data(result.to_json())
    else:
        curves = [(name, curve) for name in result.best for curve in BENCHMARKS[name].curves]
        rows = []
        for point, scores in zip(result.points, result.scores, strict=True):
            best_of = [name for name, step in result.best.items() if step == point.step]
            cells = [
                shown(curve.value(scores[name]), curve.interval(scores[name]), name=curve.name)
                for name, curve in curves
            ]
            rows.append([f"{point.step:,}", *cells, f"best {', '.join(best_of)}" if best_of else ""])
        ui.table(
            "Scores by step; below each its 95 % interval", ["step", *(curve.title for _, curve in curves), ""], rows
        )
    for one in result.overtrained:
        step = result.best[one.benchmark]
        lesson = "It was trained too long" if step else "Training did harm there"
        ui.warn(
            f"The last step ({result.points[-1].step:,}) is clearly worse on {one.benchmark} than step {step:,}: "
            f"{one.name} {one.other:.3f}, not {one.base:.3f}. {lesson}"
        )
    if result.rejected:
        ui.warn(f"{result.rejected:,} items have no score; see rejected.jsonl and items.jsonl below '{result.out}'")
    ui.note(f"Wrote '{result.out / 'sweep.json'}' and '{result.out / 'sweep.png'}'")
    best = next(point for point in result.points if point.step == next(iter(result.best.values())))
    if best.adapter is not None:
        ui.hint(ui.command_line("amp", "merge-lora", best.adapter, out=f"{best.adapter}-merged"))
