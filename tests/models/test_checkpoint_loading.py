"""Original LLaVA checkpoints as they lie about: hybrids, towers here and there, adapters of plain language models."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amp_cli.errors import AmpError
from amp_cli.models.llava.convert import ConvertSettings, convert
from amp_cli.models.llava.original import llava_config, open_original
from amp_cli.models.load import load_model
from amp_cli.models.precision import choose_dtype, quantization_config, why_float16
from amp_cli.models.prompts import encode_prompts
from amp_cli.models.spec import ModelSpec
from tests.support.llava_checkpoints import (
    GOLDEN,
    TOWER,
    answers,
    change_config,
    change_weights,
    golden_adapter,
    golden_copy,
    image,
    random_checkpoint,
    read_config,
    to_hf,
    to_llava,
)

FLAT = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return answers(load_model(ModelSpec(model=str(GOLDEN / "base"))))


def pixels(folder: Path, size: tuple[int, int]) -> torch.Tensor:
    values: torch.Tensor = encode_prompts(
        load_model(ModelSpec(model=str(folder))), [(("What?",), ())], [[image(*size)]]
    )["pixel_values"]
    return values


# hybrids: weights of one layout, configuration of the other


@pytest.mark.parametrize("without", [(), FLAT, (*FLAT, "vocab_size", "rms_norm_eps", "torch_dtype")])
def test_original_weights_are_read_though_transformers_rewrote_the_configuration(
    base: Path, expected: torch.Tensor, without: tuple[str, ...]
) -> None:
    theirs = llava_config(open_original(base)).to_dict()
    change_config(base, without=without, **{key: theirs[key] for key in ("text_config", "vision_config")})
    change_config(base, architectures=["LlavaForConditionalGeneration"], image_token_index=1000, model_type="llava")
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_a_hybrid_is_of_the_kind_that_its_text_configuration_says(base: Path) -> None:
    text = {**llava_config(open_original(base)).text_config.to_dict(), "model_type": "mistral"}
    change_config(base, without=FLAT, architectures=["LlavaForConditionalGeneration"], text_config=text)
    assert llava_config(open_original(base)).text_config.model_type == "mistral"
    change_config(base, text_config={**text, "model_type": "qwen2"})
    with pytest.raises(AmpError, match="which is not supported"):
        open_original(base)


def test_transformers_weights_are_read_though_the_original_keys_were_left_in_the_configuration(
    base: Path, tmp_path: Path, expected: torch.Tensor
) -> None:
    to_hf(base, tmp_path / "hf")
    original = read_config(base)
    change_config(tmp_path / "hf", **{key: value for key, value in original.items() if key.startswith("mm_")})
    torch.testing.assert_close(answers(load_model(ModelSpec(model=str(tmp_path / "hf")))), expected, rtol=0, atol=1e-5)


# projector and other weights


@pytest.mark.parametrize("name", ["base", "base_vision_inside"])
def test_a_model_without_projector_is_refused(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path, name)
    change_weights(folder, lambda weights: {key: value for key, value in weights.items() if "mm_projector" not in key})
    with pytest.raises(AmpError, match=r"has no projector|lacks the projector weight 'model\.mm_projector\.0\.bias'"):
        load_model(ModelSpec(model=str(folder)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: {k: v for k, v in weights.items() if "mm_projector.2" not in k}, "lacks .* '.*2.bias'"),
        (lambda weights: {**weights, "model.mm_projector.4.weight": torch.zeros(64, 64)}, "has .* '.*4.weight'"),
        (
            lambda weights: {re.sub(r"mm_projector\.[02]", "mm_projector", k): v for k, v in weights.items()},
            "(has|lacks) the projector weight",
        ),
    ],
    ids=["half", "deeper", "linear"],
)
def test_a_projector_of_another_kind_is_refused(base: Path, change: Any, reason: str) -> None:
    change_weights(base, change)
    with pytest.raises(AmpError, match=reason):
        load_model(ModelSpec(model=str(base)))


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_norm.weight", "model.layers.2.mlp.up_proj.weight"])
def test_a_weight_that_the_model_has_no_place_for_is_named(base: Path, tmp_path: Path, name: str) -> None:
    change_weights(base, lambda weights: {**weights, name: torch.zeros(112, 64)})
    for use in (lambda: load_model(ModelSpec(model=str(base))), lambda: to_hf(base, tmp_path / "out")):
        with pytest.raises(AmpError, match=rf"no place for.* first .*{re.escape(name.removeprefix('model.'))}"):
            use()


@pytest.mark.parametrize("name", ["model.rewards.weight", "value_head.weight", "model.embed_positions.weight"])
def test_a_weight_that_is_no_part_of_any_llava_is_named(base: Path, tmp_path: Path, name: str) -> None:
    change_weights(base, lambda weights: {**weights, name: torch.zeros(4)})
    for use in (lambda: load_model(ModelSpec(model=str(base))), lambda: to_hf(base, tmp_path / "out")):
        with pytest.raises(AmpError, match=re.escape(name)):
            use()


def test_constants_that_old_versions_saved_change_nothing(base: Path, tmp_path: Path, expected: torch.Tensor) -> None:
    constants = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((8,), 9.0),
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.full((8,), 9.0),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.zeros(1, 17, dtype=torch.long),
    }
    change_weights(base, lambda weights: {**weights, **constants})
    position_ids = {"vision_model.embeddings.position_ids": torch.zeros(1, 17, dtype=torch.long)}
    change_weights(tmp_path / TOWER, lambda weights: {**weights, **position_ids})
    loaded = load_model(ModelSpec(model=str(base)))
    assert torch.equal(answers(loaded), expected)
    assert loaded.notes == ()
    converted = load_file(to_hf(base, tmp_path / "hf") / "model-00001-of-00002.safetensors")
    assert not [name for name in converted if name.endswith(("inv_freq", "position_ids"))]


# what the model does with its images


def test_a_model_that_is_shown_the_class_token_reads_one_position_more(base: Path, expected: torch.Tensor) -> None:
    change_config(base, mm_vision_select_feature="cls_patch")
    loaded = load_model(ModelSpec(model=str(base)))
    assert answers(loaded).shape[0] == expected.shape[0] + 1
    assert loaded.model.config.vision_feature_select_strategy == "full"


def test_the_tower_s_layer_is_the_one_that_the_configuration_names(base: Path, expected: torch.Tensor) -> None:
    change_config(base, mm_vision_select_layer=-1)
    assert not torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


@pytest.mark.parametrize("changes", [{"image_aspect_ratio": "square"}, {"image_aspect_ratio": None}])
def test_a_model_that_was_not_trained_on_padded_images_sees_their_centre(
    base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    change_config(base, **changes)
    centre = image(112, 56).crop((28, 0, 84, 56))
    converted = to_hf(base, tmp_path / "hf")
    for folder in (base, converted, to_llava(converted, tmp_path / "back")):
        loaded = load_model(ModelSpec(model=str(folder)))
        assert loaded.background is None
        cropped = encode_prompts(loaded, [(("What?",), ())], [[centre]])["pixel_values"]
        assert torch.equal(pixels(folder, (112, 56)), cropped)


def test_a_model_that_was_trained_on_padded_images_sees_all_of_them(base: Path, tmp_path: Path) -> None:
    for folder in (base, to_hf(base, tmp_path / "hf")):
        assert load_model(ModelSpec(model=str(folder))).background == (122, 116, 104)
        stripe = pixels(folder, (112, 56))[0, :, :10]  # above the image: the mean colour, 0 after normalisation
        assert stripe.abs().max() < 0.02


# adapters of plain language models


@pytest.fixture
def plain(base: Path) -> Path:
    """The base's language model alone, as Vicuna is beside LLaVA's own LoRA adapters."""
    change_weights(base, lambda weights: {key: value for key, value in weights.items() if "mm_projector" not in key})
    change_config(base, without=tuple(key for key in read_config(base) if key.startswith("mm_")))
    change_config(base, model_type="llama", architectures=["LlamaForCausalLM"])
    return base


def lora_folder(tmp_path: Path, architecture: str) -> Path:
    adapter = golden_adapter(tmp_path)
    shutil.copyfile(GOLDEN / "base" / "config.json", adapter / "config.json")
    change_config(adapter, architectures=[architecture])
    weights = load_file(GOLDEN / "base" / "model.safetensors")
    projector = {f"base_model.model.{key}": value for key, value in weights.items() if "mm_projector" in key}
    torch.save(projector, adapter / "non_lora_trainables.bin")
    return adapter


def test_a_plain_language_model_has_no_eyes(plain: Path, tmp_path: Path) -> None:
    for adapter in (None, str(golden_adapter(tmp_path))):
        with pytest.raises(AmpError, match="is a plain language model"):
            load_model(ModelSpec(model=str(plain), adapter=adapter))
    with pytest.raises(AmpError, match="is a language model without a projector"):
        to_hf(plain, tmp_path / "out")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "LlavaLlamaForCausalLM"])
def test_a_plain_language_model_with_llavas_lora_folder_is_the_whole(
    plain: Path, tmp_path: Path, architecture: str
) -> None:
    adapter = lora_folder(tmp_path, architecture)
    whole = answers(load_model(ModelSpec(model=str(GOLDEN / "base"), adapter=str(GOLDEN / "adapter"))))
    assert torch.equal(answers(load_model(ModelSpec(model=str(plain), adapter=str(adapter)))), whole)


def test_a_projector_file_that_holds_more_than_a_projector_is_refused(plain: Path, tmp_path: Path) -> None:
    adapter = lora_folder(tmp_path, "LlamaForCausalLM")
    file = adapter / "non_lora_trainables.bin"
    torch.save({**torch.load(file), "base_model.model.model.norm.weight": torch.ones(64)}, file)
    with pytest.raises(AmpError, match=r"holds '.*norm\.weight', which is not part of a projector"):
        load_model(ModelSpec(model=str(plain), adapter=str(adapter)))


# other kinds, and numbers that do not fit


@pytest.mark.parametrize("kind", ["LlavaMptForCausalLM", "LlavaQwenForCausalLM", "BunnyPhiForCausalLM"])
def test_a_model_around_another_language_model_is_named(base: Path, kind: str) -> None:
    change_config(base, architectures=[kind], model_type="llava_other")
    with pytest.raises(AmpError, match=f"is an original LLaVA checkpoint around '{kind}', which is not supported"):
        load_model(ModelSpec(model=str(base)))


def test_a_model_whose_parts_are_named_otherwise_is_named_too(base: Path) -> None:
    """LLaVA-MPT calls its language model `transformer`."""
    change_config(base, architectures=["LlavaMptForCausalLM"], model_type="llava_mpt")
    change_weights(base, lambda weights: {k.replace("model.", "transformer.", 1): v for k, v in weights.items()})
    with pytest.raises(AmpError, match="around 'LlavaMptForCausalLM'"):
        load_model(ModelSpec(model=str(base)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_use_im_start_end", True),
        ("image_aspect_ratio", "anyres"),
        ("image_aspect_ratio", "anyres_max_9"),
        ("image_aspect_ratio", "highres"),
        ("image_aspect_ratio", "crop_split"),
        ("mm_resampler_type", "perceiver"),
        ("mm_projector_type", "mlp2x_silu"),
        ("mm_projector_type", "linear"),
        ("mm_spatial_pool_stride", 2),
        ("mm_vision_select_feature", "cls"),
        ("mm_vision_select_feature", "slicefour_patch"),
        ("mm_vision_select_layer", [-2, -5]),
        ("mm_vision_select_layer", "-2"),
        ("mm_vision_select_layer", True),
        ("mm_patch_merge_type", "spatial_unpad"),
        ("use_mm_proj", False),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("rope_scaling", {"type": "su", "factor": 2.0}),
        ("rope_scaling", 2),
        ("s2", True),
        ("num_experts", 4),
        ("a_setting_of_next_year", "on"),
        ("projector_hidden_act", "silu"),
    ],
)
def test_what_transformers_llava_cannot_hold_is_a_sentence(
    base: Path, tmp_path: Path, name: str, value: object
) -> None:
    change_config(base, **{name: value})
    named = pytest.raises(AmpError, match=re.escape(f"has {name} = {value!r}, which"))
    with named as caught:
        load_model(ModelSpec(model=str(base)))
    assert caught.value.hint
    with named:
        convert(ConvertSettings(model=str(base), out=tmp_path / "out", to="hf"))


def test_settings_of_the_training_and_what_is_off_change_nothing(base: Path) -> None:
    expected = answers(load_model(ModelSpec(model=str(base))))
    change_config(
        base,
        tune_mm_mlp_adapter=True,
        freeze_backbone=True,
        mm_projector_lr=2e-5,
        tune_vit_from_layer=12,
        image_grid_pinpoints=[[336, 672]],
        tokenizer_model_max_length=2048,
        mm_use_im_patch_token=True,
        mm_spatial_pool_stride=None,
        quantization_config=None,
        s2=False,
        do_sample=True,
        temperature=0.9,
        use_cache=False,
    )
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


@pytest.mark.parametrize("layer", [-5, 4, 100])
def test_a_layer_that_the_tower_lacks_is_refused(base: Path, layer: int) -> None:
    change_config(base, mm_vision_select_layer=layer)
    with pytest.raises(AmpError, match=rf"mm_vision_select_layer = {layer}, but its vision tower has 3 layers"):
        load_model(ModelSpec(model=str(base)))


def test_a_model_of_neither_layout_is_not_called_transformers_own(tmp_path: Path) -> None:
    folder = to_hf(golden_copy(tmp_path), tmp_path / "hf")
    change_config(folder, model_type="somebodys_vlm", architectures=["SomebodysVLM"])
    with pytest.raises(AmpError, match="'somebodys_vlm', which is neither a LLaVA nor known to transformers"):
        convert(ConvertSettings(model=str(folder), out=tmp_path / "out", to="hf"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantization_config", {"quant_method": "awq"}), ("vision_feature_select_strategy", "cls"),
     ("vision_feature_layer", [-2, -5]), ("projector_hidden_act", "silu")],
)  # fmt: skip
def test_what_the_original_layout_cannot_hold_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    folder = to_hf(golden_copy(tmp_path), tmp_path / "hf")
    change_config(folder, **{name: value})
    with pytest.raises(AmpError, match=name):
        to_llava(folder, tmp_path / "back")


def test_a_stretched_rope_is_kept(base: Path) -> None:
    plain = answers(load_model(ModelSpec(model=str(base))))
    change_config(base, rope_scaling={"type": "linear", "factor": 4.0})
    stretched = load_model(ModelSpec(model=str(base)))
    assert stretched.model.config.text_config.rope_parameters["factor"] == 4
    assert (answers(stretched) - plain).abs().max() > 1e-4


def test_sharegpt4v_is_a_llava_with_a_tower_of_its_own(base: Path) -> None:
    """Its tower is fine-tuned, so it lies beside the model under a name that is not OpenAI's."""
    expected = answers(load_model(ModelSpec(model=str(base))))
    tower = "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12"
    (base.parent / tower).parent.mkdir()
    shutil.copytree(base.parent / TOWER, base.parent / tower)
    change_config(base, architectures=["Share4VLlamaForCausalLM"], model_type="share4v", mm_vision_tower=tower)
    loaded = load_model(ModelSpec(model=str(base)))
    assert torch.equal(answers(loaded), expected)
    assert loaded.identity["vision_tower"]["name"] == tower


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"architectures": ["TinyLlavaForConditionalGeneration"], "model_type": "tinyllava"}, "TinyLLaVA"),
        ({"architectures": ["TinyLlavaPhiForCausalLM"], "model_type": "tiny_llava_phi"}, "TinyLLaVA"),
        ({"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "visual": {"width": 1664}}, "Qwen-VL"),
        (
            {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_video_tower": "LanguageBind/V"},
            "Video-LLaVA",
        ),
        ({"architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "llm_cfg": {"a": 1}}, "VILA"),
        ({"architectures": ["MGMLlamaForCausalLM"], "model_type": "mgm"}, "MGM"),
        ({"architectures": ["MiniGeminiLlamaForCausalLM"], "model_type": "mini_gemini"}, "MGM"),
        ({"architectures": ["LlavaMistralForCausalLM"], "image_aspect_ratio": "anyres"}, "LLaVA-NeXT"),
    ],
)
def test_another_model_is_named_with_what_to_do_before_its_weights_are_looked_for(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for attempt in (
        lambda: load_model(ModelSpec(model=str(folder))),
        lambda: convert(ConvertSettings(model=str(folder), out=tmp_path / "out", to="hf")),
    ):
        with pytest.raises(AmpError, match=rf"is a {name}.*which is not supported") as caught:
            attempt()
        assert str(caught.value.hint).startswith("Use ")


@pytest.mark.parametrize(
    ("name", "network_name"),
    [("lm_head.weight", "lm_head.weight"), ("model.mm_projector.0.weight", "multi_modal_projector.linear_1.weight")],
)
def test_weights_that_overflow_float16_are_refused(base: Path, name: str, network_name: str) -> None:
    change_weights(base, lambda weights: {**weights, name: torch.full(weights[name].shape, 1e6)})
    with pytest.raises(AmpError, match=rf"does not fit float16: the weight '.*{re.escape(network_name)}'"):
        load_model(ModelSpec(model=str(base), dtype="float16"))
    load_model(ModelSpec(model=str(base), dtype="bfloat16"))


def test_stored_precision_is_the_checkpoints(base: Path) -> None:
    assert load_model(ModelSpec(model=str(base), dtype="stored")).model.dtype == torch.float16


def test_an_original_checkpoint_loads_in_four_bits(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    folder = random_checkpoint(tmp_path / "model")
    full, quantised = (
        load_model(ModelSpec(model=str(folder))),
        load_model(ModelSpec(model=str(folder), quantization="nf4")),
    )
    packed = [name for name, part in quantised.model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 2 * 7
    assert all("language_model" in name for name in packed)
    difference = (answers(full) - answers(quantised)).norm() / answers(full).norm()
    assert 0 < difference < 0.3


def test_the_embedding_is_not_changed_by_the_rows_that_are_appended(base: Path) -> None:
    loaded = load_model(ModelSpec(model=str(base), dtype="stored"))
    stored = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    rows = loaded.model.get_input_embeddings().weight
    assert rows.shape == (1024, 64)
    assert torch.equal(rows[:1000], stored)
    assert torch.equal(rows[1000], stored.double().mean(dim=0).half())


@pytest.mark.parametrize(
    ("capability", "asked", "used"),
    [((7, 5), "auto", "float16"), ((7, 0), "auto", "float16"), ((8, 0), "auto", "bfloat16"),
     ((9, 0), "auto", "bfloat16"), ((7, 5), "bfloat16", "bfloat16"), ((7, 5), "float32", "float32")],
)  # fmt: skip
def test_a_gpu_without_bfloat16_of_its_own_computes_in_float16_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], asked: str, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    gpu = torch.device("cuda", 0)
    name, dtype = choose_dtype(asked, gpu, {})
    assert (name, dtype) == (used, getattr(torch, used))
    why = why_float16(asked, gpu)
    assert (why is not None) == (used == "float16")
    assert why is None or f"Tesla T4 (compute capability {capability[0]}.{capability[1]})" in why
    packed = quantization_config("nf4", dtype, to_share=True)
    assert packed is not None
    assert packed.bnb_4bit_compute_dtype == packed.bnb_4bit_quant_storage == dtype
    assert quantization_config("nf4", dtype).bnb_4bit_quant_storage == torch.uint8  # type: ignore[union-attr]


def test_a_cpu_computes_in_float32_whatever_gpus_do() -> None:
    assert choose_dtype("auto", torch.device("cpu"), {})[0] == "float32"
    assert why_float16("auto", torch.device("cpu")) is None
