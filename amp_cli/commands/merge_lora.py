"""`amp merge-lora`: a LoRA adapter and its base become one plain model folder."""

from pathlib import Path
from typing import Annotated

import typer

from amp_cli import ui
from amp_cli.commands.options import (
    MODEL_PANEL,
    RUNNING_PANEL,
    JsonOption,
    OutOption,
    OverwriteOption,
    TrustRemoteCodeOption,
    VisionTowerOption,
)


def merge_lora(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER_OR_RUN", help="Adapter folder, run of `amp train`, hub id.")
    ],
    out: OutOption,
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="Of a run with held-out items: the adapter that did best on them, not the last one.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="Base model (default: what the run or the adapter names)", rich_help_panel=MODEL_PANEL
        ),
    ] = None,
    vision_tower: VisionTowerOption = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Precision of the merged weights: stored (the base's own), float32, bfloat16 or float16.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = "stored",
    trust_remote_code: TrustRemoteCodeOption = False,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the answers of the whole models too (default: where memory has room for one).",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Merge a LoRA adapter into its base model, in the base's own precision, and verify the result.

    Base and adapter may be in the original LLaVA layout. The folder loads wherever transformers does, without PEFT.
    One layer at a time is in memory: each is merged, compared with base + adapter on random numbers, and written.
    A 4-bit run merges into the base as it is stored, never into its 4-bit copy.

    Example: amp merge-lora runs/train --out merged
    """
    from amp_cli.training.merge import MergeSettings
    from amp_cli.training.merge import merge_lora as merge

    result = merge(
        MergeSettings(
            adapter=adapter,
            out=Path(out),
            best=best,
            base=base,
            vision_tower=vision_tower,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            verify=verify,
            overwrite=overwrite,
        ),
        progress=ui.byte_progress,
    )
    if json:
        ui.data(result.to_json())
        return
    rows: list[tuple[str, object]] = [("base", result.base), ("merged model", result.out)]
    if result.max_layer_difference is not None:
        rows.append(("largest difference of a layer", f"{result.max_layer_difference:.2g} of its output"))
    if result.max_logit_difference is not None:
        rows.append(("largest logit difference", f"{result.max_logit_difference:.3g}"))
    if result.peak_memory_mb is not None:
        rows.append((f"peak memory ({result.peak_memory_kind})", f"{result.peak_memory_mb:,.0f} MB"))
    ui.table("Merged and verified against base + adapter", ("", ""), rows)
    where = {"model": result.out, "out": f"{result.out}-pope"}
    ui.hint(ui.command_line("amp", "eval", "pope", **where, trust_remote_code=trust_remote_code))
