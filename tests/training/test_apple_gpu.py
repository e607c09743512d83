"""Training on Apple's GPUs, which have no float64: on an imitation of one, since no Mac was at hand."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from typer.testing import CliRunner

from amp_cli import launching
from amp_cli.disk.parsing import read_object
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.launching import MPS_FALLBACK
from amp_cli.main import app
from amp_cli.models import machine, precision
from amp_cli.training import worker
from amp_cli.training.arguments import MARKER
from amp_cli.training.config import checkpoints_sft
from amp_cli.training.data import prepare_items
from amp_cli.training.dry_run import _device
from amp_cli.training.exact import exact, exact_device
from amp_cli.training.launch import plan_launch
from amp_cli.training.loss import ImagePairs, mdpo_loss
from amp_cli.training.memory import room_on
from amp_cli.training.rows.attention import shared_prefix_attention
from amp_cli.training.rows.layout import by_level, lay_out_shared, level_mask
from amp_cli.training.rows.logprobs import sum_by_round
from amp_cli.training.session import Session
from amp_cli.world.files import write_evaluation
from tests.support.apple_gpu import MAIN_MEMORY, MPS, AppleTensor, apple_gpu
from tests.support.training_items import preference, write_preferences
from tests.training.test_layout import item, response
from tests.training.test_sharded import ROOT
from tests.training.test_trainer import RAGGED, adapter, metrics, relative_difference, train

RECORDS = [preference(number, levels=2 + number % 2, rounds=1 + number // 3) for number in range(4)]
SHORT = replace(RAGGED, max_steps=2, gradient_checkpointing=None)
ALL_OPTIONS = replace(
    SHORT,
    dtype="float32",
    reference="cache",
    image_pairs="crop",
    sft_weight=0.5,
    length_balance=0.5,
    held_out=0.25,
    tokens_per_step=150,
)
RANKED = replace(SHORT, dtype="float16", loss_type="plackett-luce", reference="online", gradient_checkpointing=True)
DROPOUT = replace(SHORT, method="sft", lora_dropout=0.2, save_steps=1, held_out=0.25)
RUNS = {"1-dropout": DROPOUT, "2-all": ALL_OPTIONS, "3-ranked": RANKED}  # sft first: mdpo hides a package from it


@pytest.fixture
def apple() -> Iterator[None]:
    with apple_gpu():
        yield


def on_apple(module: str, *arguments: object) -> None:
    """Run a module of the tests in a process of its own, in which PyTorch was never asked for MPS before."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three runs that workers have trained on an Apple GPU, one after the other, in one process."""
    runs = tmp_path_factory.mktemp("there")
    for name, config in RUNS.items():
        folder = runs / name
        Run.start(folder, command="train", settings=config.to_json(), identity={})
        prefs = write_preferences(folder / "data", RECORDS)
        prepare_items(prefs, folder, image_root=None, method=config.method, held_out=config.held_out)
    on_apple("tests.support.apple_worker", runs)
    return runs


@pytest.mark.slow
def test_a_training_there_is_the_cpus(there: Path, tmp_path: Path) -> None:
    train(tmp_path, ALL_OPTIONS, RECORDS)
    lines = metrics(there / "2-all")
    assert len(lines) == 3  # two updates, and the item held out
    for line, other in zip(lines, metrics(tmp_path), strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)
    theirs = adapter(there / "2-all")
    for name, value in adapter(tmp_path).items():
        assert relative_difference(theirs[name], value) < 1e-3, name


@pytest.mark.slow
def test_a_training_there_in_16_bits_goes_by_its_loss_scale_or_autocast(there: Path) -> None:
    of_float16, of_auto = (read_object(there / name / "result.json") for name in ("3-ranked", "1-dropout"))
    assert (of_float16["model"]["dtype"], of_auto["model"]["dtype"]) == ("float16", "bfloat16")
    assert of_float16["gradient_checkpointing"] is True
    assert of_auto["gradient_checkpointing"] is False  # which would draw other numbers
    assert of_auto["peak_memory_mb"] == 4.0  # what the imitation tells
    assert all(math.isfinite(one["loss"]) for name in RUNS for one in metrics(there / name) if "loss" in one)


@pytest.mark.slow
def test_a_killed_run_there_goes_on_with_the_random_numbers_of_the_device(there: Path, tmp_path: Path) -> None:
    unbroken, broken = there / "1-dropout", tmp_path / "again" / "run"
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "adapter")
    (broken / "checkpoints" / "checkpoint-2" / MARKER).unlink()
    on_apple("tests.support.apple_worker", broken.parent)
    assert read_object(broken / "result.json")["resumed_from"] == "checkpoint-1"
    for name, value in adapter(unbroken).items():
        assert torch.equal(adapter(broken)[name], value), name


@pytest.mark.slow
def test_answers_there_are_the_cpus(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "data", scenes=2, seed=3)
    for device in ("mps", "cpu"):
        asked = ["--model", "tiny", "--data", tmp_path / "data", "--out", tmp_path / device, "--device", device]
        asked += ["--dtype", "float32", "--num-beams", "2", "--max-new-tokens", "2", "--prompt-suffix", ""]
        if device == "mps":
            on_apple("tests.support.apple_amp", "eval", "pope", *asked)
        else:
            done = CliRunner().invoke(app, ["eval", "pope", *map(str, asked)])
            assert done.exit_code == 0, done.output
    assert (tmp_path / "mps" / "answers.jsonl").read_bytes() == (tmp_path / "cpu" / "answers.jsonl").read_bytes()


@pytest.mark.usefixtures("mac")
def test_dropout_and_gradient_checkpointing_are_refused_together_there() -> None:
    asked = replace(DROPOUT, gradient_checkpointing=True)
    with pytest.raises(AmpError, match="needs lora_dropout 0"):
        plan_launch(asked, [])
    assert plan_launch(asked, [], config_file="cpu").processes == 1
    assert [checkpoints_sft(asked, device) for device in ("cpu", "cuda")] == [True, True]
    by_device = {device: checkpoints_sft(DROPOUT, device) for device in ("cpu", "cuda", "mps")}
    assert by_device == {"cpu": False, "cuda": True, "mps": False}
    assert checkpoints_sft(replace(DROPOUT, lora_dropout=0.0), "mps")


# --- its parts -------------------------------------------------------------------------------------------------------


def test_exact_sums_stand_where_the_device_has_float64_and_are_no_copies_there() -> None:
    values = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert exact(values) is values
    assert exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert exact_device(torch.device("mps")) == torch.device("cpu")


@pytest.mark.usefixtures("apple")
def test_the_imitation_refuses_what_mps_refuses() -> None:
    values = torch.ones(2, device="mps")
    assert (values.device, values.cpu().device.type) == (MPS, "cpu")
    for ask in (
        values.double,
        lambda: values.to("cpu", torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.zeros(2, dtype=torch.float64).to("mps"),
        lambda: torch.zeros_like(values, dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="MPS framework doesn't support float64"):
            ask()
    with pytest.raises(RuntimeError, match="at least two devices, mps:0 and cpu"):
        values + torch.ones(2)
    with pytest.raises(AssertionError, match="memory that is free again"):
        torch.ones(2).to("mps", non_blocking=True)


TWO_LEVELS = item(response([5, 6, 7, 8], [-1, -1, 0, 1]), response([5, 6, 9, 9], [-1, -1, 0, 1]))
THREE_LEVELS = item(*(response([5, last, last], [-1, 0, 0]) for last in (1, 2, 3)))


def loss_of(device: str) -> tuple[torch.Tensor, Any]:
    """Return the gradient in each token's log-probability, and what the loss says."""
    batch = lay_out_shared([TWO_LEVELS, THREE_LEVELS]).to(torch.device(device))
    tokens = torch.linspace(-3, -1, len(batch.targets)).to(device).requires_grad_()
    sums = sum_by_round(tokens, batch).sum(dim=1)
    mask = level_mask(batch.levels.to(sums.device))
    result = mdpo_loss(by_level(sums, mask), by_level(2 * sums.detach(), mask), mask=mask)
    result.loss.float().to(device).backward()
    assert tokens.grad is not None
    assert tokens.grad.device == tokens.device
    return tokens.grad, result


@pytest.mark.usefixtures("apple")
def test_sums_and_loss_there_are_the_cpus_and_gradients_find_the_way_back() -> None:
    (gradient, result), (there, found) = loss_of("cpu"), loss_of("mps")
    assert isinstance(there, AppleTensor)
    assert torch.equal(there.cpu(), gradient)
    assert (found.loss.dtype, found.loss.device.type) == (torch.float64, "cpu")
    assert torch.equal(found.loss, result.loss)
    assert found.accuracy == result.accuracy


@pytest.mark.usefixtures("apple")
def test_the_loss_takes_sums_that_stand_on_mps() -> None:
    policy = torch.tensor([[-5.0, -7.0, -6.0], [-4.0, -2.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    told = []
    for device in ("cpu", "mps"):
        own = policy.clone().to(device).requires_grad_()
        first = own.detach()[:, 0]
        images = ImagePairs(
            policy_logps=first - 1, reference_logps=first, mask=torch.tensor([True, False]).to(device), weight=0.5
        )
        result = mdpo_loss(own, torch.zeros_like(own), mask=mask.to(device), images=images)
        result.loss.backward()
        assert own.grad is not None
        told.append((float(result.loss.detach()), result.accuracy, result.order.tolist(), own.grad.tolist()))
        assert result.order.dtype == torch.float64
    assert str(told[0]) == str(told[1])  # NaN is not equal to itself


class SeesAttention(TorchFunctionMode):
    """Keeps the queries, keys and values that torch's attention is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[torch.Tensor] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function is scaled_dot_product_attention:
            self.given += arguments[:3]
        return function(*arguments, **(named or {}))


@pytest.mark.usefixtures("apple")
def test_attention_there_is_given_whole_tensors() -> None:
    sharing = lay_out_shared([TWO_LEVELS]).sharing
    assert sharing is not None
    module = torch.nn.Module()
    module.config, module.layer_idx = RAGGED, 0  # type: ignore[assignment]
    parts = torch.randn(3, 1, int(sharing.query_starts[-1]), 2, 4).transpose(2, 3)  # as a projection gives them
    found = []
    for device in ("cpu", "mps"):
        query, key, value = parts.to(device)
        with SeesAttention() as seen:
            found.append(shared_prefix_attention(module, query, key, value, None, sharing=sharing.to(query.device))[0])
        if device == "mps":
            assert len(seen.given) == 9
            assert all(one.is_contiguous() for one in seen.given)
    assert torch.equal(found[0], found[1].cpu())


def test_what_pytorch_cannot_do_there_is_said_with_what_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Session) -> None:
        raise NotImplementedError("The operator 'aten::some' is not currently implemented for the MPS device.\nMore")

    monkeypatch.setattr(Session, "run", fails)
    PartialState(cpu=True)
    with pytest.raises(NotImplementedError):
        worker._train(RAGGED, tmp_path)
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("mps"))
    with pytest.raises(AmpError, match="cannot do this on Apple's GPU: The operator 'aten::some' is not") as caught:
        worker._train(RAGGED, tmp_path)
    assert "More" not in caught.value.message
    assert "--accelerate-config cpu" in str(caught.value.hint)


# --- where it is chosen ----------------------------------------------------------------------------------------------


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.sys, "platform", "darwin")
    monkeypatch.setattr(launching.platform, "machine", lambda: "arm64")
    monkeypatch.delenv(MPS_FALLBACK, raising=False)


@pytest.mark.usefixtures("mac")
def test_a_mac_trains_on_its_gpu_unless_it_is_told_to_take_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_launch(RAGGED, [])
    assert (planned.config_file.stem, planned.processes, planned.environment[MPS_FALLBACK]) == ("one_gpu", 1, "1")
    on_cpu = plan_launch(RAGGED, [], config_file="cpu")
    assert on_cpu.config_file.stem == "cpu"
    assert plan_launch(RAGGED, [], config_file="multi_cpu").config_file.stem == "multi_cpu"
    with apple_gpu():
        assert (_device([], planned), _device([], on_cpu)) == ("mps", "cpu")
    monkeypatch.setenv(MPS_FALLBACK, "0")
    assert plan_launch(RAGGED, []).environment[MPS_FALLBACK] == "0"


def test_a_mac_with_intels_processor_trains_on_the_cpu(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.platform, "machine", lambda: "x86_64")
    assert plan_launch(RAGGED, []).config_file.stem == "cpu"


@pytest.mark.usefixtures("apple")
def test_memory_there_is_what_metal_recommends_and_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    reusable = 2**22 - 2**20  # held by PyTorch, and in no tensor
    monkeypatch.setattr(precision, "free_memory", lambda: 2**40)
    assert precision.free_on(MPS) == MAIN_MEMORY * 3 // 4 - 2**22 + reusable
    monkeypatch.setattr(precision, "free_memory", lambda: 2**30)
    assert precision.free_on(MPS) == 2**30 + reusable
    assert room_on(MPS, held=5, processes=1) == (2**30 + reusable) // 2 + 5


@pytest.mark.usefixtures("apple")
def test_the_doctor_counts_with_that_memory() -> None:
    assert machine._apple_memory_gb("2.13") == pytest.approx(MAIN_MEMORY * 3 / 4e9)
    assert machine._apple_memory_gb(None) == 0
