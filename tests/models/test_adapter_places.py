"""LoRA anywhere in a model, of any family: found by the names it is stored under, merged as PEFT merges it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from amp_cli.errors import AmpError
from amp_cli.models.adapters import (
    attach_adapter,
    merge_weights,
    merged_weights,
    prepare_merge,
    strange_layer,
    unload_unmerged,
)
from tests.support.tiny_families import FAMILIES, TEXT, llava

Tensors = dict[str, torch.Tensor]
QWEN, LLAVA, INTERN = "Qwen2.5-VL", "LLaVA, Llama", "InternVL"


def network(name: str) -> Any:
    torch.manual_seed(0)
    return FAMILIES[name].build()


def written(folder: Path, name: str, **config: Any) -> Path:
    """An adapter of a family, as PEFT writes it, with weights that do something."""
    torch.manual_seed(1)
    model = get_peft_model(network(name), LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def merged_by_peft(name: str, adapter: Path) -> Tensors:
    model: Any = PeftModel.from_pretrained(network(name), str(adapter))
    weights: Tensors = model.merge_and_unload().state_dict()
    return weights


def merged(name: str, adapter: Path) -> Tensors:
    weights: Tensors = merge_weights(attach_adapter(network(name), adapter, "adapter"), "adapter").state_dict()
    return weights


def merged_by_layer(name: str, adapter: Path) -> Tensors:
    """As `amp merge-lora` does, one layer in memory at a time, without the rounding to the base's precision."""
    attached = attach_adapter(network(name), adapter, "adapter", as_stored=True).eval()
    assert strange_layer(attached) is None
    prepare_merge(attached, "adapter")
    plain, layers = unload_unmerged(attached)
    weights: Tensors = plain.state_dict()
    for module, layer in layers.items():
        weights |= {f"{module}.{key}": tensor for key, tensor in merged_weights(layer, module, "adapter")[0].items()}
    return weights


def same(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


def changed(name: str, weights: Tensors) -> set[str]:
    """Return the first two words of the names of all weights that are not the base's."""
    base = network(name).state_dict()
    return {".".join(key.split(".")[:2]) for key, tensor in weights.items() if not torch.equal(tensor, base[key])}


ANYWHERE: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "a tower called visual": (
        QWEN,
        {"target_modules": ["q_proj", "v_proj", "qkv", "proj", "gate_proj"]},
        {"model.language_model", "model.visual"},
    ),
    "the tower alone, by a pattern": (QWEN, {"target_modules": r".*visual.*\.(qkv|up_proj)"}, {"model.visual"}),
    "every linear layer": (
        INTERN,
        {"target_modules": "all-linear"},
        {"model.language_model", "model.vision_tower", "model.multi_modal_projector"},
    ),
    "projector and tower": (
        LLAVA,
        {"target_modules": ["linear_1", "linear_2", "q_proj", "fc1"]},
        {"model.language_model", "model.vision_tower", "model.multi_modal_projector"},
    ),
    "head": (LLAVA, {"target_modules": ["q_proj", "lm_head"]}, {"model.language_model", "lm_head.weight"}),
    "embedding": (LLAVA, {"target_modules": ["q_proj", "embed_tokens"]}, {"model.language_model"}),
    "whole head and embedding": (
        "Qwen2-VL",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"model.language_model", "lm_head.weight"},
    ),
    "whole projector": (
        LLAVA,
        {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector"]},
        {"model.multi_modal_projector", "model.language_model", "model.vision_tower"},
    ),
    "connector of SmolVLM": (
        "SmolVLM",
        {"target_modules": ["q_proj", "modality_projection.proj"]},
        {"model.text_model", "model.vision_model", "model.connector"},
    ),
    "rslora": (LLAVA, {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}, set()),
    "dora": (QWEN, {"target_modules": ["q_proj", "qkv"], "use_dora": True}, set()),
    "fan in, fan out": (LLAVA, {"target_modules": ["q_proj"], "fan_in_fan_out": True}, set()),
    "ranks and alphas of some": (
        QWEN,
        {
            "target_modules": ["q_proj", "k_proj", "qkv"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, r"visual\.blocks\.1\..*": 3},
            "alpha_pattern": {"k_proj": 20, "visual.blocks.0.attn.qkv": 3},
        },
        set(),
    ),
    "all biases": (QWEN, {"target_modules": ["q_proj", "qkv"], "bias": "all"}, set()),
    "biases of its modules": (QWEN, {"target_modules": ["q_proj", "qkv"], "bias": "lora_only"}, set()),
    "a bias of its own where the base has one": (QWEN, {"target_modules": ["q_proj", "qkv"], "lora_bias": True}, set()),
    "a convolution": (QWEN, {"target_modules": ["q_proj", "patch_embed.proj"]}, set()),
    "dora everywhere": (LLAVA, {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True}, set()),
    "some layers": (
        "Gemma3",
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        set(),
    ),
    "all but some": (
        "LLaVA-OneVision",
        {"target_modules": "all-linear", "exclude_modules": r".*vision_tower.*"},
        {"model.language_model", "model.multi_modal_projector"},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "config", "places"), ANYWHERE.values(), ids=ANYWHERE)
def test_a_merge_is_pefts_own_wherever_the_adapter_is(
    family: str, config: dict[str, Any], places: set[str], tmp_path: Path
) -> None:
    adapter = written(tmp_path, family, **config)
    ours = merged(family, adapter)
    same(ours, merged_by_peft(family, adapter))
    same(merged_by_layer(family, adapter), ours)
    assert changed(family, ours) >= places
    assert changed(family, ours)


@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_is_scaled_and_tied_is_merged_by_layer_too(tmp_path: Path) -> None:
    adapter = written(tmp_path, "Gemma3", target_modules=["q_proj", "embed_tokens"])
    same(merged_by_layer("Gemma3", adapter), merged("Gemma3", adapter))


@pytest.mark.filterwarnings("ignore")
def test_a_layer_that_does_not_answer_as_base_plus_adapter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = written(tmp_path, LLAVA, target_modules=["q_proj"])
    attached = attach_adapter(network(LLAVA), adapter, "adapter", as_stored=True).eval()
    _, layers = unload_unmerged(attached)
    module, layer = next(iter(layers.items()))
    delta = layer.get_delta_weight
    monkeypatch.setattr(layer, "get_delta_weight", lambda name: delta(name) * 1.01)  # a hundredth too much
    with pytest.raises(AmpError, match=rf"on random numbers '{module}' is"):
        merged_weights(layer, module, "adapter")


def rename(adapter: Path, change: Callable[[str], str]) -> Path:
    file = adapter / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(file).items()}, file)
    return adapter


def old_qwen(key: str) -> str:
    """As transformers before 4.52 called it."""
    return key.replace("model.model.visual.", "model.visual.").replace("model.language_model.", "model.")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [QWEN, "Qwen2-VL"])
def test_names_of_older_versions_find_their_places_in_every_part(family: str, tmp_path: Path) -> None:
    adapter = written(tmp_path, family, target_modules=["q_proj", "qkv", "lm_head"], modules_to_save=["embed_tokens"])
    expected = merged(family, adapter)
    assert any(".model.visual." in key for key in load_file(adapter / "adapter_model.safetensors"))
    same(merged(family, rename(adapter, old_qwen)), expected)


@pytest.mark.filterwarnings("ignore")
def test_names_that_still_hold_the_adapters_name_are_read_too(tmp_path: Path) -> None:
    """As `torch.save(model.state_dict())` leaves them."""
    adapter = written(tmp_path, LLAVA, target_modules=["q_proj"], modules_to_save=["lm_head"])
    expected = merged(LLAVA, adapter)
    rename(adapter, lambda key: key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."))
    rename(adapter, lambda key: key.replace("lm_head.", "lm_head.modules_to_save.default."))
    same(merged(LLAVA, adapter), expected)


def without(adapter: Path, part: str) -> Path:
    file = adapter / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(file).items() if part not in key}, file)
    return adapter


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "part", ["visual.blocks.1.attn.qkv", "layers.2.self_attn.q_proj.lora_B", "lm_head.weight", "layers.1.self_attn"]
)
def test_a_weight_that_is_missing_is_named_in_every_part(part: str, tmp_path: Path) -> None:
    adapter = written(tmp_path, QWEN, target_modules=["q_proj", "qkv"], modules_to_save=["lm_head"])
    with pytest.raises(AmpError, match="does not fit this base model") as caught:
        attach_adapter(network(QWEN), without(adapter, part), "adapter")
    assert part in caught.value.message


def test_an_adapter_of_another_family_is_refused_by_its_first_names(tmp_path: Path) -> None:
    adapter = written(tmp_path, QWEN, target_modules=["qkv"])
    with pytest.raises(AmpError, match=r"4 weights match no module, first .*visual\.blocks") as caught:
        attach_adapter(network(LLAVA), adapter, "adapter")
    assert "base it was trained on" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore")
def test_a_bias_that_the_base_has_no_place_for_is_one_sentence(tmp_path: Path) -> None:
    adapter = written(tmp_path, LLAVA, target_modules=["q_proj", "v_proj"], lora_bias=True)
    attached = attach_adapter(network(LLAVA), adapter, "adapter")
    with pytest.raises(AmpError, match=r"lora_bias.*'model\.language_model\.layers\.0\.self_attn\.q_proj'") as caught:
        merge_weights(attached, "adapter")
    assert "--adapter" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("use_qalora", True),
        ("init_lora_weights", "loftq"),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
    ],
)
def test_what_is_more_than_lora_is_refused_by_its_setting(setting: str, value: Any, tmp_path: Path) -> None:
    adapter = written(tmp_path, LLAVA, target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(AmpError, match=setting):
        attach_adapter(network(LLAVA), adapter, "adapter")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["head", "embedding", "whole head", "whole embedding"],
)
def test_a_head_that_shares_the_embedding_gets_weights_of_its_own(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tied() -> Any:
        config = llava(hf.LlamaConfig(**TEXT, tie_word_embeddings=True)).config
        config.tie_word_embeddings = True
        torch.manual_seed(0)
        return hf.LlavaForConditionalGeneration(config)

    monkeypatch.setitem(FAMILIES, LLAVA, replace(FAMILIES[LLAVA], build=tied))
    base = network(LLAVA)
    assert base.lm_head.weight is base.get_input_embeddings().weight
    attached: Any = attach_adapter(network(LLAVA), written(tmp_path / "adapter", LLAVA, **config), "adapter").eval()
    ids = torch.arange(10, 20)[None]
    expected = attached(input_ids=ids).logits
    assert (network(LLAVA).eval()(input_ids=ids).logits - expected).abs().max() > 1e-3
    merge_weights(attached, "adapter").save_pretrained(tmp_path / "merged")
    loaded = type(network(LLAVA)).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
