"""Tiny random models of the families known by name, as folders like those on the hub: weights, processor, template.

The files beside the weights are written by hand in the hub's layout, so that the family's own processor class reads
them: settings for images and for videos, special tokens, and a chat template with the family's own turns.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast

from amp_cli.models.resolve import TINY
from tests.support.tiny_families import BEGIN, END, FAMILIES, GRID, IMAGE, VIDEO

SIDE, PATCH = 28, 7
_MEAN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}, **_MEAN}
_CROP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, **_MEAN}
_LLAVA = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_QWEN = {
    "patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 28 * 28,
    "max_pixels": 56 * 56, **_MEAN,
}  # fmt: skip
_MARKS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}  # fmt: skip

_ROLE = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
_PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
)
_CHATML = (
    "{% for message in messages %}" + _ROLE + _PARTS + "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_HELPFUL = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nyou are a street.<|im_end|>\\n' }}{% endif %}"
)
_MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}" + _PARTS + "{{ ' [/INST]' }}"
    "{% else %}{{ ' ' }}" + _PARTS + "{{ '</s>' }}{% endif %}{% endfor %}"
)
_VICUNA = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}" + _PARTS
    + "{{ ' ' if message['role'] == 'user' else '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)  # fmt: skip
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    + _PARTS.replace("part['text']", "part['text'] | trim")
    + "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}" + _PARTS
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a family's folder holds.

    Attributes:
        family: in `FAMILIES`, whose network it is. processor: class and settings. images: class and settings.
        video: class of what prepares videos, None where the family has none.
        tokens: the tokenizer's names -> special tokens; `at` says which of them has an id that the network knows.
        template: with IMAGE where an image is shown. end: the token that ends an answer.
    """

    family: str
    processor: tuple[str, dict[str, Any]]
    images: tuple[str, dict[str, Any]]
    tokens: dict[str, str]
    at: dict[str, int]
    template: str
    video: str | None = None
    end: str = "</s>"
    turns: tuple[str, ...] = ()
    connector: str = "model.multi_modal_projector"
    needs: str | None = None
    eos: tuple[str, ...] = field(default=())


_IM = ("<|im_start|>", "<|im_end|>")


def _qwen(family: str, version: str, *, begins: str = "") -> Folder:
    return Folder(
        family=family,
        processor=(f"{version}Processor", {}),
        images=("Qwen2VLImageProcessor", _QWEN),
        video="Qwen3VLVideoProcessor" if version == "Qwen3VL" else "Qwen2VLVideoProcessor",
        tokens=_MARKS,
        at={"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "<|vision_start|>": BEGIN, "<|vision_end|>": END},
        template=begins + _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
        turns=_IM,
        end="<|im_end|>",
        connector="model.visual.merger",
    )


def _next(template: str) -> Folder:
    return Folder(
        family="LLaVA-NeXT",
        processor=("LlavaNextProcessor", _LLAVA),
        images=("LlavaNextImageProcessor", {**_CROP, "image_grid_pinpoints": GRID}),
        tokens={"image_token": "<image>"},
        at={"<image>": IMAGE},
        template=template.replace("IMAGE", "<image>\n"),
    )


FOLDERS: dict[str, Folder] = {
    "qwen2.5-vl": _qwen("Qwen2.5-VL", "Qwen2_5_VL", begins=_HELPFUL),
    "qwen3-vl": _qwen("Qwen3-VL", "Qwen3VL"),
    "internvl3": Folder(
        family="InternVL",
        processor=("InternVLProcessor", {"image_seq_length": 4}),
        images=("GotOcr2ImageProcessor", {**_SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 3}),
        video="InternVLVideoProcessor",
        tokens={
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        at={"<IMG_CONTEXT>": IMAGE},
        template=_CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
        turns=_IM,
        end="<|im_end|>",
    ),
    "gemma-3": Folder(
        family="Gemma3",
        processor=("Gemma3Processor", {"image_seq_length": 4}),
        images=("Gemma3ImageProcessor", {**_SQUARE, "do_pan_and_scan": False}),
        tokens={
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        },
        at={"<image_soft_token>": IMAGE, "<start_of_image>": BEGIN, "<end_of_image>": END},
        template=_GEMMA.replace("IMAGE", "<start_of_image>"),
        turns=("<start_of_turn>", "<end_of_turn>"),
        eos=("</s>", "<end_of_turn>"),
    ),
    "smolvlm2": Folder(
        family="SmolVLM",
        processor=("SmolVLMProcessor", {"image_seq_len": 4}),
        images=(
            "SmolVLMImageProcessor",
            {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": SIDE}, **_MEAN},
        ),
        video="SmolVLMVideoProcessor",
        tokens={
            "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
        },
        at={"<image>": IMAGE},
        template=_SMOL.replace("IMAGE", "<image>"),
        turns=("<|im_start|>", *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))),
        end="<end_of_utterance>",
        connector="model.connector",
        needs="num2words",
    ),
    "llava-onevision": Folder(
        family="LLaVA-OneVision",
        processor=(
            "LlavaOnevisionProcessor", {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        ),
        images=("LlavaOnevisionImageProcessor", {**_SQUARE, "image_grid_pinpoints": GRID}),
        video="LlavaOnevisionVideoProcessor",
        tokens={"image_token": "<image>", "video_token": "<video>"},
        at={"<image>": IMAGE, "<video>": VIDEO},
        template=_CHATML.replace("IMAGE", "<image>\n"),
        turns=_IM,
        end="<|im_end|>",
    ),
    "llava-1.6-mistral": _next(_MISTRAL),
    "llava-1.6": _next(_VICUNA),
}  # fmt: skip
"""By the names of `amp models`, without the size."""


def write_folder(name: str, out: Path) -> Path:
    """Write the family's tiny model to `out` as its owners would store it, and return `out`."""
    folder = FOLDERS[name]
    torch.manual_seed(0)
    network = FAMILIES[folder.family].build()
    tokenizer = _tokenizer(folder)
    ends = tokenizer.convert_tokens_to_ids(list(folder.eos or [folder.end]))
    network.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0, bos_token_id=1)
    network.save_pretrained(out)
    tokenizer.save_pretrained(out)
    kind, settings = folder.processor
    if settings:
        _write(out / "processor_config.json", {"processor_class": kind, **settings})
    images, settings = folder.images
    _write(out / "preprocessor_config.json", {"image_processor_type": images, "processor_class": kind, **settings})
    if folder.video is not None:
        _write(out / "video_preprocessor_config.json", {"video_processor_type": folder.video, "processor_class": kind})
    if name.startswith("qwen"):  # as in the years before transformers had one file for all
        _write(out / "chat_template.json", {"chat_template": folder.template})
    else:
        (out / "chat_template.jinja").write_text(folder.template, encoding="utf-8")
    return out


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _tokenizer(folder: Folder) -> Any:
    """The drawn world's words, and the family's special tokens at the ids that its tiny network knows."""
    words = (TINY / "tokenizer.json").read_text(encoding="utf-8")
    inner = Tokenizer.from_str(words.replace('"<image>"', '"<unused_image>"'))  # families have their own, elsewhere
    named = dict.fromkeys((*folder.tokens.values(), *folder.at, *folder.turns, folder.end))
    others = [token for token in named if token not in folder.at and inner.token_to_id(token) is None]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in others])
    by_id = {number: token for token, number in folder.at.items()}
    for number in range(inner.get_vocab_size(), IMAGE + 1):
        inner.add_special_tokens([AddedToken(by_id.get(number, f"<unused_{number}>"), special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **{"bos_token": "<s>", "eos_token": folder.end, "pad_token": "<pad>", "unk_token": "<unk>"},
        extra_special_tokens=folder.tokens,
        padding_side="left",
    )
