"""The golden data of the released code: where it lies and how it is read."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.models.templates import chat_template_text

GOLDEN = Path(__file__).parents[1] / "golden" / "llava"
BASES = ("base", "base_vision_inside")
ADAPTER = str(GOLDEN / "model" / "adapter")
IMAGE = -200
"""What the released code writes for an image among token ids."""
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "forward" / "cases.json").read_text(encoding="utf-8"))["cases"]
TEMPLATES = {"v1": "vicuna_v1", "vicuna_v1": "vicuna_v1", "llava_v1": "llava_v1"}


@cache
def golden_model(base: str = "base", *, with_adapter: bool = False) -> LoadedModel:
    """Load a golden model once per test run."""
    return load_model(
        ModelSpec(model=str(GOLDEN / "model" / base), adapter=ADAPTER if with_adapter else None, device="cpu")
    )


def tensors_of(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "forward" / f"{case['name']}.safetensors")


def in_template_of(loaded: LoadedModel, case: dict[str, Any]) -> LoadedModel:
    loaded.chat_template = chat_template_text(TEMPLATES[case["conv_mode"]])
    return loaded


def dialogue_of(case: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Questions and answers of a case, without the mark of the image."""
    turns = [turn.removeprefix("<image>\n") for turn in case["turns"]]
    return turns[::2], turns[1::2]


def images_of(case: dict[str, Any]) -> list[Any]:
    return [open_image(GOLDEN / name) for name in case["images"]]


def expanded(ids: list[int], *, image_token: int, patches: int) -> list[int]:
    """Write an image as transformers does: one image token for each patch."""
    return [token for id in ids for token in ([image_token] * patches if id == IMAGE else [id])]
