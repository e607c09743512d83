"""`amp eval all`: every benchmark whose files are at hand, one table at the end."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli.commands.evaluations import amber, chair, llava_bench, mmhal, mrhal, pope
from amp_cli.commands.evaluations.options import (
    DATA,
    JudgeConcurrencyOption,
    JudgeOption,
    JudgeTimeoutOption,
    JudgeUrlOption,
    MaxCostOption,
    OfficialOption,
    PriceOption,
    ProcessesOption,
    RepeatOption,
)
from amp_cli.commands.options import (
    AdapterOption,
    BatchSizeOption,
    ConcurrencyOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutOption,
    OverwriteOption,
    QuantizationOption,
    SeedOption,
    TrustRemoteCodeOption,
    VisionTowerOption,
)

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings
    from amp_cli.report.everything import AllResults

COMMANDS: dict[str, Callable[..., None]] = {
    "pope": pope.pope,
    "repope": pope.pope,
    "chair": chair.chair,
    "amber": amber.amber,
    "mmhal": mmhal.mmhal,
    "mrhal": mrhal.mrhal,
    "llava-bench": llava_bench.llava_bench,
    "llava-bench-wild": llava_bench.llava_bench_wild,
}
"""Their own defaults are taken: the authors' protocol of each."""


def everything(
    model: ModelOption,
    out: OutOption,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[NAME=]DIR",
            help="Files of a benchmark, or of several; repeatable (default: what `amp download` fetched)",
            rich_help_panel=DATA,
        ),
    ] = None,
    image_root: Annotated[
        list[str] | None,
        typer.Option(
            "--image-root",
            metavar="NAME=DIR",
            help="Images of a benchmark, where they are not among its files; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Images of POPE and CHAIR, always the same.", rich_help_panel=DATA),
    ] = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    judge: JudgeOption = None,
    judge_url: JudgeUrlOption = None,
    judge_concurrency: JudgeConcurrencyOption = 8,
    judge_timeout: JudgeTimeoutOption = 120.0,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    repeat: RepeatOption = 1,
    rule: OfficialOption = "strict",
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    batch_size: BatchSizeOption = 8,
    concurrency: ConcurrencyOption = 8,
    num_processes: ProcessesOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Run every benchmark whose files are at hand, the judged ones if --judge is given, each by its authors' protocol.

    Example: amp eval all --model 7b --adapter runs/train --out runs/mdpo-all
    """
    given = dict(locals())
    from amp_cli import ui
    from amp_cli.benchmarks.answerers import model_identity
    from amp_cli.report.everything import named_folders, plan, run_all

    chosen = plan(named_folders(data or (), tuple(COMMANDS)), judge=judge)
    roots = named_folders(image_root or (), tuple(COMMANDS))
    for name, reason in chosen.left_out.items():
        ui.note(f"{name} is left out: {reason}")
    settings = [_settings(name, folder, roots, given) for name, folder in chosen.folders.items()]
    model_identity(settings[0], model)  # else every one of them would fail
    results = run_all(chosen, settings, out, overwrite=overwrite)
    _show(results, out, as_json=json)
    if results.failed or results.rejected:
        raise typer.Exit(3)


def _settings(name: str, folder: Path, roots: Mapping[str, Path], given: Mapping[str, Any]) -> "EvalSettings":
    """Return a benchmark's settings: its command's own defaults, and what was given here."""
    from amp_cli.benchmarks.settings import EvalSettings
    from amp_cli.report.everything import EVERY

    parameters = inspect.signature(COMMANDS[name]).parameters
    options = {key: one.default for key, one in parameters.items() if key != "json"}
    options |= {key: value for key, value in given.items() if key in options}
    options |= {"data": folder, "image_root": roots.get(name) or roots.get(EVERY)}
    options["overwrite"] = False  # the folder of all is emptied as a whole
    if name == "chair":
        options |= {"rule": "strict"}
    if "prompt_suffix" in options:
        options["prompt_suffix"] = options["prompt_suffix"].replace("\\n", "\n")
    return EvalSettings(benchmark=name, **options)


def _show(results: "AllResults", out: Path, *, as_json: bool) -> None:
    """Print one table of all benchmarks, and what is missing from it."""
    from amp_cli import ui
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.showing import shown

    if as_json:
        ui.data(results.to_json())
    else:
        rows = []
        for name, scores in results.scores.items():
            for number, column in enumerate(BENCHMARKS[name].columns):
                bounds = column.interval(scores)
                text, _, interval = shown(column.value(scores), bounds, name=column.name).partition("\n")
                rows.append([name if number == 0 else "", column.title, text, interval])
        ui.table("All benchmarks at hand", ["benchmark", "score", "value", "95 % interval"], rows)
    for name, reason in results.failed.items():
        ui.warn(f"{name} was not done: {reason}. The same command goes on with it")
    for name, count in results.rejected.items():
        ui.warn(f"{name}: {count:,} items were left out; see '{out / name / 'rejected.jsonl'}'")
    ui.hint(f"amp report {out} OTHER_RUN --html report.html")
