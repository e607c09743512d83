"""Going on with an adapter: it starts where the adapter stands, changes it alone, and keeps its projector."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amp_cli.errors import AmpError
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.training.config import TrainConfig, load_config
from amp_cli.training.session import load_policy
from tests.support.llava_checkpoints import GOLDEN, answers, golden_adapter, train_projector
from tests.training.test_trainer import RAGGED, adapter, metrics, train


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of rank 4 on the tiny model."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train(folder, RAGGED)
    return folder


def goes_on(run: Path) -> TrainConfig:
    return replace(RAGGED, adapter=str(run), max_steps=1, save_steps=1)


def test_rank_and_alpha_are_the_adapters(first_run: Path) -> None:
    config = load_config("tiny", adapter=str(first_run))
    assert (config.lora_r, config.lora_alpha) == (4, 8)
    assert load_config("tiny", adapter=str(first_run), overrides=["lora_r=4"]).lora_r == 4


@pytest.mark.parametrize("override", ["lora_r=8", "lora_alpha=16"])
def test_another_rank_or_alpha_than_the_adapters_is_refused(first_run: Path, override: str) -> None:
    name, value = override.split("=")
    with pytest.raises(AmpError, match=rf"has {name} \d, not {value}"):
        load_config("tiny", adapter=str(first_run), overrides=[override])


def test_the_policy_starts_as_base_plus_adapter_and_the_reference_is_the_base(first_run: Path) -> None:
    policy = load_policy(goes_on(first_run), "cpu")
    both, base = load_model(ModelSpec(model="tiny", adapter=str(first_run))), load_model(ModelSpec(model="tiny"))
    started = answers(policy)
    torch.testing.assert_close(started, answers(both), rtol=0, atol=1e-5)
    assert (started - answers(base)).abs().max() > 0.01
    with policy.model.disable_adapter():
        torch.testing.assert_close(answers(policy), answers(base), rtol=0, atol=1e-5)


def test_the_adapters_weights_alone_are_trained(first_run: Path) -> None:
    policy = load_policy(goes_on(first_run), "cpu")
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == len(load_file(first_run / "adapter" / "adapter_model.safetensors"))


@pytest.mark.slow
def test_the_first_rewards_are_those_of_an_adapter_that_has_learnt_already(first_run: Path, tmp_path: Path) -> None:
    """A fresh adapter is its own reference: no reward at all. The adapter's policy has moved away from the base."""
    train(tmp_path / "fresh", replace(RAGGED, max_steps=1, save_steps=1))
    train(tmp_path / "second", goes_on(first_run))
    fresh, second = metrics(tmp_path / "fresh")[0], metrics(tmp_path / "second")[0]
    rewards = [name for name in fresh if name.startswith("reward_level_")]
    assert [fresh[name] for name in rewards] == [0.0, 0.0, 0.0]
    assert all(second[name] > 1 for name in rewards)


def test_one_step_moves_what_the_first_run_wrote(first_run: Path, tmp_path: Path) -> None:
    train(tmp_path / "second", goes_on(first_run))
    before, after = adapter(first_run), adapter(tmp_path / "second")
    assert set(before) == set(after)
    moved = max((before[name].float() - after[name].float()).abs().max().item() for name in before)
    assert 0 < moved < 0.05  # one step of 1e-2, not a new beginning


def test_a_step_changes_no_weight_of_the_base(first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_cli.training import session

    kept = []

    def remembered(config: TrainConfig, device: str, **how: bool) -> object:
        kept.append(load_policy(config, device, **how))
        return kept[-1]

    monkeypatch.setattr(session, "load_policy", remembered)
    train(tmp_path / "second", goes_on(first_run))
    trained = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in kept[0].model.named_parameters()
        if "lora_" not in name
    }
    fresh = dict(load_model(ModelSpec(model="tiny")).model.named_parameters())
    assert set(trained) == set(fresh)
    assert all(torch.equal(trained[name], parameter) for name, parameter in fresh.items())


def test_a_projector_that_came_with_the_adapter_goes_on_with_it(tmp_path: Path) -> None:
    """From LLaVA's own folder on an original base, all the way to the new run's adapter."""
    folder = train_projector(golden_adapter(tmp_path))
    config = replace(
        RAGGED, base=str(GOLDEN / "base"), adapter=str(folder), lora_r=8, lora_alpha=16, max_steps=1, save_steps=1
    )
    train(tmp_path / "run", config)
    carried = torch.load(tmp_path / "run" / "adapter" / "non_lora_trainables.bin")
    given = torch.load(folder / "non_lora_trainables.bin")
    assert set(carried) == set(given)
    assert all(torch.equal(tensor, carried[name]) for name, tensor in given.items())
    again = load_model(ModelSpec(model=str(GOLDEN / "base"), adapter=str(tmp_path / "run")))
    projector = again.model.get_base_model().model.multi_modal_projector.linear_1.weight
    assert torch.equal(projector.float(), given["base_model.model.model.mm_projector.0.weight"].float())


def test_an_adapter_that_is_gone_is_a_sentence(first_run: Path, tmp_path: Path) -> None:
    shutil.copytree(first_run / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(AmpError, match="has no weights"):
        load_config("tiny", adapter=str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(AmpError, match="does not hold a LoRA adapter"):
        load_config("tiny", adapter=str(tmp_path / "adapter"))
