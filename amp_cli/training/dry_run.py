"""Says what a training run would take and do, without weights, and without leaving anything on the disk."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from amp_cli import ui
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.errors import AmpError
from amp_cli.launching import Launch, visible_gpus
from amp_cli.models.load import LoadedModel, load_outline
from amp_cli.models.precision import why_float16
from amp_cli.models.prompts import EncodedItem
from amp_cli.models.resolve import model_place
from amp_cli.models.shapes import ESTIMATED_TOKENS, has_known_shape, outline_of_shape
from amp_cli.training.config import COPIES, TrainConfig, check_packages, checkpoints_sft
from amp_cli.training.data import REJECTED, EncodedItems, answers_of, load_items, prepare_items, refuse_unfit_items
from amp_cli.training.launch import ALLOCATOR, USES_CPU, check_held_out, plan_launch, sharing_of
from amp_cli.training.memory import (
    MARGINS,
    MemoryEstimate,
    choose_checkpointing,
    estimate_memory,
    room_on,
    shown_bytes,
    spread_sample,
)
from amp_cli.training.reference import choose_reference
from amp_cli.training.rows.forward import ROWS, SHARED
from amp_cli.training.rows.layout import cut_by_tokens, unique_tokens

CUDA_CONTEXT = 600_000_000
"""Bytes set aside on a planned GPU for CUDA and its kernels: an allowance, not measured on the card in question."""
EASIER: tuple[dict[str, Any], ...] = (
    {},  # checkpointing alone, where it was switched off
    {"tokens_per_step": 2048},
    {"tokens_per_step": 1},
    {"quantization": "nf4"},
    {"quantization": "nf4", "tokens_per_step": 2048},
    {"quantization": "nf4", "tokens_per_step": 1},
)
"""What is tried in turn where the settings do not fit: the first costs least."""
SAMPLED = 256
"""Items that are encoded for their lengths."""
UPDATES = 100
"""Updates that are drawn from the sample to count their forward passes."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the training data are like. Tokens are of the sampled items that can be encoded within `max_length`.

    Attributes:
        items: usable, as far as the files tell. rejected: not usable. sampled: encoded. unusable: of those, not usable.
        levels: how many items have so many levels.
        tokens_mean, tokens_longest: of an item when each level is a row. unique_mean, unique_longest: of an item when
            the levels share their prefix. saved: share of the tokens that this saves.
    """

    items: int
    rejected: int
    sampled: int
    unusable: int
    levels: dict[str, int]
    tokens_mean: float
    tokens_longest: int
    unique_mean: float
    unique_longest: int
    saved: float


@dataclass(frozen=True, kw_only=True)
class PlannedGpus:
    """GPUs that this machine need not have: how many, and the bytes of each."""

    count: int
    memory: int

    @property
    def room(self) -> int:
        """What training may take on each: CUDA's own part and the margin taken off."""
        return round((self.memory - CUDA_CONTEXT) * (1 - MARGINS["cuda"]))


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What `amp train --dry-run` tells.

    Attributes:
        device: "cuda", "mps" or "cpu". room: bytes that training may take on the device with the least memory.
        gradient_checkpointing, fits: what would be chosen, and whether the estimate fits then. why: in a line.
        passes_per_update: forward passes of a device for its share of an update, mean.
        reference: "online" or "cache" (None for sft), and why.
        proposal: settings that would fit where these do not; None where these fit, or none of what was tried does.
        hours: of the whole training, at the rate that the caller states; None without a rate.
        sharing: what of the model the devices share, one of `SHARINGS`. allocator: what CUDA's allocator is told.
        precision_why: why this precision, where that needs saying.
    """

    base: str
    method: str
    device: str
    processes: int
    precision: str
    quantization: str | None
    estimate: MemoryEstimate
    room: int
    gradient_checkpointing: bool
    fits: bool
    why: str
    data: DataFacts
    items_per_update: int
    items_per_device: int
    passes_per_update: float
    steps_per_epoch: int
    steps: int
    reference: str | None
    reference_why: str | None
    tokens_counted_by: str
    proposal: dict[str, Any] | None
    hours: float | None
    sharing: str
    allocator: str | None
    precision_why: str | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "estimate": self.estimate.to_json()}

    def rows(self) -> list[tuple[str, object]]:
        """Return the lines of a table for people."""
        found, data = self.estimate, self.data
        of = f" (of {data.sampled} sampled items)" if data.sampled < data.items else ""
        unusable = f"; not usable for training: {data.unusable} of {data.sampled} sampled" if data.unusable else ""
        precision = self.quantization or self.precision
        shared = "" if self.sharing == COPIES else f", shared by {self.sharing}"
        without, with_it = (shown_bytes(found.total(checkpointing=on)) for on in (False, True))
        reference: list[tuple[str, object]] = [("reference", self.reference_why)] if self.reference_why else []
        return [
            ("devices", f"{self.processes} x {self.device}, {shown_bytes(self.room)} each to train in"),
            *([("precision", self.precision_why)] if self.precision_why else []),
            *([("allocator", f"{ALLOCATOR}={self.allocator}")] if self.allocator else []),
            (f"weights ({precision}{shared})", shown_bytes(found.weights)),
            *([("others' weights during a pass", shown_bytes(found.gathered))] if found.gathered else []),
            *([("while loading", _loading(found))] if found.loading else []),
            ("adapter, gradients, AdamW", shown_bytes(found.adapter)),
            (
                f"activations of {found.tokens} tokens",
                f"{shown_bytes(found.activations)}; checkpointed {shown_bytes(found.activations_checkpointed)}",
            ),
            ("head", shown_bytes(found.head)),
            ("images, before each pass", None if found.images is None else shown_bytes(found.images)),
            ("in all, per device", f"about {without}; checkpointed {with_it}"),
            ("gradient checkpointing", self.why.removeprefix("Gradient checkpointing: ")),
            ("items", f"{data.items} usable, {data.rejected} rejected{unusable}"),
            ("levels", ", ".join(f"{count} x {levels}" for levels, count in data.levels.items())),
            ("tokens of an item, levels apart", f"mean {data.tokens_mean:.0f}, longest {data.tokens_longest}{of}"),
            ("tokens of an item, prefix shared", f"mean {data.unique_mean:.0f}, longest {data.unique_longest}{of}"),
            ("saved by sharing", f"{data.saved:.0%}"),
            ("items in an update", f"{self.items_per_update}; {self.items_per_device} on each device"),
            ("forward passes in an update", f"{self.passes_per_update:.1f} on each device"),
            ("updates", f"{self.steps} in all, {self.steps_per_epoch} in an epoch"),
            *reference,
            *([] if self.hours is None else [("hours, at the rate you state", f"{self.hours:.2f}")]),
            ("tokens counted by", self.tokens_counted_by),
        ]


def plan_training(
    config: TrainConfig,
    *,
    prefs: Path,
    image_root: Path | None = None,
    has_eval_prefs: bool = False,
    accelerate_config: str | None = None,
    num_processes: int | None = None,
    planned: PlannedGpus | None = None,
    rate: float | None = None,
) -> DryRun:
    """Find out what `train_model` would do with the same arguments; weights need not be on this disk.

    Of a model whose shape is known (`models/shapes.py`), nothing need be on this disk; tokens are then estimated.

    Args:
        has_eval_prefs: whether items to evaluate are in a file of their own.
        planned: GPUs to plan for, in place of this machine's.
        rate: tokens a second that one device trains on, to tell the hours.

    Raises:
        AmpError: what the training would refuse too, as far as it can be told without weights.
    """
    if not prefs.is_file():
        raise AmpError(f"There is no preference file '{prefs}'", hint="Make one with `amp generate-prefs`")
    check_packages(config)
    check_held_out(config, has_file=has_eval_prefs)
    gpus = visible_gpus() if planned is None else [str(number) for number in range(planned.count)]
    launch = plan_launch(config, gpus, config_file=accelerate_config, processes=num_processes)
    device = _device(gpus, launch)
    outline, counted_by = _outline(config, "cpu" if planned is not None else device, is_planned=planned is not None)
    encoded, data = _look_at_data(outline, config, prefs, image_root)

    def estimated(settings: TrainConfig) -> MemoryEstimate:
        return estimate_memory(
            outline.model,
            settings,
            encoded,
            precision=outline.identity["dtype"],
            on_gpu=device != "cpu",
            processes=launch.processes,
            layout=SHARED if settings.method == "mdpo" else ROWS,
            sharing=sharing_of(launch),
        )

    estimate = estimated(config)
    room = (
        planned.room
        if planned is not None
        else _room(launch.processes, gpus=len(gpus) if device == "cuda" else 0, device=device)
    )
    is_on, why = _choose_checkpointing(config, estimate, room, device=device)
    fits = estimate.total(checkpointing=is_on) <= room
    reference = _choose_reference(config, data.items)
    steps_per_epoch = ceil(data.items / config.global_batch_size)
    steps = config.max_steps or ceil(steps_per_epoch * (config.epochs or 0))
    tokens = steps * config.global_batch_size * (data.unique_mean if config.method == "mdpo" else data.tokens_mean)
    return DryRun(
        base=config.base,
        method=config.method,
        device=device,
        processes=launch.processes,
        precision=outline.identity["dtype"],
        quantization=config.quantization,
        estimate=estimate,
        room=room,
        gradient_checkpointing=is_on,
        fits=fits,
        why=why,
        data=data,
        items_per_update=config.global_batch_size,
        items_per_device=config.global_batch_size // launch.processes,
        passes_per_update=_passes_per_update(encoded, config, launch.processes),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        reference=reference and ("cache" if reference[0] else "online"),
        reference_why=reference and reference[1].removeprefix("Reference: "),
        tokens_counted_by=counted_by,
        proposal=None if fits else propose(config, room, estimated, device=device),
        hours=None if rate is None else tokens / (rate * launch.processes) / 3600,
        sharing=sharing_of(launch),
        allocator=launch.environment.get(ALLOCATOR),
        precision_why=why_float16(config.spec.dtype, torch.device("cuda"))
        if device == "cuda" and planned is None
        else None,
    )


def _device(gpus: Sequence[str], launch: Launch) -> str:
    """Return what a worker would train on: what Apple's machines have shows in no list of GPUs."""
    if USES_CPU in launch.environment:
        return "cpu"
    if gpus:
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _loading(found: MemoryEstimate) -> str:
    """Return what is taken before the first pass, in words."""
    aside = f", and {shown_bytes(found.main_memory)} of main memory in the main process" if found.main_memory else ""
    return f"{shown_bytes(found.loading)} on each device{aside}"


def propose(
    config: TrainConfig, room: int, estimated: Callable[[TrainConfig], MemoryEstimate], *, device: str
) -> dict[str, Any] | None:
    """Return the first of the easier settings whose estimate fits; None where none does. Each differs from `config`."""
    for easier in EASIER:
        changes = _changes(config, easier)
        if changes is None:
            continue
        changed = replace(config, **changes)
        estimate = estimated(changed)
        is_on, _ = _choose_checkpointing(changed, estimate, room, device=device)
        if changes and estimate.total(checkpointing=is_on) <= room:
            return changes
        if not is_on and estimate.total(checkpointing=True) <= room:
            return {**changes, "gradient_checkpointing": True}
    return None


def _changes(config: TrainConfig, easier: dict[str, Any]) -> dict[str, Any] | None:
    """Return what of the easier settings is another than in `config`; None where nothing of it would be easier.

    sft has items where mdpo has tokens in a pass.
    """
    changes = {name: value for name, value in easier.items() if getattr(config, name) != value}
    if config.method == "sft" and changes.pop("tokens_per_step", None) is not None:
        if (config.per_device_batch_size or 1) == 1:
            return None
        changes["per_device_batch_size"] = 1
    return None if changes.get("tokens_per_step", 0) > config.tokens_per_step else changes


def _room(processes: int, *, gpus: int, device: str) -> int:
    """Return what training may take on the device that has the least; other machines' GPUs cannot be looked at."""
    devices = [torch.device("cuda", number) for number in range(min(processes, gpus))] or [torch.device(device)]
    return min(room_on(device, held=0, processes=processes) for device in devices)


def _choose_checkpointing(config: TrainConfig, estimate: MemoryEstimate, room: int, *, device: str) -> tuple[bool, str]:
    if config.method == "sft" and config.gradient_checkpointing is None:
        is_on = checkpoints_sft(config, device)
        where = "a CPU" if device == "cpu" else "a GPU" if is_on else "an Apple GPU with dropout"
        return is_on, f"{'on' if is_on else 'off'}, as always with sft on {where}"
    return choose_checkpointing(config.gradient_checkpointing, estimate, room)


def _choose_reference(config: TrainConfig, items: int) -> tuple[bool, str] | None:
    """Return whether the reference is computed once to disk, and why; None for sft, which has none."""
    if config.method == "sft":
        return None
    return choose_reference(config.reference, items=items, visits=config.visits(items))


def _outline(config: TrainConfig, device: str, *, is_planned: bool) -> tuple[LoadedModel, str]:
    """Return the model without weights, and what counts its tokens."""
    spec = replace(config.spec, device=device)
    if is_planned and spec.dtype == "auto":
        spec = replace(spec, dtype="bfloat16")  # as on any GPU
    estimated = has_known_shape(spec.model) and not _is_at_hand(model_place(spec.model))
    counted_by = ESTIMATED_TOKENS if estimated else f"the tokenizer of {config.base}"
    outline = outline_of_shape(spec) if estimated else load_outline(spec)
    outline.prepare_images(pad_to_square=config.pad_to_square, max_pixels=config.max_pixels)
    return outline, counted_by


def _is_at_hand(model: str) -> bool:
    """Return whether the hub's cache on this disk has the model's configuration and tokenizer."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(model, name), str) for name in ("config.json", "tokenizer.json"))


def _look_at_data(
    outline: LoadedModel, config: TrainConfig, prefs: Path, image_root: Path | None
) -> tuple[list[EncodedItem], DataFacts]:
    """Return a sample of the items, encoded, and what the data are like."""
    with TemporaryDirectory(prefix="amp-dry-run-") as folder:
        run_folder = Path(folder)
        prepare_items(
            prefs,
            run_folder,
            image_root=image_root,
            method=config.method,
            held_out=config.held_out,
            seed=config.seed,
        )
        items = load_items(run_folder, config.method)
        rejected = LeftOutLog.open(run_folder / REJECTED).count
    refuse_unfit_items(items, config)
    data = EncodedItems.for_training(outline, items, config)
    numbers = spread_sample(len(items), SAMPLED)
    encoded, last = [], "no item"
    with ui.progress("Encoding", len(numbers)) as advance:
        for number in numbers:
            try:
                encoded.append(data[number])
            except AmpError as error:
                last = error.message
            advance()
    if not encoded:
        raise AmpError(
            f"None of the {len(numbers)} sampled items can be trained on. The last: {last}",
            hint="Check the data: amp prefs check PREFS",
        )
    levels = [len(answers_of(item, config.method)) for item in items]
    return encoded, _facts(encoded, levels, rejected=rejected, sampled=len(numbers))


def _facts(encoded: Sequence[EncodedItem], levels: Sequence[int], *, rejected: int, sampled: int) -> DataFacts:
    apart = [sum(len(response.input_ids) for response in item.all_responses) for item in encoded]
    unique = [unique_tokens(item) for item in encoded]
    counts = Counter(levels)
    return DataFacts(
        items=len(levels),
        rejected=rejected,
        sampled=sampled,
        unusable=sampled - len(encoded),
        levels={str(count): counts[count] for count in sorted(counts)},
        tokens_mean=fmean(apart),
        tokens_longest=max(apart),
        unique_mean=fmean(unique),
        unique_longest=max(unique),
        saved=1 - sum(unique) / sum(apart),
    )


def _passes_per_update(encoded: Sequence[EncodedItem], config: TrainConfig, processes: int) -> float:
    """Return the mean number of forward passes in a device's share of an update, drawn at random from the sample."""
    at_once, often = config.items_per_batch(processes)
    if config.method == "sft":
        return float(often)
    lengths = [unique_tokens(item) for item in encoded]
    drawn = random.Random(config.seed)
    shares = [drawn.choices(lengths, k=at_once) for _ in range(UPDATES)]
    return fmean(len(cut_by_tokens(share, config.tokens_per_step)) for share in shares)
