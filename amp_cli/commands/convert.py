"""`amp convert`: a model or LoRA adapter from the original LLaVA layout to transformers', and back."""

from typing import Annotated, Literal

import typer

from amp_cli import ui
from amp_cli.commands.options import JsonOption, OutOption, OverwriteOption, VisionTowerOption


def convert(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_ADAPTER", help="Folder, hub id, a name of `amp models`, or a run folder."),
    ],
    out: OutOption,
    to: Annotated[
        Literal["hf", "llava"],
        typer.Option("--to", help="hf: what transformers, vLLM and PEFT read. llava: the original code's layout."),
    ],
    vision_tower: VisionTowerOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Run test prompts through both layouts, in the stored precision, and show the largest differences.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Convert a checkpoint or a LoRA adapter between the original LLaVA layout and transformers', offline.

    One weight file is in memory at a time; the layout is told by the weights' names.
    hf to llava and back gives the same tensors, bit for bit.

    Example: amp convert liuhaotian/llava-v1.5-7b --to hf --out llava-1.5-7b
    """
    from amp_cli.models.llava.convert import ConvertSettings
    from amp_cli.models.llava.convert import convert as run

    result = run(
        ConvertSettings(model=model, out=out, to=to, vision_tower=vision_tower, verify=verify, overwrite=overwrite),
        progress=ui.byte_progress,
    )
    for note in result.notes:
        ui.warn(note)
    if json:
        ui.data(result.to_json())
        return
    rows = [
        ("from", {"hf": "transformers", "llava": "original LLaVA"}[result.source]),
        ("written to", result.out),
        ("tensors", result.tensors),
        (f"peak memory ({result.peak_memory_kind})", f"{result.peak_memory_mb:,.0f} MB"),
        *((f"largest logit difference, {name}", f"{value:.3g}") for name, value in result.differences.items()),
    ]
    ui.table(f"Converted to the {'transformers' if to == 'hf' else 'original LLaVA'} layout", ("", ""), rows)
    if not verify:
        ui.note("Not compared with the source; --verify does.")
    if to == "hf":
        ui.hint(ui.command_line("amp", "eval", "pope", model=result.out, out=f"{result.out}-pope"))
