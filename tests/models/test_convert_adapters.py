"""`amp convert` of LoRA adapters: the same answers, there and back, nothing dropped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from amp_cli.errors import AmpError
from amp_cli.models.llava.convert import ConvertSettings, convert
from amp_cli.models.llava.names import HUB, NETWORK, ORIGINAL, Spelling
from amp_cli.models.load import load_model
from amp_cli.models.prompts import render, square
from amp_cli.models.spec import ModelSpec
from tests.support.llava_checkpoints import (
    GOLDEN,
    Tensors,
    all_weights,
    answers,
    change_config,
    change_weights,
    golden_adapter,
    golden_with_trained_projector,
    image,
    same_tensors,
    spell_adapter,
    to_hf,
    to_llava,
    train_projector,
)

SPELLINGS = {"original": ORIGINAL, "transformers before 4.52": HUB, "transformers since 4.52": NETWORK}
EVERY = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return golden_adapter(tmp_path)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [GOLDEN / "base", to_hf(GOLDEN / "base", tmp_path_factory.mktemp("bases") / "hf")]


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return answers(load_model(ModelSpec(model=str(GOLDEN / "base"), adapter=str(GOLDEN / "adapter"))))


def adapted(base: Path, adapter: Path) -> torch.Tensor:
    return answers(load_model(ModelSpec(model=str(base), adapter=str(adapter))))


def same_on_all(bases: list[Path], adapter: Path, expected: torch.Tensor) -> None:
    for base in bases:
        torch.testing.assert_close(adapted(base, adapter), expected, rtol=0, atol=1e-5)


@pytest.fixture
def with_projector(adapter: Path) -> Path:
    return train_projector(adapter)


@pytest.fixture
def with_projector_expected(tmp_path: Path) -> torch.Tensor:
    return adapted(golden_with_trained_projector(tmp_path / "golden"), GOLDEN / "adapter")


@EVERY
def test_an_adapter_is_converted_to_transformers_and_read_by_plain_peft(
    bases: list[Path], adapter: Path, tmp_path: Path, spelling: Spelling, expected: torch.Tensor
) -> None:
    if spelling is NETWORK:
        with pytest.raises(AmpError, match="is in the hf layout already"):
            to_hf(spell_adapter(adapter, spelling), tmp_path / "out")
        return
    out = to_hf(spell_adapter(adapter, spelling), tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(bases[1], dtype=torch.float32)
    model = PeftModel.from_pretrained(model, out).eval()
    assert not [name for name, _ in model.named_parameters() if "lora_" in name and "vision_tower" in name]
    ours = load_model(ModelSpec(model=str(bases[1]), template="vicuna_v1"))
    image_and_text = AutoProcessor.from_pretrained(bases[1], backend="pil")
    inputs = image_and_text(
        images=square(ours, image()), text=render(ours, ["What is on the left?"], [], 1), return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0, :, :1000]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    same_on_all(bases, out, expected)


@EVERY
def test_an_adapter_is_converted_to_the_original_layout(adapter: Path, tmp_path: Path, spelling: Spelling) -> None:
    before = all_weights(adapter)
    spell_adapter(adapter, spelling)
    if spelling is ORIGINAL:
        with pytest.raises(AmpError, match="is in the llava layout already"):
            to_llava(adapter, tmp_path / "out")
        return
    out = to_llava(adapter, tmp_path / "out")
    assert same_tensors(all_weights(out), before)


def test_there_and_back_gives_the_same_adapter(with_projector: Path, tmp_path: Path) -> None:
    change_config(with_projector, name="adapter_config.json", rank_pattern={"model.layers.0.self_attn.q_proj": 8})
    converted = to_hf(with_projector, tmp_path / "hf")
    ranks = json.loads((converted / "adapter_config.json").read_text())["rank_pattern"]
    assert ranks == {"model.language_model.layers.0.self_attn.q_proj": 8}
    back = to_llava(converted, tmp_path / "back")
    assert same_tensors(all_weights(back), all_weights(with_projector))
    before, after = (torch.load(folder / "non_lora_trainables.bin") for folder in (with_projector, back))
    assert same_tensors(before, after)
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (with_projector, back)]
    for config in configs:
        config["target_modules"] = sorted(config["target_modules"])
    assert configs[0] == configs[1]


def test_a_converted_projector_is_used(
    bases: list[Path], with_projector: Path, with_projector_expected: torch.Tensor, tmp_path: Path
) -> None:
    out = to_hf(with_projector, tmp_path / "hf")
    assert not list(out.glob("*.bin"))
    same_on_all(bases, out, with_projector_expected)


def test_layers_and_ranks_survive_a_conversion(bases: list[Path], adapter: Path, tmp_path: Path) -> None:
    change_weights(adapter, lambda weights: {name: t for name, t in weights.items() if ".layers.1." in name})
    change_config(
        adapter,
        name="adapter_config.json",
        layers_to_transform=[1],
        rank_pattern={"model.layers.1.self_attn.q_proj": 8},
        r=4,
        lora_alpha=8,
    )
    ranks = {name.split(".")[-3]: 8 for name in all_weights(adapter)}
    change_config(adapter, name="adapter_config.json", rank_pattern=ranks, alpha_pattern=dict.fromkeys(ranks, 16))
    out = to_hf(adapter, tmp_path / "hf")
    same_on_all(bases, out, adapted(bases[0], adapter))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: {**weights, "base_model.model.other.lora_A.weight": torch.zeros(1)}, "holds '.*other"),
        (lambda weights: {}, "holds nothing"),
    ],
    ids=["strange", "empty"],
)
def test_what_is_no_adapter_of_a_llava_is_not_converted(
    adapter: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], reason: str
) -> None:
    change_weights(adapter, change)
    with pytest.raises(AmpError, match=reason):
        to_hf(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_trained_weights_beside_an_adapter_are_not_dropped_silently(with_projector: Path, tmp_path: Path) -> None:
    save_file({"base_model.model.model.norm.weight": torch.zeros(64)}, with_projector / "mm_projector.safetensors")
    with pytest.raises(AmpError, match=r"holds '.*norm\.weight', which is no part of a projector"):
        to_hf(with_projector, tmp_path / "out")


def test_a_converted_adapter_is_verified_on_its_base(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "base", tmp_path / "base", ignore=shutil.ignore_patterns("*.bin"))
    shutil.copytree(GOLDEN / "openai", tmp_path / "openai")
    result = convert(ConvertSettings(model=str(adapter), out=tmp_path / "hf", to="hf", verify=True))
    assert result.tensors == 28
    assert result.max_logit_difference is not None
    assert result.max_logit_difference < 1e-5
