"""Which settings of an original LLaVA's `config.json` are understood, and which other models are told by theirs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amp_cli.errors import AmpError

LANGUAGE_MODELS = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "Share4VLlamaForCausalLM": "llama",
}
"""ShareGPT4V is a LLaVA-1.5 of another class name, with a vision tower of its own."""
_PLAIN = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
"""What the configuration says beside LLaVA's own LoRA adapters: it is that of the base with LLaVA's keys added."""

UNDERSTOOD: dict[str, tuple[Any, ...] | Callable[[Any], bool]] = {
    "image_aspect_ratio": (None, "pad", "square"),
    "mm_hidden_size": lambda value: type(value) is int,  # held against the projector's shape
    "mm_patch_merge_type": (None, "flat"),
    "mm_projector_type": (None, "mlp2x_gelu"),
    "mm_resampler_type": (None,),
    "mm_use_im_patch_token": (None, True, False),  # only adds a token that no prompt has
    "mm_use_im_start_end": (None, False),
    "mm_vision_select_feature": (None, "patch", "cls_patch"),
    "mm_vision_select_layer": lambda value: type(value) is int,
    "mm_vision_tower": lambda value: value is None or isinstance(value, str),
    "multimodal_projector_bias": (True,),
    "projector_hidden_act": ("gelu",),
    "rope_scaling": lambda value: value is None or _rope_kind(value) in ("default", "linear", "dynamic", "llama3"),
    "rope_theta": lambda value: isinstance(value, int | float),
    "s2": (None, False),
    "text_config": lambda value: isinstance(value, Mapping),
    "unfreeze_mm_vision_tower": (None, True, False),
    "use_mm_proj": (None, True),
    "vision_config": lambda value: isinstance(value, Mapping),
    "vision_feature_layer": (-2,),
    "vision_feature_select_strategy": ("default",),
}
"""LLaVA's own settings that decide what the network computes, and the values that the conversion has a place for."""

HARMLESS = frozenset({
    # how the model was trained
    "freeze_backbone", "freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "gradient_checkpointing",
    "group_by_modality_length", "lora_alpha", "lora_bias", "lora_dropout", "lora_enable", "lora_r",
    "lora_weight_path", "mm_projector_lr", "mm_tunable_parts", "mm_vision_tower_lr", "pretrain_mm_mlp_adapter",
    "pretraining_tp", "tune_embed_tokens", "tune_entire_model", "tune_mm_mlp_adapter", "tune_mm_vision_resampler",
    "tune_mm_vision_tower", "tune_vision_tower", "tune_vit_from_layer", "unfreeze_language_model",
    "unfreeze_mm_mlp_adapter", "vision_tower", "vision_tower_lr", "vit_lr",
    # how it is to be read: the tokenizer has its own files, images are read as `image_aspect_ratio` says
    "delay_load", "ignore_index", "image_crop_resolution", "image_grid_pinpoints", "image_seq_length",
    "image_split_resolution", "image_token_id", "image_token_index", "model_max_length",
    "s2_scales", "tokenizer_class", "tokenizer_model_max_length", "tokenizer_padding_side", "use_flash_attention",
    "use_flash_attn",
    # what every version of transformers has written into configurations
    "_attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled", "_name_or_path",
    "add_cross_attention", "architectures", "attn_implementation", "auto_map", "cross_attention_hidden_size",
    "finetuning_task", "is_decoder", "model_type", "prefix", "pruned_heads", "sep_token_id", "task_specific_params",
    "tf_legacy_loss", "tie_encoder_decoder", "torch_dtype", "torchscript", "unk_token_id", "use_bfloat16",
})  # fmt: skip
"""Settings that change nothing of what the network computes."""


def refuse_unknown_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration with a setting that the conversion would pass over.

    A setting that is off (null, false, empty) is as if it was not there.

    Raises:
        AmpError: naming the setting, or the language model, that has no place in transformers' LLaVA.
    """
    kind = _kind(config)
    if language_model_type(config) is None:
        raise AmpError(
            f"'{folder}' is an original LLaVA checkpoint around '{kind}', which is not supported",
            hint=f"Supported are {' and '.join(LANGUAGE_MODELS)}; for others look for a version by llava-hf",
        )
    for name, value in config.items():
        if name in UNDERSTOOD:
            allowed = UNDERSTOOD[name]
            is_fine = allowed(value) if callable(allowed) else any(value is one or value == one for one in allowed)
        else:
            is_fine = name in HARMLESS or not value or name in language_model_settings(config)
        if not is_fine:
            raise AmpError(
                f"'{folder}' has {name} = {value!r:.120}, which LLaVA in transformers does not support",
                hint=_HINTS.get(name, "LLaVA-1.5 is supported; for LLaVA-1.6 use the versions by llava-hf"),
            )


_HINTS = {
    "quantization_config": "Convert the model as it was before it was quantised; --quantization packs it when it loads",
    "mm_vision_select_layer": "LLaVA-1.5 takes one layer of the vision tower, such as -2",
    "mm_projector_type": "Only LLaVA-1.5's projector of two layers (mlp2x_gelu) is supported",
}


def language_model_type(config: Mapping[str, Any]) -> str | None:
    """Return `llama` or `mistral`, or None for a kind that is not supported."""
    kind = _kind(config)
    if kind == "LlavaForConditionalGeneration":  # a hybrid: rewritten by transformers
        text = config.get("text_config", {}).get("model_type", "llama")
        return text if text in LANGUAGE_MODELS.values() else None
    return (LANGUAGE_MODELS | _PLAIN).get(kind)


def language_model_settings(config: Mapping[str, Any]) -> set[str]:
    """Return the settings that transformers' own language model of this kind takes, those of generation among them."""
    from transformers import AutoConfig, GenerationConfig

    own = AutoConfig.for_model(language_model_type(config)).to_dict()
    return {*own, *GenerationConfig().to_dict(), "rope_theta", "rope_scaling"}


def _kind(config: Mapping[str, Any]) -> str:
    return str(next(iter(config.get("architectures") or []), "LlavaLlamaForCausalLM"))


def _rope_kind(value: Any) -> str | None:
    return value.get("rope_type", value.get("type")) if isinstance(value, Mapping) else None


_OTHERS: tuple[tuple[str, Callable[[str, Mapping[str, Any]], bool], str], ...] = (
    (
        "TinyLLaVA",
        lambda kind, config: kind.lower().startswith("tinyllava") or "tinyllava" in str(config.get("model_type")),
        "Use a small model that transformers knows, such as a SmolVLM or Qwen2.5-VL",
    ),
    (
        "Qwen-VL (the first one)",
        lambda kind, config: kind == "QWenLMHeadModel" or config.get("model_type") == "qwen",
        "Use Qwen2-VL or a later one, which transformers knows",
    ),
    (
        "Video-LLaVA in its authors' layout",
        lambda _, config: "mm_video_tower" in config or "mm_image_tower" in config,
        "Use a LLaVA-1.5 for images; its encoders for images and videos are not CLIP's",
    ),
    (
        "VILA",
        lambda kind, config: "llm_cfg" in config or "vision_tower_cfg" in config or "vila" in kind.lower(),
        "Use a model that transformers knows, such as a LLaVA-1.5 or Qwen2.5-VL",
    ),
    (
        "MGM (Mini-Gemini)",
        lambda kind, config: kind.startswith(("MGM", "MiniGemini")) or "mm_vision_tower_aux" in config,
        "Use a LLaVA-1.5; its second vision tower has no place in transformers' LLaVA",
    ),
    (
        "LLaVA-NeXT (1.6) in its authors' layout: it has image_aspect_ratio = {image_aspect_ratio!r}",
        lambda kind, config: (
            kind in LANGUAGE_MODELS and str(config.get("image_aspect_ratio")).startswith(("anyres", "highres"))
        ),
        "Use the version by llava-hf, such as llava-hf/llava-v1.6-vicuna-7b-hf",
    ),
    (
        "MobileVLM",
        lambda kind, config: kind.startswith("MobileL") or str(config.get("model_type")).startswith("mobilevlm"),
        "Use a small model that transformers knows, such as a SmolVLM",
    ),
)
"""Name, what tells it (by its class and configuration), and what to do instead."""


def refuse_other_models(model: str, config: Mapping[str, Any]) -> None:
    """Refuse a model that looks like a LLaVA, or like one of transformers' models, and is neither.

    Raises:
        AmpError: saying what it is, and what to use instead.
    """
    kind = str(next(iter(config.get("architectures") or []), ""))
    for name, tells, instead in _OTHERS:
        if tells(kind, config):
            raise AmpError(f"'{model}' is a {name.format_map(config)}, which is not supported", hint=instead)
