"""Shapes of well-known models, so that a training can be planned where nothing of them is on the disk.

A model's memory follows from a dozen numbers. They were checked by the parameters that come of them, not against the
files on the hub. Images are prepared by the family's own processor, so that their tokens are counted as it counts them.
A tokenizer cannot be made up: texts are cut into pieces of at most seven letters instead. On captions and questions
that came within a tenth of a 32,000-piece Llama-style vocabulary; larger vocabularies need fewer tokens.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import transformers as hf

from amp_cli.models.load import LoadedModel
from amp_cli.models.precision import choose_device, choose_dtype
from amp_cli.models.processors import for_images
from amp_cli.models.resolve import TINY, model_place
from amp_cli.models.spec import ModelSpec
from amp_cli.models.templates import choose_template

ESTIMATED_TOKENS = "estimated, English at seven letters a token: the tokenizer is not on this disk"
SQUARE = 336  # CLIP's side in pixels
NEXT_GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION_GRID = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
PIECES = r"\p{L}{1,7}|\p{N}|[^\s\p{L}\p{N}]"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a well-known model is like.

    Attributes:
        kind: transformers' model type. config: its configuration, as far as it differs from the type's defaults.
        published: billions of parameters, as the model's page tells.
    """

    kind: str
    config: dict[str, Any]
    published: float


def _text(
    width: int, middle: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": middle, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, **more,
    }  # fmt: skip


def _tower(width: int, middle: int, layers: int, side: int | list[int], **more: Any) -> dict[str, Any]:
    patch = 14 if isinstance(side, int) else [14, 14]
    return {
        "hidden_size": width, "intermediate_size": middle, "num_hidden_layers": layers, "num_attention_heads": 16,
        "image_size": side, "patch_size": patch, **more,
    }  # fmt: skip


_CLIP = _tower(1024, 4096, 24, SQUARE, model_type="clip_vision_model", projection_dim=768)


def _llava(published: float, text: dict[str, Any]) -> Shape:
    config = {
        "text_config": {"model_type": "llama", "max_position_embeddings": 4096, **text}, "vision_config": _CLIP,
        "image_seq_length": 576, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip
    return Shape(kind="llava", config=config, published=published)


def _next(published: float, text: dict[str, Any]) -> Shape:
    config = {"text_config": text, "vision_config": _CLIP, "image_grid_pinpoints": NEXT_GRID}
    return Shape(kind="llava_next", config=config, published=published)


def _qwen(published: float, text: dict[str, Any], *, tied: bool) -> Shape:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    tower = {
        "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "patch_size": 14,
        "window_size": 112, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    text = {**text, "rope_parameters": rope, "tie_word_embeddings": tied}
    config = {"text_config": text, "vision_config": tower, "tie_word_embeddings": tied}
    return Shape(kind="qwen2_5_vl", config=config, published=published)


def _qwen3(published: float, text: dict[str, Any], tower: dict[str, Any], *, tied: bool) -> Shape:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    text = {**text, "head_dim": 128, "rope_parameters": rope, "tie_word_embeddings": tied}
    tower = {**tower, "num_heads": 16, "patch_size": 16, "out_hidden_size": text["hidden_size"]}
    config = {"text_config": text, "vision_config": tower, "tie_word_embeddings": tied}
    return Shape(kind="qwen3_vl", config=config, published=published)


def _gemma(published: float, text: dict[str, Any]) -> Shape:
    config = {
        "text_config": {**text, "head_dim": 256, "sliding_window": 1024},
        "vision_config": _tower(1152, 4304, 27, 896, vision_use_head=False),
        "mm_tokens_per_image": 256,
    }
    return Shape(kind="gemma3", config=config, published=published)


def _internvl(published: float, text: dict[str, Any]) -> Shape:
    config = {"text_config": {"model_type": "qwen2", **text}, "vision_config": _tower(1024, 4096, 24, [448, 448])}
    return Shape(kind="internvl", config=config, published=published)


_QWEN_7B = (3584, 18944, 28, 28, 4)

SHAPES: dict[str, Shape] = {
    "llava-hf/llava-1.5-7b-hf": _llava(7.06, _text(4096, 11008, 32, 32, 32, 32064)),
    "llava-hf/llava-1.5-13b-hf": _llava(13.35, _text(5120, 13824, 40, 40, 40, 32064)),
    "llava-hf/llava-v1.6-mistral-7b-hf": _next(7.57, _text(4096, 14336, 32, 32, 8, 32064, model_type="mistral")),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _next(7.06, _text(4096, 11008, 32, 32, 32, 32064, model_type="llama")),
    "llava-hf/llava-v1.6-vicuna-13b-hf": _next(13.35, _text(5120, 13824, 40, 40, 40, 32064, model_type="llama")),
    "llava-hf/llava-v1.6-34b-hf": _next(34.75, _text(7168, 20480, 60, 56, 8, 64064, model_type="llama")),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Shape(
        kind="llava_onevision",
        config={
            "text_config": _text(*_QWEN_7B, 152000, model_type="qwen2"),
            "vision_config": _tower(1152, 4304, 26, 384, model_type="siglip_vision_model", vision_use_head=False),
            "image_grid_pinpoints": ONEVISION_GRID,
        },
        published=8.03,
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen(3.75, _text(2048, 11008, 36, 16, 2, 151936), tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen(8.29, _text(*_QWEN_7B, 152064), tied=False),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3(
        4.44,
        _text(2560, 9728, 36, 32, 8, 151936),
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
        tied=True,
    ),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3(
        8.77,
        _text(4096, 12288, 36, 32, 8, 151936),
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
        tied=False,
    ),
    "google/gemma-3-4b-it": _gemma(4.30, _text(2560, 10240, 34, 8, 4, 262208)),
    "google/gemma-3-12b-it": _gemma(12.19, _text(3840, 15360, 48, 16, 8, 262208)),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Shape(
        kind="smolvlm",
        config={
            "text_config": _text(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
            "vision_config": _tower(1152, 4304, 27, 384),
            "scale_factor": 3,
            "tie_word_embeddings": False,
        },
        published=2.25,
    ),
    "OpenGVLab/InternVL3-2B-hf": _internvl(2.09, _text(1536, 8960, 28, 12, 2, 151674)),
    "OpenGVLab/InternVL3-8B-hf": _internvl(7.94, _text(*_QWEN_7B, 151674)),
}
"""Hub id -> shape. Width, MLP, layers, heads, key and value heads, vocabulary."""


def has_known_shape(model: str) -> bool:
    """Say whether a model, by hub id or alias, can be planned for without any of its files."""
    return model_place(model) in SHAPES


def outline_of_shape(spec: ModelSpec) -> LoadedModel:
    """Build a well-known model without weights, on the meta device, with a processor whose tokenizer stands in."""
    shape = SHAPES[model_place(spec.model)]
    prepare = PROCESSORS[shape.kind]
    tokenizer = _tokenizer(**prepare.tokens)
    marks = {
        name: tokenizer.convert_tokens_to_ids(prepare.tokens[token])
        for name, token in MARKS.items()
        if token in prepare.tokens
    }
    marks.setdefault("image_token_id", tokenizer.convert_tokens_to_ids("<image>"))
    config = hf.AutoConfig.for_model(shape.kind, **{"tie_word_embeddings": shape.kind == "gemma3", **shape.config})
    config.update(marks)
    precision, dtype = choose_dtype(spec.dtype, choose_device(spec.device), shape.config)
    with torch.device("meta"):
        network = hf.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    processor = prepare.build(tokenizer)
    pattern = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
    processor.chat_template = pattern.replace("<image>", prepare.shown)
    template, text = choose_template(spec.template, config.to_dict(), processor, spec.model, TINY)
    mean = processor.image_processor.image_mean
    return LoadedModel(
        model=network,
        processor=processor,
        name=spec.model,
        chat_template=text,
        background=(int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255)) if shape.kind == "llava" else None,
        vocabulary=int(config.get_text_config().vocab_size),
        identity={"dtype": precision, "template": template},
        folder=TINY,
    )


MARKS = {
    "image_token_id": "image_token",
    "video_token_id": "video_token",
    "vision_start_token_id": "vision_start_token",
    "vision_end_token_id": "vision_end_token",
    "boi_token_index": "boi_token",
    "eoi_token_index": "eoi_token",
}
"""What configurations call the ids of tokens -> what tokenizers call the tokens."""


def _tokenizer(**tokens: str) -> Any:
    from tokenizers import Tokenizer

    described = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    described["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Removed", "invert": True,
    }  # fmt: skip
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = Tokenizer.from_str(json.dumps(described))
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, extra_special_tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a family's inputs are prepared.

    Attributes:
        tokens: its special tokens, by the tokenizer's names for them. shown: what stands in a text for an image.
        build: makes the processor around a tokenizer.
    """

    tokens: dict[str, str]
    build: Callable[[Any], Any]
    shown: str = "<image>"


def _images(family: str, name: str, **settings: Any) -> Any:
    """Return an image processor of the PIL kind, which needs no torchvision."""
    module = import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, f"{name}ImageProcessorPil")(**settings)


def _without_video(kind: Any, images: Any, tokenizer: Any, **settings: Any) -> Any:
    return for_images(kind)(images, tokenizer, None, **settings)


_CLIP_IMAGES = {"size": {"shortest_edge": SQUARE}, "crop_size": {"height": SQUARE, "width": SQUARE}}
_CLIP_PATCHES = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_SIDES = {
    side: {"size": {"height": side, "width": side}}
    for side in (384, 448, 896)
}  # fmt: skip

_QWEN_TOKENS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}  # fmt: skip
_QWEN_SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"

PROCESSORS: dict[str, Preparation] = {
    "llava": Preparation(
        tokens={"image_token": "<image>"},
        build=lambda tokenizer: hf.LlavaProcessor(_images("clip", "CLIP", **_CLIP_IMAGES), tokenizer, **_CLIP_PATCHES),
    ),
    "llava_next": Preparation(
        tokens={"image_token": "<image>"},
        build=lambda tokenizer: hf.LlavaNextProcessor(
            _images("llava_next", "LlavaNext", **_CLIP_IMAGES, image_grid_pinpoints=NEXT_GRID),
            tokenizer,
            **_CLIP_PATCHES,
        ),
    ),
    "llava_onevision": Preparation(
        tokens={"image_token": "<image>", "video_token": "<video>"},
        build=lambda tokenizer: _without_video(
            hf.LlavaOnevisionProcessor,
            _images("llava_onevision", "LlavaOnevision", **_SIDES[384], image_grid_pinpoints=ONEVISION_GRID),
            tokenizer,
            num_image_tokens=729,
            vision_feature_select_strategy="full",
        ),
    ),
    "qwen2_5_vl": Preparation(
        tokens=_QWEN_TOKENS,
        build=lambda tokenizer: _without_video(
            hf.Qwen2_5_VLProcessor,
            _images("qwen2_vl", "Qwen2VL", size={"shortest_edge": 56**2, "longest_edge": 3584**2}),
            tokenizer,
        ),
        shown=_QWEN_SHOWN,
    ),
    "qwen3_vl": Preparation(
        tokens=_QWEN_TOKENS,
        build=lambda tokenizer: _without_video(
            hf.Qwen3VLProcessor,
            _images("qwen2_vl", "Qwen2VL", patch_size=16, size={"shortest_edge": 256**2, "longest_edge": 4096**2}),
            tokenizer,
        ),
        shown=_QWEN_SHOWN,
    ),
    "internvl": Preparation(
        tokens={
            "image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
        build=lambda tokenizer: _without_video(
            hf.InternVLProcessor,
            _images("got_ocr2", "GotOcr2", **_SIDES[448], crop_to_patches=True, min_patches=1, max_patches=12),
            tokenizer,
        ),
        shown="<IMG_CONTEXT>",
    ),
    "gemma3": Preparation(
        tokens={
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        },
        build=lambda tokenizer: hf.Gemma3Processor(_images("gemma3", "Gemma3", **_SIDES[896]), tokenizer),
        shown="<start_of_image>",
    ),
    "smolvlm": Preparation(  # its own processor needs num2words, for videos alone; Idefics3's cuts images as it does
        tokens={"image_token": "<image>"},
        build=lambda tokenizer: hf.Idefics3Processor(
            _images(
                "idefics3", "Idefics3", size={"longest_edge": 1536}, max_image_size={"longest_edge": 384}
            ),
            tokenizer,
            image_seq_len=81,
        ),
    ),
}  # fmt: skip
