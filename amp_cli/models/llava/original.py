"""An original LLaVA checkpoint as transformers' LLaVA: configuration, weights by name, processor, generation config."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, LlavaConfig, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError
from amp_cli.models.foreign import reads_folder
from amp_cli.models.llava.files import StoredTensor, read_tensors, stored_tensors, weight_files
from amp_cli.models.llava.names import ORIGINAL, Spelling, is_buffer, projector_names, respell
from amp_cli.models.llava.projector import read_projector
from amp_cli.models.llava.settings import (
    language_model_type,
    refuse_other_models,
    refuse_unknown_settings,
)
from amp_cli.models.llava.tokenizer import original_tokenizer
from amp_cli.models.llava.tower import Tower, differing_weight, find_tower
from amp_cli.models.resolve import folder_identity

ROW_MULTIPLE = 64
"""The vocabulary is filled up to a multiple of this, as the official converter does for the GPU's sake."""
APPENDED_ROWS = "appended_rows.safetensors"
"""Rows for the image and padding tokens that came from transformers and differ from what we would append."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOWER = ORIGINAL.tower.rpartition("vision_model.")[0]


@dataclass(frozen=True, kw_only=True)
class OriginalCheckpoint:
    """What an original checkpoint consists of; the weights stay on disk until they are read.

    Attributes:
        folder: of the language model's weights and the tokenizer. config: the original's `config.json`.
        stored: its tensors by original name. projector: files that hold the projector (or a better one) beside them.
        tower: its vision tower. notes: what the user should know.
    """

    folder: Path
    config: dict[str, Any]
    stored: dict[str, StoredTensor]
    projector: tuple[Path, ...]
    tower: Tower
    notes: tuple[str, ...] = ()

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: the ids that text can have. The image token's id is the next one."""
        return self.stored[EMBEDDING].shape[0]

    @property
    def pads_to_square(self) -> bool:
        return self.config.get("image_aspect_ratio") == "pad"

    @cached_property
    def tokenizer(self) -> Any:
        """The exact tokenizer, with the image token at `vocabulary` and the padding token after it."""
        return original_tokenizer(self.folder, vocabulary=self.vocabulary)

    @property
    def rows(self) -> int:
        """Rows of the embedding with those tokens."""
        least = max(self.vocabulary, int(self.tokenizer.pad_token_id)) + 1
        kept = self.vocabulary + max(map(len, self.kept_rows.values()), default=0)
        return kept if kept >= least else filled_up(least)

    @cached_property
    def kept_rows(self) -> dict[str, torch.Tensor]:
        """Rows for those tokens that an earlier conversion cut off, by original name."""
        file = self.folder / APPENDED_ROWS
        return read_tensors(file) if file.is_file() else {}

    def tensors(self) -> list[StoredTensor]:
        """Return what is known of every weight that the model consists of without reading it, the tower's included."""
        outside = stored_tensors({file for file, _ in self.tower.tensors.values()})
        tower = [outside[key] for _, key in self.tower.tensors.values()]
        return [place for name, place in self.stored.items() if not name.startswith(TOWER)] + tower

    @property
    def select_layer(self) -> int:
        """The layer of the tower whose output is shown to the language model."""
        return int(self.config.get("mm_vision_select_layer", -2))

    @property
    def keeps_class_token(self) -> bool:
        """Whether the tower's class token is shown to the language model too."""
        return str(self.config.get("mm_vision_select_feature", "patch")) == "cls_patch"


@reads_folder
def open_original(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    projector: tuple[Path, ...] = (),
    vision_tower: str | None = None,
) -> OriginalCheckpoint:
    """Look through an original checkpoint, reading headers only.

    Args:
        config: in place of the folder's `config.json`, where the base is a plain language model.
        projector: files with projector weights that take precedence.
        vision_tower: folder or hub id, in place of what the configuration names.

    Raises:
        AmpError: something is missing, damaged, does not fit together, or is of a kind transformers' LLaVA cannot hold.
    """
    config = config if config is not None else read_plain_object(folder / "config.json")
    refuse_other_models(str(folder), config)
    refuse_unknown_settings(folder, config)
    stored = stored_tensors(weight_files(folder))
    for name in (EMBEDDING, HEAD):
        if name not in stored and not (name == HEAD and config.get("tie_word_embeddings")):
            raise AmpError(
                f"'{folder}' lacks the weight '{name}'", hint="The checkpoint is incomplete. Download it again"
            )
    tower = find_tower(
        folder,
        str(config.get("mm_vision_tower") or config.get("vision_tower") or ""),
        stored,
        given=vision_tower,
        is_trained=bool(config.get("unfreeze_mm_vision_tower")),
    )
    checkpoint = OriginalCheckpoint(folder=folder, config=config, stored=stored, projector=projector, tower=tower)
    _refuse_unfitting_projector(checkpoint)
    _refuse_absent_layer(checkpoint)
    different = differing_weight(tower, stored)
    if different is None:
        return checkpoint
    note = (
        f"The vision tower '{tower.folder}' is used, as the original code does; the one inside the checkpoint differs "
        f"(first in '{different}')"
    )
    return replace(checkpoint, notes=(note,))


def _refuse_unfitting_projector(checkpoint: OriginalCheckpoint) -> None:
    shapes = {name: place.shape for name, place in checkpoint.stored.items()}
    for file in checkpoint.projector:
        shapes |= {
            name: place.shape
            for key, place in stored_tensors([file]).items()
            if (name := projector_names(key, ORIGINAL))
        }
    wanted = {f"{ORIGINAL.projector}{layer}.{kind}" for layer in "02" for kind in ("weight", "bias")}
    found = {name for name in shapes if name.startswith(ORIGINAL.projector)}
    if found != wanted:
        odd = sorted(found ^ wanted)[0]
        raise AmpError(
            f"'{checkpoint.folder}' {'lacks' if odd in wanted else 'has'} the projector weight '{odd}'",
            hint="Only LLaVA-1.5's projector of two layers (mlp2x_gelu) is supported",
        )
    shape = shapes[f"{ORIGINAL.projector}0.weight"]
    hidden = checkpoint.stored[EMBEDDING].shape[1]
    if shape != (hidden, checkpoint.tower.config.hidden_size):
        raise AmpError(
            f"The vision tower '{checkpoint.tower.name}' has width {checkpoint.tower.config.hidden_size} and the "
            f"language model {hidden}, but the projector goes from {shape[1]} to {shape[0]}",
            hint="Give the tower that the model was trained with as --vision-tower",
        )


def _refuse_absent_layer(checkpoint: OriginalCheckpoint) -> None:
    """The tower's states are those before its first layer (0) and after each; negative ones count from the last."""
    layer, layers = checkpoint.select_layer, checkpoint.tower.config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        raise AmpError(
            f"'{checkpoint.folder}' has mm_vision_select_layer = {layer}, but its vision tower has {layers} layers",
            hint="Give the tower that the model was trained with as --vision-tower",
        )


def llava_config(checkpoint: OriginalCheckpoint) -> LlavaConfig:
    """Return the configuration of the same model in transformers' layout."""
    source, tower = checkpoint.config, checkpoint.tower
    kind = language_model_type(source)
    flat = source if "hidden_size" in source else source.get("text_config", {})
    left_out = {"model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
    known = {*AutoConfig.for_model(kind).to_dict(), "rope_theta", "rope_scaling"} - left_out
    text = {key: value for key, value in flat.items() if key in known}
    pad = checkpoint.tokenizer.pad_token_id
    text |= {"vocab_size": checkpoint.rows, "pad_token_id": pad}
    config = LlavaConfig(
        text_config=AutoConfig.for_model(kind, **text),
        vision_config=tower.config,
        image_token_index=checkpoint.vocabulary,
        image_seq_length=tower.patches + checkpoint.keeps_class_token,
        vision_feature_layer=checkpoint.select_layer,
        vision_feature_select_strategy="full" if checkpoint.keeps_class_token else "default",
        tie_word_embeddings=bool(source.get("tie_word_embeddings", False)),
        pad_token_id=pad,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = str(source.get("torch_dtype") or source.get("dtype") or "float16")
    return config


def tensors_by_file(checkpoint: OriginalCheckpoint, spelling: Spelling) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the weights file by file, named in `spelling`, with the appended rows; what is unchanged stays on disk.

    Raises:
        AmpError: a weight that is no part of a LLaVA model.
    """
    better = read_projector(checkpoint.projector, spelling)
    for file in dict.fromkeys(place.file for place in checkpoint.stored.values()):
        yield {name: tensor for name, tensor in _renamed(checkpoint, file, spelling) if name not in better}
    if better:
        yield better
    yield from _tower_tensors(checkpoint, spelling)


def _renamed(checkpoint: OriginalCheckpoint, file: Path, spelling: Spelling) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in read_tensors(file).items():
        if is_buffer(name) or name.startswith(TOWER):
            continue
        new = respell(name, spelling)
        if new is None:
            raise AmpError(
                f"'{file}' holds '{name}', which is not part of a LLaVA-1.5 model",
                hint="Only LLaVA-1.5's original layout is read; give the model in transformers' layout",
            )
        yield new, with_rows(tensor, name, checkpoint) if name in (EMBEDDING, HEAD) else tensor


def _tower_tensors(checkpoint: OriginalCheckpoint, spelling: Spelling) -> Iterator[dict[str, torch.Tensor]]:
    by_file: dict[Path, dict[str, str]] = {}
    for name, (file, key) in checkpoint.tower.tensors.items():
        by_file.setdefault(file, {})[key] = respell(name, spelling) or name
    for file, names in by_file.items():
        tensors = read_tensors(file)
        yield {new: tensors[key] for key, new in names.items()}


def with_rows(tensor: torch.Tensor, name: str, checkpoint: OriginalCheckpoint) -> torch.Tensor:
    """Append rows to the embedding or head: those kept from an earlier conversion, else the mean of all rows.

    The official converter draws them at random around the mean. The mean itself is the same every time, and as an
    answer it is never the likeliest.
    """
    count = checkpoint.rows - len(tensor)
    kept = checkpoint.kept_rows.get(name)
    if kept is None or kept.shape != (count, tensor.shape[1]):
        kept = mean_rows(tensor, count)
    return torch.cat((tensor, kept))


def filled_up(least: int) -> int:
    """Return how many rows a vocabulary of at least so many gets."""
    return -(-least // ROW_MULTIPLE) * ROW_MULTIPLE


def mean_rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean row of (vocabulary, width) `tensor`, `count` times; summed in float64, a few rows at a time."""
    starts = range(0, len(tensor), 4096)
    total = sum(tensor[start : start + 4096].double().sum(dim=0, keepdim=True) for start in starts)
    return (torch.as_tensor(total) / len(tensor)).to(tensor.dtype).expand(count, -1)


def processor_of(checkpoint: OriginalCheckpoint, *, chat_template: str | None = None) -> LlavaProcessor:
    """Return the processor: exact token ids, and images prepared by Pillow as the original's were.

    Padded to a square with the mean colour where the model was trained so, else cropped at the centre.
    """
    tower = checkpoint.tower
    size = tower.config.image_size
    common = {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_mean": list(tower.mean),
        "image_std": list(tower.std),
    }
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil(do_pad=checkpoint.pads_to_square, **common),
        tokenizer=checkpoint.tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="full" if checkpoint.keeps_class_token else "default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def tower_identity(checkpoint: OriginalCheckpoint) -> dict[str, str]:
    """Return what `run.json` says of the vision tower that is used."""
    tower = checkpoint.tower
    if tower.folder is None:
        return {"name": tower.name, "place": "inside the checkpoint"}
    return {"name": tower.name, "hash": folder_identity(tower.folder)}


def generation_config_of(checkpoint: OriginalCheckpoint) -> GenerationConfig:
    """Return a deterministic generation config with the special tokens' ids; the original's sampling is not kept."""
    tokenizer = checkpoint.tokenizer
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
