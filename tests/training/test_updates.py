"""Every update is finite or ends the training, an adapter is finite or not written, and items are counted."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import TrainerControl, TrainerState, TrainingArguments

from amp_cli.errors import AmpError
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.training import session
from amp_cli.training.config import TrainConfig
from amp_cli.training.updates import RunReport
from tests.support.training_items import preference
from tests.training.test_trainer import RAGGED, metrics, train

BOTH = pytest.mark.parametrize("method", ["mdpo", "sft"])
WILD = replace(RAGGED, max_steps=3, save_steps=10, logging_steps=10, learning_rate=1e9, max_grad_norm=1e9)


def weights_in(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob("*.safetensors")]


@BOTH
def test_a_rate_that_blows_up_ends_the_training_at_its_step_and_leaves_no_adapter(method: str, tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="failed at step 2: its gradients are not finite") as caught:
        train(tmp_path, replace(WILD, method=method))
    assert "Lower learning_rate" in str(caught.value.hint)
    assert weights_in(tmp_path) == []
    assert [line["step"] for line in metrics(tmp_path)] == [1]


@contextmanager
def after_each_update(change: Callable[[torch.Tensor], Any]) -> Iterator[None]:
    def apply(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        with torch.no_grad():
            change(optimizer.param_groups[0]["params"][-1])

    hook = register_optimizer_step_post_hook(apply)
    yield
    hook.remove()


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_broken_by_the_last_update_are_not_written(method: str, value: float, tmp_path: Path) -> None:
    config = replace(RAGGED, method=method, max_steps=1, save_steps=1)
    refused = pytest.raises(AmpError, match=r"failed at step 1: weights of the adapter are not finite, first '.*lora_")
    with after_each_update(lambda weight: weight.view(-1)[0].fill_(value)), refused:
        train(tmp_path, config)
    assert weights_in(tmp_path) == []


def test_a_checkpoint_is_not_written_with_broken_weights_either(tmp_path: Path) -> None:
    refused = pytest.raises(AmpError, match="failed at step 1: weights")
    with after_each_update(lambda weight: weight.view(-1)[0].fill_(float("nan"))), refused:
        train(tmp_path, replace(RAGGED, max_steps=4, save_steps=1))
    assert weights_in(tmp_path) == []


@BOTH
def test_the_first_and_the_last_step_are_logged_however_seldom_lines_are(method: str, tmp_path: Path) -> None:
    result = train(tmp_path, replace(RAGGED, method=method, max_steps=3, save_steps=10, logging_steps=10))
    assert [line["step"] for line in metrics(tmp_path)] == [1, 3]
    assert result["loss"] == metrics(tmp_path)[-1]["loss"]


@BOTH
def test_items_per_second_counts_the_items_that_an_epochs_last_update_has(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three items in updates of up to two: 2, 1, 2, 1 in two epochs; ten seconds go by between two looks."""
    looks = iter(range(0, 100, 10))
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    config = replace(RAGGED, method=method, global_batch_size=2, max_steps=4, save_steps=4)
    result = train(tmp_path, config, [preference(number, levels=2) for number in range(3)])
    assert result["items_per_second"] == 6 / 10


def test_items_per_second_leaves_out_what_was_trained_before_a_kill(tmp_path: Path) -> None:
    config: TrainConfig = replace(RAGGED, max_steps=2, save_steps=1)
    train(tmp_path, config)
    assert train(tmp_path, config)["items_per_second"] == 0


def test_an_adapter_that_holds_a_nan_is_refused_by_the_weights_name(tmp_path: Path) -> None:
    train(tmp_path, replace(RAGGED, max_steps=1, save_steps=1))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name][0, 0] = float("nan")
    save_file(weights, file)
    with pytest.raises(AmpError, match=f"'{name}'.*not finite"):
        load_model(ModelSpec(model="tiny", adapter=str(tmp_path)))


def test_a_number_that_is_not_finite_is_left_out_of_a_line(tmp_path: Path) -> None:
    """The norm of an update that float16's loss scale skipped."""
    report = RunReport(tmp_path, None)
    state = TrainerState(global_step=1, epoch=0.5)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    report.on_log(arguments, state, TrainerControl(), {"loss": 0.5, "grad_norm": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "epoch": 0.5, "loss": 0.5}


TOO_LARGE = {"mdpo": 2.0**17, "sft": 2.0**21}
"""Loss scales with which this model's gradients overflow in float16: about eight times what they bear."""


def as_on_an_old_gpu(trainer: session.FiniteTrainer, scale: float) -> torch.amp.GradScaler:
    """Have a trainer on the CPU compute in float16, with a loss scale that is far too large at first."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.accelerator.scaler = scaler
    trainer.accelerator.native_amp = True
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"
    trainer.args.fp16 = True
    return scaler


@pytest.mark.slow
@BOTH
def test_updates_that_float16s_loss_scale_skips_are_no_fault_and_are_told(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scales = []
    build = session.Session._trainer

    def with_scale(self: session.Session, *arguments: Any) -> session.FiniteTrainer:
        trainer = build(self, *arguments)
        scales.append(as_on_an_old_gpu(trainer, TOO_LARGE[method]))
        return trainer

    monkeypatch.setattr(session.Session, "_trainer", with_scale)
    config = replace(RAGGED, method=method, max_steps=8, save_steps=8, logging_steps=4, learning_rate=1e-5)
    result = train(tmp_path, config)
    skipped = [line.get("skipped_updates", 0) for line in metrics(tmp_path)]  # to steps 1, 4 and 8
    assert skipped[0] == 1
    assert metrics(tmp_path)[-1]["grad_norm"] > 0  # the last one was not
    assert sum(skipped) == math.log2(TOO_LARGE[method] / scales[0].get_scale()) == result["skipped_updates"]
    assert "1 of the updates up to step 1 were skipped" in capsys.readouterr().out
