"""A training session on the tiny model: the first loss, what moves, how a batch is cut, what a kill changes."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amp_cli.errors import AmpError
from amp_cli.training.arguments import MARKER, last_complete
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import prepare_items
from amp_cli.training.session import Session, load_policy
from tests.support.training_items import preference, write_preferences

RAGGED = TrainConfig(
    base="tiny",
    max_steps=2,
    learning_rate=1e-2,
    lr_scheduler_type="constant",
    lora_r=4,
    lora_alpha=8,
    global_batch_size=4,
    max_grad_norm=1.0,
    gradient_checkpointing=False,
    save_steps=2,
    logging_steps=1,
    threads=1,
)


def train(
    folder: Path, config: TrainConfig, records: list[dict[str, Any]] | None = None, **prepared: Any
) -> dict[str, Any]:
    """Train in this process; a second call in the same folder goes on. `prepared` is for `prepare_items`."""
    prefs = folder / "data" / "prefs.jsonl"
    if not prefs.exists():
        write_preferences(folder / "data", records)
    prepare_items(
        prefs, folder, image_root=None, method=config.method, held_out=config.held_out, seed=config.seed, **prepared
    )
    return Session(config, folder).run()


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(folder / "adapter" / "adapter_model.safetensors")
    return weights


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, RAGGED)
    return folder


def test_the_first_loss_is_that_of_equal_log_probabilities(trained: Path, tmp_path: Path) -> None:
    four_levels = [preference(number, levels=4) for number in range(4)]
    train(tmp_path, replace(RAGGED, max_steps=1, save_steps=1), four_levels)
    first = metrics(tmp_path)[0]
    assert first["loss"] == pytest.approx(6 * math.log(2), rel=1e-6)
    assert first["reward_level_0"] == pytest.approx(0, abs=1e-3)  # one pass carries gradients, the other does not
    assert first["accuracy"] == 0.5  # policy and reference are the same: every pair is a tie


def test_every_adapter_weight_moves_and_nothing_else(trained: Path) -> None:
    fresh = load_policy(RAGGED, "cpu").model
    start = {name.replace(".default", ""): value for name, value in fresh.state_dict().items() if "lora_" in name}
    moved = adapter(trained)
    assert set(moved) == set(start)
    assert all(not torch.equal(moved[name], start[name]) for name in start)
    assert all(not parameter.requires_grad for name, parameter in fresh.named_parameters() if "lora_" not in name)


def test_the_adapter_stands_in_the_language_model_alone(trained: Path) -> None:
    names = set(adapter(trained))
    assert all(".language_model." in name for name in names)
    projections = {name.split(".")[-3] for name in names}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.slow
def test_training_lowers_the_loss_and_puts_pairs_in_order(tmp_path: Path) -> None:
    config = replace(RAGGED, max_steps=12, save_steps=12, global_batch_size=8, penalty=0.1)
    result = train(tmp_path, config)
    lines = metrics(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["accuracy"] > 0.8
    assert (result["loss"], result["accuracy"]) == (lines[-1]["loss"], lines[-1]["accuracy"])
    assert lines[-1]["reward_level_0"] > lines[-1]["reward_level_3"]
    assert {"margin_distance_1", "margin_distance_2", "margin_distance_3", "accuracy_distance_3"} <= set(lines[-1])


@contextmanager
def gradients() -> Iterator[list[torch.Tensor]]:
    """Collect the gradient of each update; weights would not do: Adam makes whole steps of the noise in small ones."""
    seen: list[torch.Tensor] = []

    def collect(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        seen.append(torch.cat([parameter.grad.flatten().clone() for parameter in parameters]))

    hook = register_optimizer_step_pre_hook(collect)
    yield seen
    hook.remove()


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_batch_may_be_cut_at_will_with_ragged_levels(tmp_path: Path, reduction: str) -> None:
    outcomes = []
    for tokens in (4096, 150, 1):  # 4 items; about 2 in each pass; 1 in each
        folder = tmp_path / str(tokens)
        with gradients() as seen:
            train(folder, replace(RAGGED, tokens_per_step=tokens, reduction=reduction))
        outcomes.append((seen, metrics(folder)))
    whole, lines = outcomes[0]
    for cut, cut_lines in outcomes[1:]:
        assert len(cut) == 2
        assert relative_difference(cut[0], whole[0]) < 1e-5
        assert relative_difference(cut[1], whole[1]) < 1e-2
        for line, cut_line in zip(lines, cut_lines, strict=True):
            assert cut_line["loss"] == pytest.approx(line["loss"], rel=1e-4)
            assert cut_line["margin"] == pytest.approx(line["margin"], rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_an_epochs_last_update_with_fewer_items_may_be_cut_too(tmp_path: Path) -> None:
    records = [preference(number, levels=2 + number) for number in range(3)]
    outcomes = []
    for tokens in (4096, 1):  # three items at once, or one by one
        with gradients() as seen:
            train(tmp_path / str(tokens), replace(RAGGED, tokens_per_step=tokens, max_steps=1, save_steps=1), records)
        outcomes.append(seen[0])
    assert relative_difference(outcomes[1], outcomes[0]) < 1e-5


@pytest.mark.slow
def test_a_killed_run_ends_bit_equal_to_an_unbroken_one(tmp_path: Path) -> None:
    config = replace(RAGGED, max_steps=6)
    train(tmp_path / "unbroken", config)
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "unbroken", broken)
    # as a kill while the last checkpoint is written leaves it: its files are there, the marker is not
    shutil.rmtree(broken / "adapter")
    (broken / "checkpoints" / "checkpoint-6" / MARKER).unlink()
    result = train(broken, config)
    assert result["resumed_from"] == "checkpoint-4"
    files = ["adapter/adapter_model.safetensors", "metrics.jsonl"]
    for file in files:
        assert (broken / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes(), file


@pytest.mark.slow
def test_a_run_killed_before_its_adapter_was_written_trains_no_step_more(tmp_path: Path) -> None:
    train(tmp_path, replace(RAGGED, max_steps=3, save_steps=1))
    before = adapter(tmp_path)
    shutil.rmtree(tmp_path / "adapter")
    result = train(tmp_path, replace(RAGGED, max_steps=3, save_steps=1))
    assert (result["steps"], result["resumed_from"]) == (3, "checkpoint-3")
    assert all(torch.equal(value, before[name]) for name, value in adapter(tmp_path).items())


@pytest.mark.slow
def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path: Path) -> None:
    train(tmp_path, replace(RAGGED, max_steps=4, save_steps=1, keep_checkpoints=3))
    assert {folder.name for folder in (tmp_path / "checkpoints").iterdir()} == {f"checkpoint-{n}" for n in (2, 3, 4)}


def test_a_checkpoint_with_a_file_cut_short_is_ignored_and_removed(tmp_path: Path) -> None:
    train(tmp_path, replace(RAGGED, max_steps=4))
    newest = tmp_path / "checkpoints" / "checkpoint-4"
    content = (newest / "optimizer.pt").read_bytes()
    (newest / "optimizer.pt").write_bytes(content[: len(content) // 2])
    found = last_complete(tmp_path)
    assert found is not None
    assert found[1:] == (2, 4)


@pytest.mark.slow
def test_the_loss_of_one_item_by_pair_set_and_penalty_reaches_the_trainer(tmp_path: Path) -> None:
    records = [preference(0, levels=4)]
    config = replace(RAGGED, max_steps=1, save_steps=1, global_batch_size=1)
    for pairs, terms in (("adjacent", 3), ("best-vs-rest", 3), ("all", 6)):
        folder = tmp_path / pairs
        train(folder, replace(config, pairs=pairs), records)
        assert metrics(folder)[0]["loss"] == pytest.approx(terms * math.log(2), rel=1e-6)


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_update(tmp_path: Path, trained: Path) -> None:
    train(tmp_path, replace(RAGGED, gradient_checkpointing=True))
    for name, value in adapter(trained).items():
        torch.testing.assert_close(adapter(tmp_path)[name], value, rtol=1e-4, atol=1e-6)


def test_a_4_bit_base_trains_a_step_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    records = [preference(0, levels=2)]
    config = replace(RAGGED, max_steps=1, save_steps=1, global_batch_size=1, quantization="nf4")
    result = train(tmp_path, config, records)
    assert result["model"]["quantization"] == "nf4"
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(math.log(2), rel=1e-3)
    moved = [value for name, value in adapter(tmp_path).items() if "lora_B" in name]
    assert all(value.abs().max() > 0 for value in moved)


def test_an_item_longer_than_max_length_is_rejected_with_its_length(tmp_path: Path) -> None:
    records = [preference(0, levels=2), preference(1, levels=2, rounds=2)]
    result = train(tmp_path, replace(RAGGED, max_steps=1, save_steps=1, max_length=45), records)
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert result["items"] == 1
    assert [record["id"] for record in rejected] == ["item-1"]
    assert "max_length is 45" in rejected[0]["reason"]


def test_no_item_within_max_length_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="No item can be used for training"):
        train(tmp_path, replace(RAGGED, max_length=5))


def test_the_model_card_and_the_configuration_name_the_base(trained: Path) -> None:
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    card = (trained / "adapter" / "README.md").read_text()
    assert "LoRA adapter for `tiny`" in card
    assert "| items | 8 |" in card
    assert "| steps | 2 of 4 items |" in card
    assert sorted(file.name for file in (trained / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
