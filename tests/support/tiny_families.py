"""Tiny random models of many families, built from configs, and items for them made by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

from amp_cli.models.adapters import language_lora_targets
from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.forward import ROWS, SHARED
from amp_cli.training.rows.logprobs import teach_log_probabilities

IMAGE, VIDEO, BEGIN, END = 499, 498, 497, 496
TEXT: dict[str, Any] = {
    "vocab_size": 500, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7, "initializer_range": 0.2,
}  # fmt: skip
GRID = [[28, 56], [56, 28], [56, 56]]
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
SIZES = ((1, 4, 4), (1, 4, 8), (1, 8, 4))
"""Grids of patches, four to a token, of the images that a family with its own image sizes is shown."""

Shown = tuple[list[torch.Tensor], dict[str, torch.Tensor]]
"""The tokens that stand for each image, and the tensors of all."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family as the tests build it, and how it should be read.

    Attributes:
        build: makes the network. show: makes some images, numbered from a first one, of this dtype.
        layout, image_once: what the self-test should choose. dense: whether a mask for all layers is right too.
        most_images: in one item. floor: relative difference in float64 that its own float32 arithmetic leaves.
    """

    build: Callable[[], Any]
    show: Callable[[Any, Sequence[int], torch.dtype], Shown]
    layout: str = SHARED
    image_once: bool = True
    dense: bool = True
    most_images: int = 2
    floor: float = 1e-9


def _draw(first: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(first), dtype=dtype)


def llava(text: Any) -> Any:
    tower = hf.CLIPVisionConfig(**TOWER, projection_dim=32)
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(text_config=text, vision_config=tower, image_token_index=IMAGE, image_seq_length=16)
    )


def _even(tokens: int, *, border: bool = False) -> Callable[[Any, Sequence[int], torch.dtype], Shown]:
    """Images of one size, each of so many tokens."""
    ids = torch.full((tokens,), IMAGE)
    ids = torch.cat([torch.tensor([BEGIN]), ids, torch.tensor([END])]) if border else ids

    def show(_network: Any, numbers: Sequence[int], dtype: torch.dtype) -> Shown:
        pixels = torch.stack([_draw(number, 3, 28, 28, dtype=dtype) for number in numbers])
        return [ids] * len(numbers), {"pixel_values": pixels}

    return show


def _show_tiles(_network: Any, numbers: Sequence[int], dtype: torch.dtype) -> Shown:
    """InternVL: image n has 1 + n % 3 tiles of four tokens."""
    tiles = [1 + number % 3 for number in numbers]
    pixels = [_draw(number, count, 3, 28, 28, dtype=dtype) for number, count in zip(numbers, tiles, strict=True)]
    return [torch.full((4 * count,), IMAGE) for count in tiles], {"pixel_values": torch.cat(pixels)}


def _show_grids(_network: Any, numbers: Sequence[int], dtype: torch.dtype) -> Shown:
    """Qwen: patches of all images in one list, and each image's grid."""
    grids = torch.tensor([SIZES[number % len(SIZES)] for number in numbers])
    counts = grids.prod(dim=1)
    ids = [torch.tensor([BEGIN, *[IMAGE] * (int(count) // 4), END]) for count in counts]
    return ids, {"pixel_values": _draw(numbers[0], int(counts.sum()), 294, dtype=dtype), "image_grid_thw": grids}


def _show_list(_network: Any, numbers: Sequence[int], dtype: torch.dtype) -> Shown:
    """Idefics3, SmolVLM: (1, images, 3, height, width), four tokens each."""
    pixels = torch.stack([_draw(number, 3, 28, 28, dtype=dtype) for number in numbers])[None]
    return [torch.full((4,), IMAGE)] * len(numbers), {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(1, len(numbers), 28, 28, dtype=torch.bool),
    }


def _show_patches(network: Any, numbers: Sequence[int], dtype: torch.dtype) -> Shown:
    """LLaVA-NeXT and OneVision: an overview and tiles, filled up to the most; so many tokens as features come out."""
    sizes = torch.tensor([GRID[number % len(GRID)] for number in numbers])
    tiles = [1 + int(height) * int(width) // 28**2 for height, width in sizes]
    pixels = torch.zeros(len(numbers), max(tiles), 3, 28, 28, dtype=dtype)
    for row, (number, count) in enumerate(zip(numbers, tiles, strict=True)):
        pixels[row, :count] = _draw(number, count, 3, 28, 28, dtype=dtype)
    given = {"pixel_values": pixels, "image_sizes": sizes}
    with torch.no_grad():
        features = network.model.get_image_features(**given).pooler_output
    return [torch.full((len(feature),), IMAGE) for feature in features], given


def _show_shapes(_network: Any, numbers: Sequence[int], dtype: torch.dtype) -> Shown:
    """LFM2-VL: patches filled up to the most, the grid of each, and which of them count."""
    shapes = torch.tensor([SIZES[number % len(SIZES)][1:] for number in numbers])
    counts = shapes.prod(dim=1)
    counted = torch.arange(32)[None] < counts[:, None]
    pixels = torch.stack([_draw(number, 32, 147, dtype=dtype) for number in numbers])
    return [torch.full((int(count) // 4,), IMAGE) for count in counts], {
        "pixel_values": pixels * counted[..., None], "spatial_shapes": shapes, "pixel_attention_mask": counted.long(),
    }  # fmt: skip


def _next() -> Any:
    return hf.LlavaNextForConditionalGeneration(
        hf.LlavaNextConfig(
            text_config=hf.MistralConfig(**TEXT, sliding_window=None),
            vision_config=hf.CLIPVisionConfig(**TOWER, projection_dim=32),
            image_token_index=IMAGE,
            image_grid_pinpoints=GRID,
        )
    )


def _onevision() -> Any:
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            text_config=hf.Qwen2Config(**TEXT),
            vision_config=hf.SiglipVisionConfig(**_siglip(), vision_use_head=False),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=GRID,
        )
    )


def _siglip() -> dict[str, Any]:
    return {name: value for name, value in TOWER.items() if name != "initializer_range"}


def _qwen2_5_vl() -> Any:
    tower = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 7, "window_size": 28,
        "spatial_merge_size": 2, "out_hidden_size": 32, "fullatt_block_indexes": [1], "temporal_patch_size": 2,
        "initializer_range": 0.2,
    }  # fmt: skip
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(text_config={**TEXT, "rope_parameters": MROPE}, vision_config=tower, **_marks())
    )


def _qwen2_vl() -> Any:
    tower = {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 7,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
    }  # fmt: skip
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(text_config={**TEXT, "rope_parameters": MROPE}, vision_config=tower, **_marks())
    )


def _qwen3_vl() -> Any:
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(
            text_config={**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
            vision_config={**_qwen3_tower(), "deepstack_visual_indexes": [0]},
            **_marks(),
        )
    )


def _qwen3_tower() -> dict[str, Any]:
    return {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 7,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
        "initializer_range": 0.2,
    }  # fmt: skip


def _qwen3_5() -> Any:
    text = {
        **TEXT, "head_dim": 8, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "rope_parameters": {**MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
    }  # fmt: skip
    return hf.Qwen3_5ForConditionalGeneration(
        hf.Qwen3_5Config(text_config=text, vision_config=_qwen3_tower(), **_marks())
    )


def _marks() -> dict[str, int]:
    return {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": BEGIN,
        "vision_end_token_id": END,
    }


def _gemma3(window: int = 1024) -> Any:
    text = hf.Gemma3TextConfig(
        **TEXT, head_dim=8, query_pre_attn_scalar=8, sliding_window=window,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    network = hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            text_config=text,
            vision_config=hf.SiglipVisionConfig(**_siglip(), vision_use_head=False),
            mm_tokens_per_image=4,
            image_token_index=IMAGE,
            boi_token_index=BEGIN,
            eoi_token_index=END,
        )
    )
    torch.nn.init.normal_(network.model.multi_modal_projector.mm_input_projection_weight, std=0.2)  # made as zeros
    return network


def _idefics3() -> Any:
    return hf.Idefics3ForConditionalGeneration(
        hf.Idefics3Config(text_config=hf.LlamaConfig(**TEXT), vision_config=TOWER, scale_factor=2, image_token_id=IMAGE)
    )


def _smolvlm() -> Any:
    return hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(text_config=hf.LlamaConfig(**TEXT), vision_config=TOWER, scale_factor=2, image_token_id=IMAGE)
    )


def _internvl() -> Any:
    tower = {**TOWER, "image_size": [28, 28], "patch_size": [7, 7]}
    return hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(text_config=hf.Qwen2Config(**TEXT), vision_config=tower, image_token_id=IMAGE)
    )


def _paligemma() -> Any:
    return hf.PaliGemmaForConditionalGeneration(
        hf.PaliGemmaConfig(
            text_config=hf.GemmaConfig(**TEXT, head_dim=8),
            vision_config=hf.SiglipVisionConfig(**_siglip(), vision_use_head=False, projection_dim=32),
            image_token_index=IMAGE,
            projection_dim=32,
            hidden_size=32,
        )
    )


def _lfm2_vl() -> Any:
    text = hf.Lfm2Config(**TEXT, block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv"])
    tower = hf.Siglip2VisionConfig(
        **{name: value for name, value in _siglip().items() if name != "image_size"}, num_patches=64
    )
    return hf.Lfm2VlForConditionalGeneration(
        hf.Lfm2VlConfig(text_config=text, vision_config=tower, image_token_id=IMAGE, projector_hidden_size=32)
    )


FAMILIES: dict[str, Family] = {
    "LLaVA, Llama": Family(build=lambda: llava(hf.LlamaConfig(**TEXT)), show=_even(16)),
    "LLaVA, Qwen2": Family(build=lambda: llava(hf.Qwen2Config(**TEXT)), show=_even(16)),
    "LLaVA, Mistral with a short window": Family(
        build=lambda: llava(hf.MistralConfig(**TEXT, sliding_window=12)), show=_even(16), dense=False
    ),
    "LLaVA-NeXT": Family(build=_next, show=_show_patches),
    "LLaVA-OneVision": Family(build=_onevision, show=_show_patches),
    "Qwen2-VL": Family(build=_qwen2_vl, show=_show_grids),
    "Qwen2.5-VL": Family(build=_qwen2_5_vl, show=_show_grids),
    "Qwen3-VL": Family(
        build=_qwen3_vl,
        show=_show_grids,
    ),
    "InternVL": Family(build=_internvl, show=_show_tiles),
    "Gemma3": Family(build=_gemma3, show=_even(4, border=True)),
    "Gemma3 with a short window": Family(build=lambda: _gemma3(6), show=_even(4, border=True), dense=False),
    "Idefics3": Family(build=_idefics3, show=_show_list),
    "SmolVLM": Family(build=_smolvlm, show=_show_list),
    "PaliGemma": Family(build=_paligemma, show=_even(16), layout=ROWS, dense=False),
    "LFM2-VL": Family(build=_lfm2_vl, show=_show_shapes, layout=ROWS, dense=False),
    "Qwen3.5": Family(build=_qwen3_5, show=_show_grids, layout=ROWS, dense=False, floor=1e-6),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """Return a PeftModel of the family with a LoRA that does something on its language model."""
    torch.manual_seed(0)
    network = FAMILIES[name].build().to(dtype)
    if dtype == torch.float64:
        _norm_in_float64(network)
    teach_log_probabilities(network)
    lora = LoraConfig(r=4, target_modules=language_lora_targets(network), init_lora_weights=False)
    model = get_peft_model(network, lora, autocast_adapter_dtype=False).to(dtype)
    return model.train()


def _norm_in_float64(network: Any) -> None:
    """Let RMS norms, which all compute in float32, keep float64, so that a difference can be told from rounding."""

    def norm(module: Any, plus: float) -> Callable[[torch.Tensor], torch.Tensor]:
        epsilon = vars(module).get("variance_epsilon", vars(module).get("eps"))
        return lambda x: (plus + module.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)

    for module in network.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = norm(module, 1.0 if kind.startswith(("Gemma", "Qwen3_5")) else 0.0)


def make_items(name: str, network: Any, dtype: torch.dtype = torch.float64) -> list[EncodedItem]:
    """Return items of all kinds: one image, two where the family allows, text only; 2 to 4 levels; two rounds.

    The answers of the first begin alike, and the first round of the last is the same at both levels.
    """
    generator = torch.Generator().manual_seed(7)

    def words(count: int) -> torch.Tensor:
        return torch.randint(10, 480, (count,), generator=generator)

    def item(images: Sequence[int], levels: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]]) -> EncodedItem:
        ids, inputs = FAMILIES[name].show(network, images, dtype) if images else ([], {})
        prompt = torch.cat([words(3), *[part for one in ids for part in (one, words(1))], words(4)])
        return EncodedItem(responses=tuple(_response(prompt, rounds) for rounds in levels), image_inputs=inputs)

    none, beginning, question = words(0), words(2), words(4)
    first = [[(none, torch.cat([beginning, words(count)]))] for count in (6, 3, 8)]
    second = [[(none, words(count))] for count in (4, 9)]
    third = [[(none, words(count))] for count in (5, 7, 2, 3)]
    same = words(5)
    last = [[(none, same), (question, words(count))] for count in (3, 6)]
    two = [1, 2][: FAMILIES[name].most_images]
    return [item([0], first), item(two, second), item([], third), item([3], last)]


def _response(prompt: torch.Tensor, rounds: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> EncodedResponse:
    """A prompt, then (question, answer) of each round; the answers count."""
    ids, numbers = [prompt], [torch.full_like(prompt, -1)]
    for number, (question, answer) in enumerate(rounds):
        ids += [question, answer]
        numbers += [torch.full_like(question, -1), torch.full_like(answer, number)]
    round_of = torch.cat(numbers)
    return EncodedResponse(input_ids=torch.cat(ids), supervised=round_of >= 0, round=round_of)


def as_text(item: EncodedItem) -> EncodedItem:
    """Return the item without its images and the tokens that stand for them."""
    kept = [response.input_ids != IMAGE for response in item.responses]
    responses = tuple(
        EncodedResponse(input_ids=one.input_ids[keep], supervised=one.supervised[keep], round=one.round[keep])
        for one, keep in zip(item.responses, kept, strict=True)
    )
    return replace(item, responses=responses, image_inputs={})
