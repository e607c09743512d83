"""`amp ablate`: what does each choice do? Variants of one training over several seeds, compared as the plan says."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli import stopping, ui
from amp_cli.commands.defaults import NONE, without_defaults
from amp_cli.commands.options import RUNNING_PANEL, JsonOption, OutOption, OverwriteOption, number
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from amp_cli.commands.ablation import AblationCell, Workshop
    from amp_cli.commands.ablation_plan import AblationPlan


def ablate(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="A .yaml file; templates/ablations/paper.yaml is one to copy.")],
    out: OutOption,
    final: Annotated[
        bool,
        typer.Option("--final", help="Run the held-out seeds too: when nothing is left to choose.", show_default=False),
    ] = False,
    jobs: Annotated[
        int,
        number("--jobs", help="Cells at once, each on a GPU of its own where there are any."),
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only show cells, steps, tokens and time; writes nothing.",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = False,
    rate: Annotated[
        float | None,
        number(
            "--rate",
            metavar="TOKENS",
            help="With --dry-run: tokens a second that are trained on (default: as finished cells took)",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None,
    job: Annotated[int | None, number("--job", hidden=True)] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Train and evaluate variants from several seeds, at equal tokens, and say which differences are clear.

    A killed command goes on; variants and seeds may be added to a plan until --final has run its held-out seeds.

    Example: amp ablate templates/ablations/paper.yaml --out runs/ablation --jobs 2
    """
    from amp_cli.commands.ablation import Workshop
    from amp_cli.commands.ablation_plan import read_plan
    from amp_cli.launching import use_one_thread

    amp = context.find_root().command
    read = read_plan(plan)
    if read.base == "tiny":
        use_one_thread()
    workshop = Workshop(read, out, type_in=lambda words: amp.main(words, prog_name="amp", standalone_mode=False))
    if job is not None:
        _be_a_job(workshop, job, final=final)
        return
    if dry_run:
        show_dry_run(workshop, final=final, rate=rate, as_json=json)
        return
    _refuse_too_many(jobs)

    def work(cells: "Sequence[AblationCell]", final: bool) -> None:
        if jobs == 1:
            workshop.work(cells)
        else:
            _in_jobs(workshop, cells, plan, jobs, final=final)

    result = run_ablation(workshop, work, final=final, overwrite=overwrite)
    show(result, out, as_json=json)
    if result["failed"] or result["undone"]:
        raise typer.Exit(3)


def run_ablation(
    workshop: "Workshop", work: "Callable[[Sequence[AblationCell], bool], None]", *, final: bool, overwrite: bool
) -> dict[str, Any]:
    """Do all cells that the plan asks for, and write and return what they say.

    Args:
        work: does cells; it is told whether the held-out seeds are among them.
    """
    from amp_cli.commands.ablation import CELL, COMMAND, FAILED, hold_to_promises, inputs_of_plan
    from amp_cli.report.ablation import compare_variants, write_ablation

    plan, out = workshop.plan, workshop.out
    inputs = inputs_of_plan(plan)
    with Run.start(out, command=COMMAND, settings=plan.to_json(), overwrite=overwrite, inputs=inputs) as run:
        final = hold_to_promises(run, plan, final=final)
        cells = workshop.cells([*plan.seeds, *(plan.held_out if final else ())])
        for cell in cells:
            (workshop.folder(cell) / FAILED).unlink(missing_ok=True)
            workshop.is_done(cell)
        if plan.match == "seconds":
            workshop.probe()
        work(cells, final)
        failed = workshop.failures(cells)
        if len(failed) == sum(cell.variant is not None for cell in cells):
            raise AmpError(f"Every cell failed, first: {failed[0]['reason']}", hint=failed[0]["hint"])
        of_seeds = {
            seeds: compare_variants(
                _folders(workshop, seeds),
                [name for name, _ in plan.evaluate],
                control=plan.control,
                shared_items=plan.items_are_shared,
                held_out=seeds == plan.held_out,
                failed=[one for one in failed if one["seed"] in seeds],
            )
            for seeds in ((plan.held_out, plan.seeds) if final else (plan.seeds,))
        }
        found = list(of_seeds.values())
        result = write_ablation(
            found[0],
            out,
            title=f"Ablation of {plan.base}",
            notes=_notes(plan, final=final),
            chosen_on=found[1] if final else None,
        )
        done = [
            read_plain_object(file, undone=int) for cell in cells if (file := workshop.folder(cell) / CELL).is_file()
        ]
        run.finish(cells=len(done), failed=failed)
    taken = [one["cpu_seconds"] for one in done]
    return {
        **result,
        "failed": failed,
        "undone": sum(one["undone"] for one in done),
        "final": run.facts.get("final"),
        "cpu_seconds": None if None in taken else round(sum(taken), 1),
        "out": str(out),
    }


def _folders(workshop: "Workshop", seeds: Sequence[int]) -> dict[str, dict[int, Path]]:
    """Return variant -> seed -> folder of the cells that are done, the base under each seed."""
    from amp_cli.commands.ablation import CELL, AblationCell
    from amp_cli.commands.ablation_plan import BASE

    def place(name: str, seed: int) -> Path:
        is_base = name == BASE
        variant = None if is_base else workshop.plan.variant(name)
        return workshop.folder(
            AblationCell(variant=variant, seed=None if is_base and workshop.plan.items_are_shared else seed)
        )

    names = [BASE, *(variant.name for variant in workshop.plan.variants)]
    found = {
        name: {seed: folder for seed in seeds if ((folder := place(name, seed)) / CELL).is_file()} for name in names
    }
    return {name: of_seeds for name, of_seeds in found.items() if of_seeds}


def _notes(plan: "AblationPlan", *, final: bool) -> list[str]:
    length = {
        "tokens": f"as many tokens as {plan.control} in {plan.steps:,} steps, counted from what is fed "
        "(trained on 3, read as the reference 1)",
        "steps": f"{plan.steps:,} steps",
        "seconds": f"as long as {plan.control} takes for {plan.steps:,} steps, by a step's time in a short training",
    }
    seeds = ", ".join(map(str, plan.held_out if final else plan.seeds))
    which = (
        f"Held-out seeds {seeds}, run with --final; those to choose on were {', '.join(map(str, plan.seeds))}."
        if final
        else f"Seeds {seeds}, on which variants may be chosen"
        + (f"; {len(plan.held_out)} more are held out until --final." if plan.held_out else "; none are held out.")
    )
    items = "the same items for all seeds" if plan.items_are_shared else "items of its own for each seed"
    return [f"Every variant is trained for {length[plan.match]}; evaluated on {items}.", which]


def show(result: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Print the first table of `ablation.md`, and say each difference; the others are too wide for a terminal."""
    if as_json:
        ui.data(result)
    else:
        ui.table(*result["tables"][0])
    for sentence in result["sentences"]:
        ui.note(sentence)
    if result["final"]:
        ui.note(f"The held-out seeds were run with --final on {result['final']}.")
    if result["undone"]:
        ui.warn(f"{result['undone']:,} answers have no score; see rejected.jsonl in the cells' folders")
    for one in result["failed"]:
        ui.warn(f"{one['variant']}, seed {one['seed']}, failed: {one['reason']}. The same command tries it again")
    cpu = result["cpu_seconds"]
    took = "" if cpu is None else f"; {cpu:,.0f} CPU seconds in all cells"
    ui.note(f"Wrote 'ablation.json', '.md' and '.html' in '{out}'{took}")


def show_dry_run(workshop: "Workshop", *, final: bool, rate: float | None, as_json: bool) -> None:
    """Print cells, steps, tokens and time by variant; nothing is trained or written."""
    from amp_cli.commands.ablation import CELL, inputs_of_plan

    plan = workshop.plan
    inputs_of_plan(plan)
    seeds = [*plan.seeds, *(plan.held_out if final else ())]
    cells = workshop.cells(seeds)
    done = {cell.place: read_plain_object(workshop.folder(cell) / CELL) for cell in cells if workshop.is_done(cell)}
    pace = _pace(list(done.values()), rate)
    lines = [_line(cell, cell.place in done, _planned(workshop, cell, done), pace) for cell in cells]
    times = [one.seconds for one in lines]
    total = None if None in times else sum(one or 0.0 for one in times)
    if as_json:
        ui.data({"cells": [asdict(one) for one in lines], "seconds": total})
        return
    rows = [
        [one.cell, "done" if one.done else "to do", one.steps, one.units, _shown_time(one.seconds)] for one in lines
    ]
    ui.table(
        f"{len(cells)} cells, {len(done)} of them done", ["cell", "", "steps", "token units", "seconds left"], rows
    )
    if total is not None:
        ui.note(f"About {ui.duration(total)}, one after the other")
    else:
        ui.note(
            "Times are told once a cell is done, or with --rate; steps and tokens once the seed's answers are there"
        )


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A line of the dry run; what cannot be told yet is None."""

    cell: str
    done: bool
    steps: int | None
    units: int | None
    seconds: float | None


def _line(
    cell: "AblationCell", done: bool, length: tuple[int, int | None] | None, pace: tuple[float, float] | None
) -> PlannedCell:
    steps, units = length or (None, None)
    seconds = 0.0 if done else None
    if pace is not None and not done and (cell.variant is None or units is not None):
        seconds = (units or 0) * pace[0] + pace[1]
    return PlannedCell(cell=cell.place, done=done, steps=steps, units=units, seconds=seconds)


def _planned(
    workshop: "Workshop", cell: "AblationCell", done: dict[str, dict[str, Any]]
) -> tuple[int, int | None] | None:
    """Return a cell's steps and units, None where they cannot be told without making or timing something."""
    if cell.variant is None or cell.seed is None:
        return None
    if cell.place in done:
        return done[cell.place]["steps"], done[cell.place]["units"]
    return workshop.planned_length(cell.variant, cell.seed)


def _pace(done: Sequence[dict[str, Any]], rate: float | None) -> tuple[float, float] | None:
    """Return seconds per unit trained, and seconds of all else in a cell; None where nothing is known."""
    from amp_cli.training.matching import TRAINED

    trained = [one for one in done if one.get("units")]
    if rate is not None:
        return 1 / (rate * TRAINED), 0.0
    if not trained:
        return None
    rest = fmean(one["seconds"] - one["train_seconds"] for one in trained)
    return fmean(one["train_seconds"] / one["units"] for one in trained), rest


def _shown_time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.0f}"


def _refuse_too_many(jobs: int) -> None:
    from amp_cli.launching import visible_gpus

    gpus, cores = len(visible_gpus()), os.cpu_count() or 1
    if jobs > 1 and jobs > (gpus or cores):
        what = f"{gpus} GPUs" if gpus else f"{cores} cores"
        raise AmpError(f"{jobs} cells at once do not fit on {what}", hint=f"Give --jobs {gpus or cores} or fewer")


def _be_a_job(workshop: "Workshop", job: int, *, final: bool) -> None:
    """Do cells beside other jobs of the command that started this one, and end with it."""
    from amp_cli.launching import end_with_parent

    end_with_parent()
    plan = workshop.plan
    cells = workshop.cells([*plan.seeds, *(plan.held_out if final else ())])
    with ui.command_within_a_loop():
        workshop.work([*cells[job:], *cells[:job]])


POLL_SECONDS = 0.5


def _in_jobs(workshop: "Workshop", cells: "Sequence[AblationCell]", plan: Path, jobs: int, *, final: bool) -> None:
    """Have so many processes of this command do the cells, and follow them to the end."""
    from amp_cli.commands.ablation import CELL, FAILED
    from amp_cli.launching import NEW_GROUP, tail_of, visible_gpus, worker_environment

    out, gpus = workshop.out, visible_gpus()
    environment = {
        **without_defaults(os.environ, "ablate"),
        **worker_environment(),
    }  # this command has read them already
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    logs = [out / f"job-{job}.log" for job in range(jobs)]
    children: list[subprocess.Popen[bytes]] = []
    try:
        for job, log in enumerate(logs):
            words = [*(sys.executable, "-P", "-m", "amp_cli", "--config", NONE, "ablate", str(plan))]
            words += ["--out", str(out), "--job", str(job)]
            own = {"CUDA_VISIBLE_DEVICES": gpus[job]} if gpus else {}
            with log.open("ab") as stream:
                children.append(
                    subprocess.Popen(
                        [*words, *(("--final",) if final else ())],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,  # says nothing; its end tells the job that this process is gone
                        stderr=stream,
                        env={**environment, **own},
                        start_new_session=True,  # so that Ctrl-C reaches it once, from us
                        creationflags=NEW_GROUP,
                    )
                )
        folders = [workshop.folder(cell) for cell in cells]
        shown = 0
        with ui.progress("Cells", len(cells), unit="cells") as advance:
            while any(child.poll() is None for child in children):
                done = sum((folder / CELL).is_file() or (folder / FAILED).is_file() for folder in folders)
                for _ in range(done - shown):
                    advance()
                shown = done
                time.sleep(POLL_SECONDS)
    finally:
        for child in children:
            if child.poll() is None:
                stopping.kill_all([*stopping.family(child.pid), child.pid])
                child.wait()
    for child, log in zip(children, logs, strict=True):
        if child.returncode:
            raise AmpError(
                f"A job ended with status {child.returncode}. The last lines of its log:\n{tail_of(log)}",
                hint=f"The whole log is in '{log}'; the same command goes on",
            )
