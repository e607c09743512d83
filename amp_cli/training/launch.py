"""Starts a training run: checks all that can be checked, launches the worker, reads the results back."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.parsing import read_plain_object, read_yaml
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run
from amp_cli.disk.settings import free
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.launching import (
    Launch,
    can_grow_segments,
    choosing_variable,
    has_apple_gpu,
    killed_by,
    own_config,
    refuse_too_many,
    run_workers,
    tail_of,
    visible_gpus,
    worker_environment,
)
from amp_cli.models.resolve import check_model, places_of
from amp_cli.training.card import ADAPTER
from amp_cli.training.config import COPIES, FSDP, ZERO_2, ZERO_3, TrainConfig, check_packages, checkpoints_sft
from amp_cli.training.curves import CURVES, draw_curves
from amp_cli.training.data import REJECTED, load_items, prepare_items, refuse_unfit_items, usable_of
from amp_cli.training.worker import RESULT, SEEN_WITHIN


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What a run folder of `amp train` is made with; the preferences are known by their content."""

    config: TrainConfig
    prefs: Path = free()
    image_root: Path | None = None
    eval_prefs: Path | None = free(None)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training run ended."""

    steps: int
    loss: float | None  # mean over the steps of the last log line
    accuracy: float | None  # share of pairs in order there; None for sft
    adapter: Path
    resumed_from: str | None  # the checkpoint that this call went on from
    seconds: float
    items_per_second: float
    items: int
    rejected: int
    held_out: dict[str, Any] | None = None  # what the items held out told, where there were any

    def to_json(self) -> dict[str, Any]:
        facts = {**asdict(self), "adapter": str(self.adapter)}
        if self.held_out is None:
            del facts["held_out"]
        return facts


def train_model(
    config: TrainConfig,
    *,
    prefs: Path,
    out: Path,
    image_root: Path | None = None,
    eval_prefs: tuple[Path, Path | None] | None = None,
    accelerate_config: str | None = None,
    num_processes: int | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train a LoRA adapter in `out`; the same call goes on where a killed one stopped.

    Args:
        prefs: preference file; for `sft` also items that have only the standard answers.
        eval_prefs: such a file to evaluate and not to train on, and the folder that its image paths start from.
        accelerate_config: file or template name; by default chosen by the machine's GPUs.

    Raises:
        AmpError: anything the user can mend, most of it before the model loads.
    """
    check_packages(config)
    check_held_out(config, has_file=eval_prefs is not None)
    launch = plan_launch(config, gpus := visible_gpus(), config_file=accelerate_config, processes=num_processes)
    if machine := machine_number(accelerate_config):
        return take_part(launch, out, machine, overwrite=overwrite)
    hashes = {"prefs_hash": _hash(prefs), **({"eval_prefs_hash": _hash(eval_prefs[0])} if eval_prefs else {})}
    uses_cpu = USES_CPU in launch.environment
    if config.quantization is not None and (uses_cpu or not gpus):
        how = "was not tried on Apple's GPUs" if has_apple_gpu() and not uses_cpu else "works on a CPU, but slowly"
        ui.warn(f"{config.quantization} {how}")
    with Run.start(
        out,
        command="train",
        settings=TrainSettings(
            config=config,
            prefs=prefs.resolve(),
            image_root=image_root and image_root.resolve(),
            eval_prefs=eval_prefs and eval_prefs[0].resolve(),
        ),
        identity={**check_model(config.spec), **hashes},
        seed=config.seed,
        overwrite=overwrite,
        inputs=[*(eval_prefs or ()), *_inputs(config, prefs, image_root, launch, out, overwrite=overwrite)],
    ) as run:
        if not (out / RESULT).exists():
            prepare_items(
                prefs,
                out,
                image_root=image_root,
                method=config.method,
                eval_source=eval_prefs,
                held_out=config.held_out,
                seed=config.seed,
                pairs=config.pairs if config.method == "mdpo" and not config.length_balance else None,
            )
            if config.image_pairs is not None or config.gap_weight:
                refuse_unfit_items(load_items(out, config.method), config)
            run.record(accelerate_config=str(launch.config_file), processes=launch.processes)
            run_worker(launch, out)
        if not (out / CURVES).exists():
            draw_curves(out)
        result = read_plain_object(out / RESULT, steps=int, seconds=int | float, items=int)
        run.finish("done", result=result)
    return _result_of(out)


def check_held_out(config: TrainConfig, *, has_file: bool) -> None:
    """Refuse settings of an evaluation that there is nothing for, or two sources of items for it.

    Raises:
        AmpError: naming the setting.
    """
    if config.held_out and has_file:
        raise AmpError(
            "--held-out and --eval-prefs both say which items are evaluated",
            hint="Give --held-out SHARE, or --eval-prefs FILE",
        )
    given = [name for name in ("eval_steps", "patience") if getattr(config, name) is not None]
    if given and not config.held_out and not has_file:
        raise AmpError(
            f"{given[0]} is for items that are held out, and there are none",
            hint=f"Give --held-out 0.05 or --eval-prefs FILE, or leave out {given[0]}",
        )


def take_part(launch: Launch, out: Path, machine: int, *, overwrite: bool) -> TrainResult:
    """Train on another machine than the main one, which owns the run folder: nothing is written there from here.

    Args:
        machine: its number, from 1. overwrite: do not take the result of an earlier run for this one's.

    Raises:
        AmpError: the training failed.
    """
    if overwrite or not (out / RESULT).exists():
        log_path = out.with_name(f"{out.name}.machine-{machine}.log")  # the run folder may not be there yet
        ui.note(f"This is machine {machine}: the main one writes to '{out}'. The log is '{log_path}'")
        log_path.parent.mkdir(parents=True, exist_ok=True)
        run_worker(launch, out, log_path=log_path)
        for _ in range(SEEN_WITHIN):
            if (out / RESULT).exists():
                break
            time.sleep(1)  # a shared disk may show it late
    return _result_of(out)


def _result_of(out: Path) -> TrainResult:
    result = read_plain_object(out / RESULT, steps=int, seconds=int | float, items=int)
    return TrainResult(
        **{name: result[name] for name in ("steps", "loss", "accuracy", "resumed_from", "seconds")},
        items_per_second=result["items_per_second"],
        items=result["items"],
        adapter=out / ADAPTER,
        held_out=result.get("held_out"),
        rejected=LeftOutLog.open(out / REJECTED).count,
    )


def _inputs(
    config: TrainConfig, prefs: Path, image_root: Path | None, launch: Launch, out: Path, *, overwrite: bool
) -> list[Path | None]:
    """Return all that is read; where an earlier run would be replaced, the items are looked at before."""
    images: set[Path] = set()
    if overwrite and out.exists():
        items = usable_of(prefs, LeftOutLog.begin(), image_root=image_root, method=config.method)
        images = {Path(name) for item in items.values() for name in item.images}
    models = places_of(config.base, config.adapter, config.vision_tower)
    return [prefs, image_root, launch.config_file, *models, *images]


def _hash(prefs: Path) -> str:
    if not prefs.is_file():
        raise AmpError(f"There is no preference file '{prefs}'", hint="Make one with `amp generate-prefs`")
    try:
        return content_hash(prefs)
    except OSError as error:
        raise AmpError(f"Cannot read '{prefs}': {error.strerror}", hint="Check that you may read the file") from error


LOG = "train.log"
LEGEND = "ok@d: share of pairs d levels apart in order; rL: reward of level L, nats"
IMAGES_LEGEND = "; ok@img: share of image pairs in order"


def run_worker(launch: Launch, run_folder: Path, *, log_path: Path | None = None) -> dict[str, Any]:
    """Start the worker, follow it to the end, return its result.

    Args:
        log_path: where another machine than the main one writes; its worker tells no result, and {} is returned.

    Raises:
        AmpError: it failed; the message holds its own words or the last lines of its log.
    """
    is_main = log_path is None
    log_path = log_path or run_folder / LOG
    outcome: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(ui.busy("Starting the training process"))
        status = run_workers(launch, run_folder, log_path, _display(stack, outcome))
    if "error" in outcome:
        raise AmpError(outcome["error"], hint=outcome["hint"] or f"The whole log is in '{log_path}'")
    if killed := killed_by(status, log_path):
        raise AmpError(
            f"Training stopped: {killed}",
            hint=f"The same command goes on from the last checkpoint. {_lighter(run_folder, outcome)}"
            f"The log is '{log_path}'",
        )
    if status or (is_main and "result" not in outcome):
        raise AmpError(
            f"Training stopped (exit status {status}). The last lines of its log:\n{tail_of(log_path)}",
            hint=f"The whole log is in '{log_path}'; run the same command to continue from the last checkpoint",
        )
    result: dict[str, Any] = outcome.get("result", {})
    return result


def _lighter(run_folder: Path, outcome: dict[str, Any]) -> str:
    """Return what would take less memory, for a worker that was killed; it may have told what it does already.

    Another machine than the main one may not see the run folder; there is no advice there.
    """
    if not (run_folder / NAME).is_file():
        return ""
    config = TrainConfig.from_settings(Run.read(run_folder).settings)
    is_on = bool(outcome.get("checkpointing", config.gradient_checkpointing))
    lighter = config.lighter(checkpointing=is_on)
    return f"If memory ran out, these take less: {', '.join(lighter)}. " if lighter else ""


def _display(stack: ExitStack, outcome: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return what shows an event; the worker's result or error is put into `outcome`."""
    advance: Callable[[], None] | None = None
    columns: list[str] = []

    def show(event: dict[str, Any]) -> None:
        nonlocal advance
        if "total" in event:
            stack.close()  # one bar at a time
            advance = stack.enter_context(
                ui.progress(event["label"], event["total"], done=event["done"], unit=event["unit"])
            )
        elif "step" in event and advance is not None:
            advance()
        elif "doing" in event:
            stack.close()
            advance = None
            stack.enter_context(ui.busy(event["doing"]))
        elif "note" in event:
            ui.warn(event["note"])
        elif "said" in event:
            ui.note(event["said"])
        elif "metrics" in event:
            _show_row(_shown(event["metrics"]), columns)
        else:
            outcome.update(event)

    return show


def _show_row(row: dict[str, str], columns: list[str]) -> None:
    """Show a row of the live table, under a new head where it has something that the rows before lacked."""
    if {*row} - {*columns}:
        columns[:] = row
        if "margin" in row:
            ui.note(LEGEND + (IMAGES_LEGEND if "ok@img" in row else ""))
        ui.note(" ".join(f"{name:>7}" for name in columns))
    ui.note(" ".join(f"{row.get(name, '-'):>7}" for name in columns))


def _shown(metrics: dict[str, Any]) -> dict[str, str]:
    """Return a row of the live table: what to watch of one line of metrics.jsonl."""
    row = {"step": str(metrics["step"]), "loss": f"{metrics['loss']:.4f}"}
    if "margin" in metrics:
        row["margin"] = f"{metrics['margin']:.2f}"
        for name, short, digits in (("accuracy_distance_", "ok@", 3), ("reward_level_", "r", 2)):
            row |= {
                short + key.removeprefix(name): f"{metrics[key]:.{digits}f}" for key in metrics if key.startswith(name)
            }
        if "accuracy_images" in metrics:
            row["ok@img"] = f"{metrics['accuracy_images']:.3f}"
    elif "mean_token_accuracy" in metrics:
        row["tok ok"] = f"{metrics['mean_token_accuracy']:.3f}"
    return row


WORKER = "amp_cli.training.worker"
ALLOCATOR = "PYTORCH_ALLOC_CONF"
USES_CPU = "ACCELERATE_USE_CPU"
_SETS_ALLOCATOR = {ALLOCATOR, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}


def plan_launch(
    config: TrainConfig, gpus: Sequence[str], *, config_file: str | None = None, processes: int | None = None
) -> Launch:
    """Return how to start the training: by the user's accelerate file, or one of ours by what the machine has.

    Args:
        config_file: a path, or the name of a file in `templates/accelerate`.
        processes: how many processes; else as many as a file of the user says, or one per GPU, one without.

    Raises:
        AmpError: no such file, more processes than GPUs, or a batch that cannot be cut so.
    """
    if config_file is None:
        wanted = processes or max(1, len(gpus))
        refuse_too_many(gpus, wanted, "Give fewer --num-processes, or an --accelerate-config of your own")
        file = own_config(gpus, wanted)
    else:
        file = _accelerate_file(config_file)
        is_ours = not Path(config_file).is_file()
        wanted = processes or (_own_processes(file, gpus) if is_ours else _processes_of(file))
    _refuse_unshareable(config, file)
    uses_cpu = _settings_of(file).get("use_cpu") is True
    config.items_per_batch(wanted)  # refuses a batch that cannot be cut so
    environment = worker_environment()
    if config.threads is not None:
        environment["OMP_NUM_THREADS"] = str(config.threads)
    if uses_cpu:  # accelerate tells only a lone process
        environment[USES_CPU] = "true"
    if gpus and not uses_cpu and can_grow_segments() and not _SETS_ALLOCATOR & set(os.environ):
        environment[ALLOCATOR] = "expandable_segments:True"  # rows have other lengths in every step
    if has_apple_gpu() and not uses_cpu and config.method == "sft":
        checkpoints_sft(config, "mps")
    if wanted == 1 and len(gpus) > 1:
        environment[choosing_variable()] = gpus[0]  # a lone process would spread over all of them by DataParallel
    return Launch(module=WORKER, config_file=file, processes=wanted, environment=environment)


MOST_PROCESSES = 4096


def _accelerate_file(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    known = sorted(file.stem for file in template_path("accelerate").glob("*.yaml"))
    if name not in known:
        raise AmpError(f"There is no accelerate config '{name}'", hint=f"Give a file, or one of: {', '.join(known)}")
    return template_path("accelerate", f"{name}.yaml")


def _settings_of(file: Path) -> dict[str, Any]:
    values = read_yaml(file)
    if not isinstance(values, dict) or "distributed_type" not in values:
        raise AmpError(f"'{file}' is not an accelerate config", hint="Make one with `accelerate config`")
    return values


def sharing_of(launch: Launch) -> str:
    """Return what of the model the processes share, one of `SHARINGS`, by the accelerate file."""
    settings = _settings_of(launch.config_file)
    kind = str(settings["distributed_type"]).upper()
    if kind == "DEEPSPEED":
        stage = _part(settings, "deepspeed_config").get("zero_stage", 2)
        return {"2": ZERO_2, "3": ZERO_3}.get(str(stage), COPIES)
    return FSDP if kind == "FSDP" else COPIES


def _part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _refuse_unshareable(config: TrainConfig, file: Path) -> None:
    """Refuse what FSDP as `sharding.shard` does it cannot share, and a projector that is trained in shares."""
    settings = _settings_of(file)
    kind = str(settings["distributed_type"]).upper()
    if config.train_projector and kind in ("FSDP", "DEEPSPEED"):
        why = f"train_projector needs the whole model in each process; '{file}' shares it by {kind}"
        raise AmpError(why, hint="Leave out --accelerate-config, or train_projector")
    if kind != "FSDP":
        return
    version = _part(settings, "fsdp_config").get("fsdp_version", 1)
    if str(version) != "2":
        raise AmpError(
            f"'{file}' asks for FSDP {version}; only FSDP 2 can share a base while it is loaded",
            hint="Write `fsdp_version: 2` in its fsdp_config, or use --accelerate-config fsdp",
        )
    if config.quantization == "int8":
        raise AmpError("FSDP cannot share a base in 8 bits", hint="Use --set quantization=nf4, or none")


def machine_number(config_file: str | None) -> int:
    """Return which of the machines that train together this one is, by its accelerate file; the main one is 0.

    Raises:
        AmpError: there is no such file, or it says nothing of use.
    """
    if config_file is None:
        return 0
    file = _accelerate_file(config_file)
    machine = _settings_of(file).get("machine_rank", 0)
    if not isinstance(machine, int) or machine < 0:
        raise AmpError(
            f"machine_rank in '{file}' must be a whole number from 0, not {machine!r:.80}",
            hint="Give each machine its own rank, the first one 0",
        )
    return machine


def _own_processes(file: Path, gpus: Sequence[str]) -> int:
    """Return how many processes one of our own files means: one per GPU, where it is for several of one machine."""
    settings = _settings_of(file)
    takes_all = settings["num_machines"] == 1 and settings["num_processes"] > 1 and not settings["use_cpu"]
    return len(gpus) if takes_all and gpus else _processes_of(file)


def _processes_of(file: Path) -> int:
    processes = _settings_of(file).get("num_processes", 1)
    if type(processes) is not int or not 1 <= processes <= MOST_PROCESSES:
        raise AmpError(
            f"num_processes in '{file}' must be a whole number from 1 to {MOST_PROCESSES:,}, not {processes!r:.80}",
            hint="Make a configuration with `accelerate config`, or leave out --accelerate-config",
        )
    return processes
