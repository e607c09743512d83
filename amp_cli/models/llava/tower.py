"""Finds and reads an original checkpoint's vision tower: a CLIP folder, on the hub, or inside the checkpoint."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from amp_cli.disk.parsing import read_object
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import StoredTensor, read_tensors, stored_tensors, weight_files
from amp_cli.models.llava.names import HUB, ORIGINAL, is_buffer, respell
from amp_cli.models.resolve import fetch_folder, is_folder_name

_OPENAI_HEAD_WIDTH = 64
"""Of every CLIP that OpenAI published."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A CLIP vision tower, its weights still on disk.

    Attributes:
        name: as the checkpoint's configuration has it. folder: None when it lies inside the checkpoint.
        tensors: hub spelling -> (file, name in it). images: size, mean and std that its images are prepared with.
    """

    name: str
    folder: Path | None
    config: CLIPVisionConfig
    tensors: dict[str, tuple[Path, str]]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def patches(self) -> int:
        return int((self.config.image_size // self.config.patch_size) ** 2)


def find_tower(
    checkpoint: Path, name: str, inside: dict[str, StoredTensor], *, given: str | None = None, is_trained: bool = False
) -> Tower:
    """Return the tower that `name` (the configuration's `mm_vision_tower`) means.

    Looked for, in this order: `given`; the folder `name` in the checkpoint, beside it, and from the current folder;
    inside the checkpoint; on the hub. So an external tower wins over one inside, as in the original code, unless the
    model's training changed the tower: then the one inside wins, as in later versions of that code.

    Args:
        inside: the checkpoint's tensors by original name. is_trained: the configuration's `unfreeze_mm_vision_tower`.

    Raises:
        AmpError: it is nowhere, incomplete, no CLIP, or of another resolution than its name says.
    """
    folder = _folder_of(given) if given else _nearby(checkpoint, name)
    own = {name: place for name, place in inside.items() if name.startswith(ORIGINAL.tower) and not is_buffer(name)}
    if folder is None and own:
        tower = _inner(name, own)
    elif folder is None and not name:
        raise AmpError(
            f"'{checkpoint}' does not name a vision tower (mm_vision_tower) and does not contain one",
            hint="Give --vision-tower FOLDER",
        )
    else:
        tower = _outer(given or name, folder or _from_hub(name))
        if is_trained and own and given is None:
            tower = replace(tower, folder=None, tensors=_named_on_hub(own))
    _refuse_other_resolution(name, tower)
    return tower


def _folder_of(given: str) -> Path:
    if is_folder_name(given):
        folder = Path(given).expanduser()
        if not (folder / "config.json").is_file():
            raise AmpError(
                f"There is no vision tower in '{given}': it has no config.json", hint="Give a CLIP folder or hub id"
            )
        return folder
    return _from_hub(given)


def _nearby(checkpoint: Path, name: str) -> Path | None:
    if not name:
        return None
    places = (checkpoint / name, checkpoint.parent / name, Path(name).expanduser())
    return next((place for place in places if (place / "config.json").is_file()), None)


def _from_hub(name: str) -> Path:
    try:
        return fetch_folder(name)
    except AmpError as error:
        raise AmpError(
            f"The vision tower '{name}' is neither in the checkpoint nor beside it: {error.message}",
            hint="Give --vision-tower FOLDER, or put it beside the checkpoint under this name",
        ) from error


def _outer(name: str, folder: Path) -> Tower:
    """A CLIP folder: the vision half alone, or a whole CLIP of which the text half is left aside."""
    config = read_object(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise AmpError(
            f"The vision tower '{name}' is of type '{kind}', not CLIP", hint="Give a CLIP folder with --vision-tower"
        )
    vision = config.get("vision_config", config)
    stored = {name: place for name, place in stored_tensors(weight_files(folder)).items() if not is_buffer(name)}
    tensors = {
        f"{HUB.tower}{tensor.removeprefix('vision_model.')}": (place.file, tensor)
        for tensor, place in stored.items()
        if tensor.startswith("vision_model.") or kind == "clip_vision_model"
    }
    wanted = CLIPVisionConfig().to_dict()
    tower_config = CLIPVisionConfig(**{key: value for key, value in vision.items() if key in wanted and key != "dtype"})
    positions = next((place.shape[0] for key, place in stored.items() if _is_positions(key)), None)
    if positions is not None and positions != (tower_config.image_size // tower_config.patch_size) ** 2 + 1:
        raise AmpError(
            f"The vision tower '{name}' contradicts itself: its config.json says {tower_config.image_size} pixels, "
            f"its weights hold {positions} positions",
            hint="Download the vision tower again",
        )
    mean, std = _mean_and_std(folder)
    return Tower(name=name, folder=folder, config=tower_config, tensors=tensors, mean=mean, std=std)


def _is_positions(name: str) -> bool:
    return name.endswith("vision_model.embeddings.position_embedding.weight") or name.startswith(
        "embeddings.position_embedding"
    )


def _mean_and_std(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    file = folder / "preprocessor_config.json"
    settings: dict[str, Any] = read_object(file) if file.is_file() else {}
    return tuple(settings.get("image_mean", OPENAI_CLIP_MEAN)), tuple(settings.get("image_std", OPENAI_CLIP_STD))


def _inner(name: str, own: dict[str, StoredTensor]) -> Tower:
    """A tower inside the checkpoint: shapes tell all but heads and activation, which OpenAI's CLIPs share."""
    shapes = {key.removeprefix(ORIGINAL.tower): place.shape for key, place in own.items()}
    patch = shapes.get("embeddings.patch_embedding.weight")
    positions = shapes.get("embeddings.position_embedding.weight")
    layers = {int(match[1]) for key in shapes if (match := re.match(r"encoder\.layers\.(\d+)\.", key))}
    if patch is None or positions is None or not layers:
        raise AmpError("The vision tower inside the checkpoint is incomplete", hint="Give --vision-tower FOLDER")
    hidden, channels, _, patch_size = patch
    if not name.startswith("openai/clip-vit-") or hidden % _OPENAI_HEAD_WIDTH:
        raise AmpError(
            f"The weights of the vision tower '{name}' are inside the checkpoint, but its configuration is not",
            hint="Give --vision-tower FOLDER, with its config.json",
        )
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=hidden // _OPENAI_HEAD_WIDTH,
        num_channels=channels,
        patch_size=patch_size,
        image_size=round((positions[0] - 1) ** 0.5) * patch_size,
        hidden_act="quick_gelu",
    )
    tensors = _named_on_hub(own)
    mean, std = tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)
    return Tower(name=name, folder=None, config=config, tensors=tensors, mean=mean, std=std)


def _named_on_hub(own: dict[str, StoredTensor]) -> dict[str, tuple[Path, str]]:
    return {respell(key, HUB) or key: (place.file, key) for key, place in own.items()}


def _refuse_other_resolution(name: str, tower: Tower) -> None:
    """The projector fits any number of patches, so only the name tells what the model was trained with."""
    said = re.search(r"clip-vit-\w+-patch(\d+)(?:-(\d+))?$", name)
    if said is None:
        return
    patch, size = int(said[1]), int(said[2] or 224)
    if (tower.config.patch_size, tower.config.image_size) != (patch, size):
        raise AmpError(
            f"The model was trained with the vision tower '{name}' ({size} pixels, patches of {patch}); "
            f"'{tower.name}' has {tower.config.image_size} pixels and patches of {tower.config.patch_size}",
            hint="Give the tower of that name",
        )


def differing_weight(tower: Tower, inside: dict[str, StoredTensor]) -> str | None:
    """Return the first weight in which an external tower differs from one inside the checkpoint, or None.

    They are compared in the precision of the one inside: CLIP is published in float32, checkpoints are mostly halved.
    """
    if tower.folder is None:
        return None
    outer = _TowerReader()
    for name, place in inside.items():
        if name.startswith(ORIGINAL.tower) and not is_buffer(name):
            file, key = tower.tensors.get(respell(name, HUB) or name, (place.file, ""))
            inner = outer.read(place.file, name)
            if not key or not torch.equal(outer.read(file, key).to(inner.dtype), inner):
                return name
    return None


class _TowerReader:
    """Keeps the files open that are read from in turn."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, torch.Tensor]] = {}

    def read(self, file: Path, name: str) -> torch.Tensor:
        if file not in self._files:
            self._files[file] = read_tensors(file)
        return self._files[file][name]
