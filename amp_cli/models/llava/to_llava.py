"""Writes a transformers LLaVA folder in the original layout, shard by shard, offline."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import read_tensors, save_tensors, stored_tensors, weight_files, write_shards
from amp_cli.models.llava.names import ORIGINAL, is_buffer, respell
from amp_cli.models.llava.original import APPENDED_ROWS, EMBEDDING, HEAD, filled_up, mean_rows
from amp_cli.models.llava.to_hf import KEPT, SMALL_FILES, refuse_gaps
from amp_cli.models.llava.tokenizer import Pieces

OPENAI_TOWER = "openai/clip-vit-large-patch14-336"
_OPENAI_SHAPE = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14, "image_size": 336}
_ARCHITECTURES = {
    "llama": ("LlavaLlamaForCausalLM", "llava_llama"),
    "mistral": ("LlavaMistralForCausalLM", "llava_mistral"),
}
_LEFT_OUT = ("model_type", "architectures", "dtype", "torch_dtype", "vocab_size", "pad_token_id", "rope_parameters")


def write_llava(folder: Path, out: Path, advance: Callable[[int], object] = lambda _: None) -> int:
    """Write the whole folder, the vision tower in one of its own; return how many tensors there are in all.

    Rows that a conversion appended for the image and padding tokens are cut off; where they are not what we would
    append, they are kept in a file beside, so that converting back gives the same tensors.

    Raises:
        AmpError: the model is no LLaVA-1.5, or lacks the files that the original layout needs.
    """
    config = read_plain_object(folder / "config.json")
    _refuse_other_kinds(folder, config)
    image_token = _image_token(folder, config)
    stored = stored_tensors(weight_files(folder))
    refuse_gaps(folder, LlavaConfig.from_dict(config), ((name, place.shape) for name, place in stored.items()))
    out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, torch.Tensor] = {}
    count = write_shards(_original_parts(folder, image_token, kept), out, advance)
    tower = _tower_tensors(folder)
    original = _original_config(folder, config)
    disk_errors_explained(lambda: _write_tower(folder, config, original, tower, out), out)
    if kept:
        save_tensors(kept, out / APPENDED_ROWS)
    disk_errors_explained(lambda: _write_small_files(folder, original, out), out)
    return count + len(tower)


def _refuse_other_kinds(folder: Path, config: dict[str, Any]) -> None:
    text, vision = config.get("text_config", {}), config.get("vision_config", {})
    kind = text.get("model_type", "llama")
    if config.get("model_type") != "llava" or vision.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise AmpError(
            f"'{folder}' is a '{config.get('model_type')}', and the original LLaVA layout is only for LLaVA-1.5",
            hint="Use the model in transformers' layout, which it is in",
        )
    if kind not in _ARCHITECTURES:
        raise AmpError(
            f"'{folder}' has a language model of type '{kind}', which the original layout does not support",
            hint="Use the model in transformers' layout, which it is in",
        )
    for name, only in (("projector_hidden_act", "gelu"), ("multimodal_projector_bias", True)):
        if config.get(name, only) != only:
            raise AmpError(
                f"'{folder}' has {name} = {config[name]!r}; the original layout supports only {only!r}",
                hint="Use the model in transformers' layout, which it is in",
            )
    if config.get("quantization_config"):
        raise AmpError(
            f"'{folder}' has quantization_config = {config['quantization_config']!r:.120}: its weights are packed",
            hint="Convert the model as it was before it was quantised",
        )
    if config.get("vision_feature_select_strategy", "default") not in ("default", "full"):
        raise AmpError(
            f"'{folder}' has vision_feature_select_strategy = {config['vision_feature_select_strategy']!r}; "
            "the original layout supports only 'default' and 'full'",
            hint="Use the model in transformers' layout, which it is in",
        )
    if not isinstance(config.get("vision_feature_layer", -2), int):
        raise AmpError(
            f"'{folder}' has several layers in vision_feature_layer; the original layout supports only one",
            hint="Use the model in transformers' layout, which it is in",
        )
    if not (folder / "tokenizer.model").is_file():
        raise AmpError(
            f"'{folder}' has no tokenizer.model, which the original layout needs",
            hint="Copy the base language model's tokenizer.model into the folder",
        )


def _image_token(folder: Path, config: dict[str, Any]) -> int:
    """Return the image token's id, which is how many rows of the vocabulary stay.

    Raises:
        AmpError: it stands among the ordinary tokens, which the original layout cannot hold.
    """
    image_token = int(LlavaConfig.from_dict(config).image_token_index)
    pieces = len(Pieces(folder / "tokenizer.model").names)
    if image_token < pieces:
        raise AmpError(
            f"'{folder}' has its image token ({image_token}) among the {pieces:,} tokens of tokenizer.model; the "
            "original layout expects it after them",
            hint="Use the model in transformers' layout, which it is in",
        )
    return image_token


def _original_parts(folder: Path, image_token: int, kept: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the language model and projector file by file; fill `kept` with odd rows."""
    for file in weight_files(folder):
        part: dict[str, torch.Tensor] = {}
        for name, tensor in read_tensors(file).items():
            if is_buffer(name):
                continue
            new = respell(name, ORIGINAL)
            if new is None:
                raise AmpError(
                    f"'{file}' holds '{name}', which is not part of a LLaVA-1.5 model",
                    hint="Use the model in transformers' layout, which it is in",
                )
            if new.startswith(ORIGINAL.tower):
                continue
            if new in (EMBEDDING, HEAD):
                kept |= _odd_rows(new, tensor, image_token)
                tensor = tensor[:image_token]
            part[new] = tensor
        yield part


def _odd_rows(name: str, tensor: torch.Tensor, image_token: int) -> dict[str, torch.Tensor]:
    """Return a copy of the appended rows where they are not what we would append.

    A view instead of the copy would keep its whole file in memory.
    """
    rows, ours = tensor[image_token:], filled_up(image_token + 2) - image_token
    return {} if torch.equal(rows, mean_rows(tensor[:image_token], ours)) else {name: rows.clone()}


def _tower_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read the vision tower, once the other files' memory is free again."""
    return {
        f"vision_model.{new.removeprefix(ORIGINAL.tower)}": tensor
        for file in weight_files(folder)
        for name, tensor in read_tensors(file).items()
        if (new := respell(name, ORIGINAL) or "").startswith(ORIGINAL.tower) and not is_buffer(name)
    }


def _original_config(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that the folder was converted from, or one made from transformers'."""
    if (folder / KEPT / "config.json").is_file():
        source: dict[str, Any] = read_plain_object(folder / KEPT / "config.json")
        return source
    text, vision = _full_configs(config)
    architecture, model_type = _ARCHITECTURES[text["model_type"]]
    is_openai = all(vision[key] == value for key, value in _OPENAI_SHAPE.items())
    rope = text.get("rope_parameters") or {}
    scaling = None if rope.get("rope_type", "default") == "default" else rope
    full = config.get("vision_feature_select_strategy") == "full"
    return {
        **{key: value for key, value in text.items() if key not in _LEFT_OUT},
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": LlavaConfig.from_dict(config).image_token_index,
        "pad_token_id": 0,
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": scaling,
        "torch_dtype": config.get("dtype") or config.get("torch_dtype") or "float16",
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "image_aspect_ratio": "pad" if _pads(folder) else None,
        "mm_vision_tower": OPENAI_TOWER if is_openai else "vision_tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": vision["hidden_size"],
        "mm_vision_select_layer": config.get("vision_feature_layer", -2),
        "mm_vision_select_feature": "cls_patch" if full else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
    }


def _full_configs(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return language and vision configurations with the defaults that a `config.json` leaves out."""
    whole = LlavaConfig.from_dict(config)
    return whole.text_config.to_dict(), whole.vision_config.to_dict()


def _pads(folder: Path) -> bool:
    """LLaVA-1.5 pads to a square, unless our conversion wrote down that this model does not."""
    images = _image_settings(folder)
    is_ours = str(images.get("image_processor_type", "")).startswith("LlavaImageProcessor")
    return bool(images.get("do_pad", False)) if is_ours else True


def _image_settings(folder: Path) -> dict[str, Any]:
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            settings: dict[str, Any] = read_plain_object(folder / name)
            if images := settings.get("image_processor", settings if "image_mean" in settings else None):
                return dict(images)
    return {}


def _write_tower(
    folder: Path, config: dict[str, Any], original: dict[str, Any], tower: dict[str, torch.Tensor], out: Path
) -> None:
    """The original code reads its tower from a folder (or hub repository) of the name in its configuration."""
    place = out / str(original.get("mm_vision_tower") or "")
    if out.resolve() not in place.resolve().parents:
        place = out / "vision_tower"
        original["mm_vision_tower"] = "vision_tower"
    place.mkdir(parents=True)
    save_tensors(tower, place / "model.safetensors")
    _, vision = _full_configs(config)
    write_json(
        place / "config.json", {**vision, "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"}
    )
    images, size = _image_settings(folder), vision["image_size"]
    write_json(
        place / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "resample": 3,
            "image_mean": images.get("image_mean", OPENAI_CLIP_MEAN),
            "image_std": images.get("image_std", OPENAI_CLIP_STD),
        },
    )


def _write_small_files(folder: Path, original: dict[str, Any], out: Path) -> None:
    write_json(out / "config.json", json.loads(json.dumps(original, default=str)))
    shutil.copyfile(folder / "tokenizer.model", out / "tokenizer.model")
    if (folder / KEPT).is_dir():
        for name in SMALL_FILES[1:]:
            if (folder / KEPT / name).is_file():
                shutil.copyfile(folder / KEPT / name, out / name)
        return
    settings = (
        read_plain_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    )
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": bool(settings.get("legacy", False)),
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": int(min(settings.get("model_max_length", 2048), 1 << 20)),
            "padding_side": "right",
        },
    )
    write_json(
        out / "special_tokens_map.json",
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"},
    )
