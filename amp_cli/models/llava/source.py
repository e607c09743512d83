"""What the arguments MODEL, adapter and vision tower mean on this disk; a conversion is kept where asked for."""

import hashlib
import os
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from amp_cli import __version__, ui
from amp_cli.disk.lock import alone_in, in_turn_at, rename_held
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.replacing import leftovers, remove_files
from amp_cli.disk.run import Run
from amp_cli.downloads.places import (
    check_space,
    clear_unfinished_conversions,
    conversions_folder,
    is_kept_conversion,
    size_text,
    unique_part,
)
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import StoredTensor, stored_tensors, weight_files
from amp_cli.models.llava.layout import LANGUAGE_MODEL, ORIGINAL, layout_of, says_original
from amp_cli.models.llava.original import OriginalCheckpoint, llava_config, open_original, tower_identity
from amp_cli.models.llava.projector import projector_files
from amp_cli.models.llava.to_hf import write_hf
from amp_cli.models.resolve import (
    adapter_folder,
    check_model,
    folder_identity,
    folder_of_small_files,
    local_folder,
    model_and_adapter,
    model_config,
)
from amp_cli.models.spec import ModelSpec


def converted_folder(checkpoint: OriginalCheckpoint) -> Path:
    """Return the folder of this very checkpoint's conversion, made on the first call of any process; others wait."""
    tower = checkpoint.tower.folder
    parts = [folder_identity(checkpoint.folder), folder_identity(tower) if tower else "", str(checkpoint.config)]
    parts += [folder_identity(file.parent) for file in checkpoint.projector] + [__version__]
    folder = conversions_folder() / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    if not is_kept_conversion(folder):
        with in_turn_at(folder, "--cache-converted"):
            clear_unfinished_conversions()
            if not is_kept_conversion(folder):
                _convert(checkpoint, folder)
    return folder


def _convert(checkpoint: OriginalCheckpoint, folder: Path) -> None:
    """Write a conversion under a name of its own, which becomes `folder` when it is whole."""
    needed = sum(prod(one.shape) * one.dtype.itemsize for one in checkpoint.tensors())
    check_space(
        folder, needed, hint="Free some space (amp models --clear-conversions), or set AMP_HOME to another disk"
    )
    ui.note(
        f"Converting '{checkpoint.folder}' once: {size_text(needed)} in '{folder}'. "
        "`amp models` lists what is kept, `amp models --clear-conversions` removes it"
    )
    part = unique_part(folder)
    with alone_in(part, "--cache-converted", for_out=folder):
        try:
            settings = {"model": checkpoint.folder, "to": "hf"}
            with (
                Run.start(part, command="convert", settings=settings) as run,
                ui.byte_progress("Converting", needed, 0) as advance,
            ):
                run.finish("done", tensors=write_hf(checkpoint, part, advance))
        except AmpError:
            remove_files(part, leftovers(part, "convert"))
            raise
        rename_held(part, folder)


@dataclass(frozen=True, kw_only=True)
class CheckpointFolder:
    """Where a model's parts lie.

    Attributes:
        model: as the user calls it. folder: of weights and processor.
        original: the checkpoint to convert in memory; None where transformers reads `folder` by itself.
        original_config: its `config.json`, also where its conversion was cached.
        adapter: name and folder. identity: of all parts, for `run.json`. notes: what the user should know.
    """

    model: str
    folder: Path
    original: OriginalCheckpoint | None
    original_config: dict[str, Any] | None
    adapter: tuple[str, Path] | None
    identity: dict[str, Any]
    notes: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """Return the model's configuration in transformers' layout."""
        if self.original is not None:
            return dict(llava_config(self.original).to_dict())
        return dict(read_plain_object(self.folder / "config.json"))

    def tensors(self) -> list[StoredTensor]:
        """Return what is known of every weight without reading it."""
        if self.original is not None:
            return self.original.tensors()
        return list(stored_tensors(weight_files(self.folder)).values())


def find_source(spec: ModelSpec) -> CheckpointFolder:
    """Find every part, fetching from the hub what is missing there.

    Raises:
        AmpError: a part is missing or damaged, or they do not fit together.
    """
    identity = check_model(spec)
    base, adapter = model_and_adapter(spec.model, spec.adapter)
    adapter_at = None if adapter is None else (adapter, adapter_folder(adapter))
    folder = local_folder(base)
    original = _original_in(folder, adapter_at[1] if adapter_at else None, base, spec.vision_tower)
    config: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    if original is not None:
        identity["vision_tower"] = tower_identity(original)
        config, notes = original.config, original.notes
        if os.environ.get("AMP_CACHE_CONVERTED"):
            folder, original = converted_folder(original), None
    return CheckpointFolder(
        model=spec.model,
        folder=folder,
        original=original,
        original_config=config,
        adapter=adapter_at,
        identity=identity,
        notes=notes,
    )


def find_outline(spec: ModelSpec) -> CheckpointFolder:
    """Find what tells a model's shape: no weights, save for an original checkpoint, of which their files' headers tell.

    Raises:
        AmpError: a part is missing or damaged.
    """
    config, _ = model_config(spec.model)
    if says_original(config) or spec.vision_tower is not None:
        return find_source(replace(spec, adapter=None))
    return CheckpointFolder(
        model=spec.model,
        folder=folder_of_small_files(spec.model),
        original=None,
        original_config=None,
        adapter=None,
        identity={},
        notes=(),
    )


def _original_in(folder: Path, adapter: Path | None, model: str, vision_tower: str | None) -> OriginalCheckpoint | None:
    """Return the original checkpoint in `folder`, or None where transformers reads the folder by itself.

    A plain language model becomes one together with an adapter that brings LLaVA's configuration and the projector, as
    LLaVA's own LoRA training leaves them.
    """
    layout = layout_of(folder)
    if layout == ORIGINAL:
        return open_original(folder, vision_tower=vision_tower)
    if layout == LANGUAGE_MODEL:
        files = projector_files(adapter) if adapter is not None else ()
        if adapter is None or not files or not (adapter / "config.json").is_file():
            raise AmpError(
                f"'{model}' is a plain language model: it has no projector and no vision tower",
                hint="Give a vision-language model, or with --adapter LLaVA's adapter folder for this base "
                "(config.json and non_lora_trainables.bin in it)",
            )
        config = read_plain_object(adapter / "config.json")
        return open_original(folder, config=config, projector=files, vision_tower=vision_tower)
    if vision_tower is not None:
        raise AmpError(
            f"'{model}' already holds its vision tower", hint="--vision-tower is for the original LLaVA layout"
        )
    return None
