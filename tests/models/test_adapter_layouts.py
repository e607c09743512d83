"""A LoRA adapter of any layout on a base of any layout: the same answers, or a sentence."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amp_cli.errors import AmpError
from amp_cli.models.llava.names import HUB, NETWORK, ORIGINAL, Spelling
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.training.merge import MergeSettings, merge_lora
from tests.support.llava_checkpoints import (
    GOLDEN,
    Tensors,
    adapter_modules,
    all_weights,
    answers,
    change_config,
    change_weights,
    golden_adapter,
    golden_with_trained_projector,
    same_tensors,
    spell_adapter,
    to_hf,
    train_projector,
)

SPELLINGS = {"original": ORIGINAL, "transformers before 4.52": HUB, "transformers since 4.52": NETWORK}
EVERY = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
PROJECTIONS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


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


def test_the_adapter_does_something(expected: torch.Tensor) -> None:
    assert (answers(load_model(ModelSpec(model=str(GOLDEN / "base")))) - expected).abs().max() > 0.01


@EVERY
def test_names_of_every_layout_fit_bases_of_both(
    bases: list[Path], adapter: Path, expected: torch.Tensor, spelling: Spelling
) -> None:
    same_on_all(bases, spell_adapter(adapter, spelling), expected)


@EVERY
def test_targets_may_be_full_names(
    bases: list[Path], adapter: Path, expected: torch.Tensor, spelling: Spelling
) -> None:
    spell_adapter(adapter, spelling)
    change_config(adapter, name="adapter_config.json", target_modules=adapter_modules(adapter))
    same_on_all(bases, adapter, expected)


@EVERY
def test_targets_may_be_a_regular_expression_in_its_own_spelling(
    bases: list[Path], adapter: Path, expected: torch.Tensor, spelling: Spelling
) -> None:
    pattern = rf"{re.escape(spelling.language_model)}layers\.\d+\.(self_attn|mlp)\.({PROJECTIONS})"
    same_on_all(bases, spell_adapter(adapter, spelling, target_modules=pattern), expected)


def test_layers_to_transform_are_those_of_the_language_model(bases: list[Path], adapter: Path) -> None:
    def last_layer_alone(weights: Tensors) -> Tensors:
        return {name: tensor for name, tensor in weights.items() if ".layers.1." in name}

    silent = golden_adapter(adapter.parent / "silent")
    change_weights(silent, lambda weights: {name: tensor * (".layers.1." in name) for name, tensor in weights.items()})
    change_weights(adapter, last_layer_alone)
    for layers in ([1], 1):
        change_config(adapter, name="adapter_config.json", layers_to_transform=layers)
        same_on_all(bases, adapter, adapted(bases[0], silent))


@EVERY
@pytest.mark.parametrize("key", ["full", "end", "bare"])
def test_other_ranks_and_alphas_of_some_layers_are_found(
    bases: list[Path], adapter: Path, spelling: Spelling, key: str
) -> None:
    """Half of a rank-8 layer with alpha 16 is a rank-4 layer with alpha 8, where the other half is 0."""
    chosen = (lambda name: ".q_proj." in name) if key == "bare" else (lambda name: QUERY in name)
    halves = golden_adapter(adapter.parent / "halves")

    def half_silent(weights: Tensors) -> Tensors:
        for name, tensor in weights.items():
            if chosen(name) and "lora_B" in name:
                tensor[:, 4:] = 0
        return weights

    def half(weights: Tensors) -> Tensors:
        return {
            name: (tensor[:4] if "lora_A" in name else tensor[:, :4]) if chosen(name) else tensor
            for name, tensor in weights.items()
        }

    change_weights(halves, half_silent)
    change_weights(adapter, half)
    spell_adapter(adapter, spelling)
    names = {
        "full": f"{spelling.language_model}layers.0.self_attn.q_proj",
        "end": "layers.0.self_attn.q_proj",
        "bare": "q_proj",
    }
    change_config(adapter, name="adapter_config.json", rank_pattern={names[key]: 4}, alpha_pattern={names[key]: 8})
    same_on_all(bases, adapter, adapted(bases[0], halves))


# adapters that do not fit


def wider(weights: Tensors) -> Tensors:
    return {name: torch.cat((t, t), dim=1) if "lora_A" in name else torch.cat((t, t)) for name, t in weights.items()}


def renamed(weights: Tensors) -> Tensors:
    return {name.replace(".layers.", ".blocks."): tensor for name, tensor in weights.items()}


def without_first(weights: Tensors) -> Tensors:
    return {name: tensor for name, tensor in weights.items() if ".layers.0.mlp." not in name}


def with_others(weights: Tensors) -> Tensors:
    others = {f"{QUERY.replace('layers.0', f'layers.{number}')}.lora_A.weight": torch.zeros(8, 64) for number in (7, 8)}
    return {**weights, **others}


@pytest.mark.parametrize(
    ("change", "config", "count", "first"),
    [
        (
            wider,
            {},
            "28 weights have a different shape",
            ["layers.0.self_attn.q_proj.lora_A", "([8, 128], not [8, 64])"],
        ),
        (
            None,
            {"r": 4},
            "28 weights have a different shape",
            ["layers.0.self_attn.q_proj.lora_A", "([8, 64], not [4, 64]"],
        ),
        (renamed, {}, "28 modules get no weight and 28 weights match no module", ["blocks.0.mlp.down_proj.lora_A"]),
        (without_first, {}, "6 modules get no weight and 0", ["0.mlp.down_proj.lora_A", "0.mlp.gate_proj.lora_A"]),
        (with_others, {}, "0 modules get no weight and 2 weights match no module", ["layers.7.", "layers.8."]),
    ],
    ids=["size", "rank", "names", "missing", "extra"],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_first_names(
    bases: list[Path],
    adapter: Path,
    change: Callable[[Tensors], Tensors] | None,
    config: dict[str, Any],
    count: str,
    first: list[str],
) -> None:
    if change is not None:
        change_weights(adapter, change)
    change_config(adapter, name="adapter_config.json", **config)
    for base in bases:
        with pytest.raises(AmpError, match="does not fit this base model") as caught:
            load_model(ModelSpec(model=str(base), adapter=str(adapter)))
        assert count in caught.value.message
        assert all(part in caught.value.message for part in first), caught.value.message
        assert caught.value.message.count("base_model.model.") == min(3, int(re.findall(r"[1-9]\d*", count)[0]))


def test_an_adapter_of_another_kind_is_refused(bases: list[Path], adapter: Path) -> None:
    config = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AmpError, match=r"is of type '.*IA3', not LoRA"):
        load_model(ModelSpec(model=str(bases[0]), adapter=str(adapter)))


# the projector beside an adapter


@pytest.fixture
def with_projector(adapter: Path) -> Path:
    return train_projector(adapter)


@pytest.fixture
def with_projector_expected(tmp_path: Path) -> torch.Tensor:
    return adapted(golden_with_trained_projector(tmp_path / "golden"), GOLDEN / "adapter")


def test_a_projector_beside_the_adapter_is_used(
    bases: list[Path], with_projector: Path, with_projector_expected: torch.Tensor, expected: torch.Tensor
) -> None:
    assert (with_projector_expected - expected).abs().max() > 0.01
    same_on_all(bases, with_projector, with_projector_expected)


def test_a_projector_beside_the_adapter_is_merged_with_it(
    with_projector: Path, with_projector_expected: torch.Tensor, tmp_path: Path
) -> None:
    settings = MergeSettings(
        adapter=str(with_projector), base=str(GOLDEN / "base"), out=tmp_path / "merged", dtype="float32"
    )
    assert merge_lora(settings).max_logit_difference < 1e-4
    merged = load_model(ModelSpec(model=str(tmp_path / "merged"), template="vicuna_v1"))
    torch.testing.assert_close(answers(merged), with_projector_expected, rtol=0, atol=1e-4)
    assert merged.model.dtype == torch.float32
    assert {tensor.dtype for tensor in all_weights(tmp_path / "merged").values()} == {torch.float32}


def test_a_projector_of_another_size_is_refused(bases: list[Path], with_projector: Path) -> None:
    file = with_projector / "non_lora_trainables.bin"
    torch.save({key: value[:32] for key, value in torch.load(file).items()}, file)
    with pytest.raises(AmpError, match=r"does not fit this base model: its '.*linear_1.*' has shape \(32"):
        load_model(ModelSpec(model=str(bases[0]), adapter=str(with_projector)))


def test_a_merge_of_layouts_that_differ_is_the_same_model(bases: list[Path], adapter: Path, tmp_path: Path) -> None:
    merged = []
    for number, (base, spelling) in enumerate(((bases[0], NETWORK), (bases[1], ORIGINAL))):
        settings = MergeSettings(
            adapter=str(spell_adapter(adapter, spelling)), base=str(base), out=tmp_path / f"merged{number}"
        )
        merge_lora(settings)
        merged.append(all_weights(settings.out))
    assert same_tensors(*merged)


@pytest.mark.parametrize("key", ["lm_head.lora_B.weight", "lm_head.weight"], ids=["lora", "whole"])
def test_an_adapter_of_the_original_vocabulary_fits_the_head_that_has_more_rows(
    bases: list[Path], adapter: Path, expected: torch.Tensor, key: str
) -> None:
    """LLaVA's own head has 1,000 rows here, transformers' 1,024: the image and padding tokens come after."""
    torch.manual_seed(0)
    whole = key == "lm_head.weight"
    head = {f"base_model.model.{key}": torch.randn(1000, 64 if whole else 8) / 10}
    if not whole:
        head["base_model.model.lm_head.lora_A.weight"] = torch.randn(8, 64) / 10
    change_weights(adapter, lambda weights: {**weights, **head})
    config = json.loads((adapter / "adapter_config.json").read_text())
    targets = [*config["target_modules"], "lm_head"]
    changes = {"modules_to_save": ["lm_head"]} if whole else {"target_modules": targets}
    change_config(adapter, name="adapter_config.json", **changes)
    changed = adapted(bases[0], adapter)
    assert (changed - expected)[..., :1000].abs().max() > 0.01
    same_on_all(bases, adapter, changed)
