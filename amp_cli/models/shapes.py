"""Shapes of well-known models, so that a training can be planned where nothing of them is on the disk.

A model's memory follows from a dozen numbers. Its tokenizer cannot be made up: texts are cut into pieces of at most
seven letters instead. On captions and questions that came within a tenth of a 32,000-piece Llama-style vocabulary.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from amp_cli.models.resolve import TINY

LLAVA_15 = {
    "text_config": {"vocab_size": 32064, "max_position_embeddings": 4096, "head_dim": 128},
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 336, "patch_size": 14, "projection_dim": 768,
    },
    "image_seq_length": 576,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}  # fmt: skip
"""What the sizes share (hub: config.json of llava-hf/llava-1.5-7b-hf)."""


def _llama(width: int, middle: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width, "intermediate_size": middle, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads,
    }  # fmt: skip


LANGUAGE_MODELS = {
    "llava-hf/llava-1.5-7b-hf": _llama(4096, 11008, 32, 32),
    "llava-hf/llava-1.5-13b-hf": _llama(5120, 13824, 40, 40),
}
ESTIMATED_TOKENS = "estimated, English at seven letters a token: the tokenizer is not on this disk"


def has_known_shape(model: str) -> bool:
    """Say whether a model can be planned for without any of its files."""
    return model in LANGUAGE_MODELS


def write_shape(model: str, folder: Path) -> None:
    """Write the configuration of a well-known model into a folder, with the processor and tokenizer that stand in.

    No weights; the embedded model's files are the pattern.
    """
    for name in ("generation_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)
    _write(folder / "tokenizer_config.json", _read("tokenizer_config.json") | {"model_max_length": 4096})
    config = _read("config.json") | LLAVA_15
    for part in ("text_config", "vision_config"):
        config[part] = {**_read("config.json")[part], **LLAVA_15[part]}  # type: ignore[dict-item]
    config["text_config"] |= LANGUAGE_MODELS[model]
    _write(folder / "config.json", config)
    processor = _read("processor_config.json") | {"patch_size": 14, "vision_feature_select_strategy": "default"}
    processor["image_processor"] |= {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    _write(folder / "processor_config.json", processor)
    tokenizer = _read("tokenizer.json")
    tokenizer["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": r"\p{L}{1,7}|\p{N}|[^\s\p{L}\p{N}]"},
        "behavior": "Removed",
        "invert": True,
    }
    _write(folder / "tokenizer.json", tokenizer)


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((TINY / name).read_text(encoding="utf-8"))
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
