"""The vision tower of an original checkpoint: inside, beside, given, a whole CLIP, or the wrong one."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_cli.errors import AmpError
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from tests.support.llava_checkpoints import (
    GOLDEN,
    TOWER,
    answers,
    change_config,
    change_weights,
    golden_copy,
    random_checkpoint,
    read_config,
    to_hf,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return answers(load_model(ModelSpec(model=str(GOLDEN / "base"))))


def test_the_tower_is_found_in_the_folder_beside_it_and_from_where_one_stands(
    base: Path, tmp_path: Path, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)  # beside
    shutil.move(tmp_path / "openai", base / "openai")
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)  # in it
    (tmp_path / "elsewhere").mkdir()
    shutil.move(base / "openai", tmp_path / "elsewhere" / "openai")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)  # from here


def test_the_tower_can_be_given_and_its_name_may_be_an_absolute_folder(
    base: Path, tmp_path: Path, expected: torch.Tensor
) -> None:
    tower = tmp_path / "my-tower"
    shutil.move(tmp_path / TOWER, tower)
    with pytest.raises(AmpError, match=f"'{TOWER}' is neither in the checkpoint nor beside it"):
        load_model(ModelSpec(model=str(base)))
    assert torch.equal(answers(load_model(ModelSpec(model=str(base), vision_tower=str(tower)))), expected)
    change_config(base, mm_vision_tower=str(tower))
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_a_tower_that_is_nowhere_named_is_a_sentence(base: Path) -> None:
    change_config(base, mm_vision_tower=None)
    with pytest.raises(AmpError, match=r"does not name a vision tower \(mm_vision_tower\) and does not contain one"):
        load_model(ModelSpec(model=str(base)))


def test_of_a_whole_clip_the_vision_half_is_the_tower(base: Path, tmp_path: Path, expected: torch.Tensor) -> None:
    vision = read_config(tmp_path / TOWER)
    text = {"text_model.embeddings.token_embedding.weight": torch.zeros(4, 4), "logit_scale": torch.zeros(1)}
    change_weights(tmp_path / TOWER, lambda weights: {**weights, **text, "visual_projection.weight": torch.zeros(2, 2)})
    (tmp_path / TOWER / "config.json").write_text("{}")
    change_config(tmp_path / TOWER, model_type="clip", vision_config=vision, text_config={})
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_a_tower_saved_without_its_prefix_is_read(base: Path, tmp_path: Path, expected: torch.Tensor) -> None:
    def bare(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}

    change_weights(tmp_path / TOWER, bare)
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_a_tower_inside_of_clips_own_proportions_needs_no_configuration(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model")
    inside = answers(load_model(ModelSpec(model=str(folder))))
    tower = tmp_path / "tower"
    shutil.copytree(GOLDEN / TOWER, tower)
    change_config(tower, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)
    change_weights(
        tower,
        lambda _: {
            name.removeprefix("model.vision_tower.vision_tower."): tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
            if "vision_tower" in name
        },
    )
    assert torch.equal(answers(load_model(ModelSpec(model=str(folder), vision_tower=str(tower)))), inside)
    assert inside.std() > 0.01


def test_a_tower_inside_of_other_proportions_needs_its_configuration(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path, "base_vision_inside")
    shutil.rmtree(tmp_path / "openai")
    with pytest.raises(AmpError, match="are inside the checkpoint, but its configuration is not"):
        load_model(ModelSpec(model=str(folder)))


def test_the_same_tower_inside_and_outside_is_no_news(tmp_path: Path, expected: torch.Tensor) -> None:
    folder = golden_copy(tmp_path, "base_vision_inside")
    loaded = load_model(ModelSpec(model=str(folder)))
    assert loaded.notes == ()
    assert torch.equal(answers(loaded), expected)


def test_a_tower_published_in_float32_does_not_differ_from_its_half_inside(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path, "base_vision_inside")
    change_weights(tmp_path / TOWER, lambda weights: {name: tensor.float() for name, tensor in weights.items()})
    generator = torch.Generator().manual_seed(0)
    change_weights(
        tmp_path / TOWER,
        lambda weights: {
            name: tensor * (1 + 1e-5 * torch.rand(tensor.shape, generator=generator))
            for name, tensor in weights.items()
        },
    )
    halves = {name: tensor.half() for name, tensor in load_file(tmp_path / TOWER / "model.safetensors").items()}
    change_weights(
        folder,
        lambda weights: {
            **weights,
            **{f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in halves.items()},
        },
    )
    assert load_model(ModelSpec(model=str(folder))).notes == ()


def test_of_two_different_towers_the_one_outside_is_used_and_named(tmp_path: Path, expected: torch.Tensor) -> None:
    folder = golden_copy(tmp_path, "base_vision_inside")
    changed = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"
    change_weights(folder, lambda weights: {**weights, changed: weights[changed] + 1})
    loaded = load_model(ModelSpec(model=str(folder)))
    assert torch.equal(answers(loaded), expected)
    assert len(loaded.notes) == 1
    assert str(tmp_path / TOWER) in loaded.notes[0]
    assert changed in loaded.notes[0]


def test_a_tower_that_the_training_changed_is_the_one_inside(tmp_path: Path, expected: torch.Tensor) -> None:
    folder = golden_copy(tmp_path, "base_vision_inside")
    change_config(folder, unfreeze_mm_vision_tower=True)
    outside = tmp_path / TOWER
    change_weights(outside, lambda weights: {name: torch.zeros_like(value) for name, value in weights.items()})
    loaded = load_model(ModelSpec(model=str(folder)))
    assert torch.equal(answers(loaded), expected)
    assert loaded.identity["vision_tower"]["place"] == "inside the checkpoint"
    assert loaded.notes == ()
    assert not torch.equal(answers(load_model(ModelSpec(model=str(folder), vision_tower=str(outside)))), expected)


def test_a_tower_of_another_resolution_is_refused(base: Path, tmp_path: Path) -> None:
    change_config(tmp_path / TOWER, image_size=84)
    with pytest.raises(AmpError, match=r"says 84 pixels, its weights hold 17 positions"):
        load_model(ModelSpec(model=str(base)))
    positions = "vision_model.embeddings.position_embedding.weight"
    change_weights(tmp_path / TOWER, lambda weights: {**weights, positions: torch.zeros(37, 32)})
    with pytest.raises(AmpError, match=r"\(56 pixels, patches of 14\); .* has 84 pixels and patches of 14"):
        load_model(ModelSpec(model=str(base)))


def test_a_tower_of_another_width_is_refused(base: Path, tmp_path: Path) -> None:
    change_config(tmp_path / TOWER, hidden_size=48)
    with pytest.raises(AmpError, match="has width 48 and the language model 64, but the projector goes from 32 to 64"):
        load_model(ModelSpec(model=str(base)))


def test_a_tower_that_is_no_clip_or_lacks_weights_is_refused(base: Path, tmp_path: Path) -> None:
    kept = read_config(tmp_path / TOWER)
    for other in ({"model_type": "siglip_vision_model"}, {"model_type": None}):
        change_config(tmp_path / TOWER, **other)
        with pytest.raises(AmpError, match="not CLIP"):
            load_model(ModelSpec(model=str(base)))
    change_config(tmp_path / TOWER, **kept)
    lost = "vision_model.encoder.layers.1.mlp.fc1.bias"
    change_weights(tmp_path / TOWER, lambda weights: {key: value for key, value in weights.items() if key != lost})
    for use in (lambda: load_model(ModelSpec(model=str(base))), lambda: to_hf(base, tmp_path / "out")):
        with pytest.raises(AmpError, match=r"lacks 1 of the weights .*encoder\.layers\.1\.mlp\.fc1\.bias"):
            use()
    (tmp_path / TOWER / "model.safetensors").unlink()
    with pytest.raises(AmpError, match=f"{TOWER}' has no weights"):
        load_model(ModelSpec(model=str(base)))


def test_a_pickled_tower_is_read_too(base: Path, tmp_path: Path, expected: torch.Tensor) -> None:
    weights = load_file(tmp_path / TOWER / "model.safetensors")
    torch.save(weights, tmp_path / TOWER / "pytorch_model.bin")
    (tmp_path / TOWER / "model.safetensors").unlink()
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)
    save_file({"other": torch.zeros(1)}, tmp_path / TOWER / "model.safetensors")
    with pytest.raises(AmpError, match=r"first .*other'"):  # safetensors win here too
        load_model(ModelSpec(model=str(base)))
