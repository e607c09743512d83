"""`amp train`: MDPO (or plain fine-tuning) with LoRA, started through `accelerate launch`."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli import ui
from amp_cli.commands import completing
from amp_cli.commands.defaults import settings_in_order
from amp_cli.commands.options import (
    JSON_HELP,
    MODEL_PANEL,
    OUTPUT_PANEL,
    RUNNING_PANEL,
    ImageRootOption,
    OutOption,
    OverwriteOption,
    TrustRemoteCodeOption,
    VisionTowerOption,
    number,
    options_in,
    typed_again,
)

if TYPE_CHECKING:
    from amp_cli.training.config import TrainConfig
    from amp_cli.training.dry_run import DryRun

TRAINING = "Training"


def _show_settings(context: typer.Context, asked: bool) -> None:
    """Show every setting and stop; what decides their values is eager, and so has been read."""
    if not asked:
        return
    from amp_cli.training.config import split_settings
    from amp_cli.training.settings_list import list_settings, shown

    size, recipe = context.params["size"], context.params["recipe"]
    listed = list_settings(size, recipe, split_settings(settings_in_order(context, "changes")))
    if context.params["json"]:
        ui.data({"size": size, "recipe": recipe, "settings": [asdict(one) for one in listed]})
        raise typer.Exit
    for group in dict.fromkeys(one.group for one in listed):
        rows = []
        for one in listed:
            instead = "" if one.is_required else f"; default {shown(one.default)}"
            by = {"default": "", "recipe": f" ({size}{instead})", "set": f" (--set{instead})"}[one.origin]
            if one.group == group:
                rows.append(
                    (f"{one.name}*" * one.may_change or one.name, shown(one.value) + by, one.allowed, one.meaning)
                )
        ui.table(f"{group[0].upper()}{group[1:]}", ("setting", "value", "may be", "what it is"), rows)
    ui.note(f"Values are those of {size} by its recipe '{recipe}'. * may differ when a run goes on")
    ui.hint(f"amp train --size {size} --set {listed[4].name}={shown(listed[4].value)} --prefs FILE --out DIR")
    raise typer.Exit


def train(
    context: typer.Context,
    prefs: Annotated[
        Path,
        typer.Option("--prefs", help="Preferences of `amp generate-prefs`, or what `amp prefs import` takes."),
    ],
    out: OutOption,
    size: Annotated[
        str,
        typer.Option(
            "--size",
            is_eager=True,
            autocompletion=completing.sizes,
            help="Recipe: 7b, 13b, tiny, qwen2.5-vl-7b, ... (amp models), or a .yaml file of your own.",
            rich_help_panel=TRAINING,
        ),
    ] = "7b",
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            autocompletion=completing.models,
            help="Model to start from (default: the recipe's)",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            autocompletion=completing.adapters,
            help="LoRA adapter to go on with; the reference stays the base without it",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    vision_tower: VisionTowerOption = None,
    trust_remote_code: TrustRemoteCodeOption = False,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            is_eager=True,
            autocompletion=completing.recipes,
            help="Variant of the recipe: paper or released.",
            rich_help_panel=TRAINING,
        ),
    ] = "paper",
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            autocompletion=completing.methods,
            help="mdpo, or sft: plain fine-tuning on the best response (default: mdpo)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            is_eager=True,
            autocompletion=completing.settings,
            help="Change one setting; repeatable.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    list_settings: Annotated[
        bool,
        typer.Option(
            "--list-settings",
            callback=_show_settings,
            expose_value=False,
            help="Show what --set can change, with values, ranges and meanings, and exit.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            autocompletion=completing.references,
            metavar="online|cache|auto",
            help="mdpo: reference log-probabilities in every step, once to disk, or as it pays (default: auto)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        number(
            "--held-out",
            help="Share of the items to evaluate and not to train on, by image: 0 to below 1 (default: 0)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    eval_prefs: Annotated[
        Path | None,
        typer.Option(
            "--eval-prefs", help="Preferences to evaluate, such as held_out.jsonl of a mix", rich_help_panel=TRAINING
        ),
    ] = None,
    image_root: ImageRootOption = None,
    accelerate_config: Annotated[
        str | None,
        typer.Option(
            "--accelerate-config",
            autocompletion=completing.accelerate_configs,
            help="Accelerate file, or fsdp, deepspeed_zero2, multi_node, ... (default: by the machine's GPUs)",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None,
    num_processes: Annotated[
        int | None,
        number("--num-processes", help="Processes (default: one per GPU)", rich_help_panel=RUNNING_PANEL),
    ] = None,
    tokens_per_step: Annotated[
        int | None,
        number(
            "--tokens-per-step",
            help="mdpo: tokens in one forward pass of a device; fewer take less memory (default: 4096)",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None,
    torch_compile: Annotated[
        bool,
        typer.Option(
            "--torch-compile",
            help="Compile the language model's MLPs; on a CPU 0 to 7 % faster, not timed on a GPU (default: off)",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what memory and how many steps it would take; needs no weights, writes nothing.",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="MEMORY",
            help="With --dry-run: plan for GPUs of so much, e.g. 24GB.",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        number("--gpus", help="With --dry-run --gpu: so many of them (default: 1)", rich_help_panel=RUNNING_PANEL),
    ] = None,
    rate: Annotated[
        float | None,
        number(
            "--rate",
            metavar="TOKENS",
            help="With --dry-run: tokens a second that one device trains on, to tell the hours.",
            rich_help_panel=RUNNING_PANEL,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: Annotated[bool, typer.Option("--json", is_eager=True, help=JSON_HELP, rich_help_panel=OUTPUT_PANEL)] = False,
) -> None:
    """Train a LoRA adapter on multi-level preferences (MDPO). The same command goes on where it stopped.

    Example: amp train --size 7b --prefs prefs/preferences.jsonl --out runs/train
    """
    typed = {name: value for name, value in locals().items() if name != "context"}
    from amp_cli.commands.preferences.importing import UsablePrefs, usable_prefs

    config = config_of(typed, context)
    if not dry_run and (gpu or gpus or rate):
        raise typer.BadParameter("they belong to --dry-run", param_hint="--gpu, --gpus and --rate")
    if gpus and not gpu:
        raise typer.BadParameter("say how large they are: --gpu 24GB", param_hint="--gpus")
    if dry_run:
        from amp_cli.training.dry_run import PlannedGpus, plan_training

        with TemporaryDirectory(prefix="amp-dry-run-") as place:
            usable = usable_prefs(prefs, Path(place) / "run", image_root=image_root, method=config.method)
            plan = plan_training(
                config,
                prefs=usable.file,
                image_root=usable.image_root,
                has_eval_prefs=eval_prefs is not None,
                accelerate_config=accelerate_config,
                num_processes=num_processes,
                planned=None if gpu is None else PlannedGpus(count=gpus or 1, memory=_memory(gpu)),
                rate=rate,
            )
        _show_plan(plan, json=json)
        easier = [f"{name}={str(value).lower()}" for name, value in (plan.proposal or {}).items()]
        other: dict[str, object] = dict.fromkeys(("dry_run", "gpu", "gpus", "rate", "json"))
        if easier:
            other["changes"] = [*(changes or ()), *easier]
        if "tokens_per_step" in (plan.proposal or {}):
            other["tokens_per_step"] = None
        ui.hint(typed_again(("amp", "train"), options_in(train), typed, **other))
        return
    from amp_cli.training.launch import machine_number, train_model

    evaluated = None
    if machine_number(accelerate_config) == 0:
        usable = usable_prefs(prefs, out, image_root=image_root, method=config.method)
        if eval_prefs is not None:
            beside = out.with_name(f"{out.name}.held-out")
            evaluated = usable_prefs(eval_prefs, beside, image_root=image_root, method=config.method)
    else:  # the main machine imports them
        usable = UsablePrefs(file=prefs, image_root=image_root)
        evaluated = None if eval_prefs is None else UsablePrefs(file=eval_prefs, image_root=image_root)
    result = train_model(
        config,
        prefs=usable.file,
        out=out,
        image_root=usable.image_root,
        eval_prefs=None if evaluated is None else (evaluated.file, evaluated.image_root),
        accelerate_config=accelerate_config,
        num_processes=num_processes,
        overwrite=overwrite,
    )
    if json:
        ui.data(result.to_json())
    else:
        rows = [(name.replace("_", " "), value) for name, value in result.to_json().items() if name != "held_out"]
        if result.held_out is not None:
            best = result.held_out["best"]
            rows.append(("best adapter by held-out items", f"step {best['step']}: amp merge-lora {out} --best"))
        ui.table(f"Trained {config.base} with {config.method}", ("", ""), rows)
        merged = out.with_name(f"{out.name}-merged")
        trusts = config.trust_remote_code
        ui.hint(
            ui.command_line(
                *("amp", "merge-lora", out), out=merged, vision_tower=config.vision_tower, trust_remote_code=trusts
            )
        )
    if result.rejected:
        ui.warn(f"{result.rejected} items could not be used; see '{out / 'rejected.jsonl'}'")
        raise typer.Exit(3)


def config_of(typed: Mapping[str, Any], context: typer.Context | None = None) -> "TrainConfig":
    """Return how the command trains with these options, given by name.

    Args:
        context: of a command line, whose settings may come from several places.

    Raises:
        AmpError: see `load_config`.
    """
    from amp_cli.training.config import load_config

    flags = {name: typed[name] for name in ("held_out", "reference", "tokens_per_step")}
    flags |= {name: typed[name] or None for name in ("torch_compile", "trust_remote_code")}
    if context is None:
        given = [f"{name}={value}" for name, value in flags.items() if value is not None]
        settings = [*(typed["changes"] or ()), *given]
    else:
        settings = settings_in_order(context, "changes", flags)
    chosen = {name: typed[name] for name in ("recipe", "base", "adapter", "vision_tower", "method")}
    return load_config(typed["size"], overrides=settings, **chosen)


def _memory(text: str) -> int:
    """Return the bytes that `24GB`, `24 GiB` or `24` (GB) mean."""
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,3})?)\s*(G|GB|GiB)?", text.strip(), re.IGNORECASE)
    if found is None or not 1 <= float(found[1]) <= 1000:
        raise typer.BadParameter(f"'{text}' is not a GPU's memory; write 24GB, from 1 to 1000", param_hint="--gpu")
    return round(float(found[1]) * (2**30 if (found[2] or "").lower() == "gib" else 1e9))


def _show_plan(plan: "DryRun", *, json: bool) -> None:
    if json:
        ui.data(plan.to_json())
        return
    ui.table(f"Training {plan.base} with {plan.method} (an estimate; nothing was trained)", ("", ""), plan.rows())
    if plan.fits:
        return
    if plan.proposal is None:
        ui.warn("This may not fit, nor does anything easier that was tried: it needs a larger GPU or a smaller model")
        return
    settings = " ".join(f"--set {name}={str(value).lower()}" for name, value in plan.proposal.items())
    ui.warn(f"This may not fit. By the same estimate this does: {settings}")
