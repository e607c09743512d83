"""The whole loop on a tiny model of each family, stored as on the hub and read by the family's own processor class."""

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.launching import MARK
from amp_cli.main import app
from amp_cli.models.adapters import projector_modules
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.training import launch
from amp_cli.training.config import TrainConfig
from amp_cli.training.session import Session
from amp_cli.training.worker import RESULT
from amp_cli.world import files
from tests.support.family_folders import FOLDERS, write_folder
from tests.support.training_here import train_here
from tests.support.training_items import preference, write_described, write_preferences

SMALL = (
    "max_steps=1", "lr_scheduler_type=constant", "learning_rate=1e-2", "lora_r=4", "global_batch_size=2",
    "save_steps=1", "logging_steps=1", "data_workers=0",
    "quantization=none", "gradient_checkpointing=false", "max_length=512",
)  # fmt: skip


def type_in(*words: object) -> Any:
    """Run a command that must go well; a model with random weights may say neither yes nor no (status 3)."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code in (0, 3 if words[0] == "eval" else 0), f"{words}\n{done.output[-2000:]}"
    return json.loads("".join(line for line in done.stdout.splitlines() if not line.startswith(MARK)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scenes with questions and standard answers, and POPE's files over another one."""
    folder = tmp_path_factory.mktemp("families")
    write_described(folder, scenes=2, seed=3)
    files.write_evaluation(folder / "pope", scenes=1, seed=3)
    return folder


def needs(name: str) -> None:
    package = FOLDERS[name].needs
    if package is not None and find_spec(package) is None:
        pytest.skip(
            f"{name} needs {package}, which is in the extra: pip install 'amp-cli[vision]', or make test-vision"
        )


def go_through(name: str, data: Path, out: Path, *, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Generate preferences, train, merge, evaluate, and report; return what was told."""
    base = write_folder(name, out / "base")
    decoding = ("--num-beams", 1, "--temperature", 0, "--max-new-tokens", 6)
    experts = ("--expert", f"own={base}", "--expert", "other=tiny")
    made = type_in(
        "generate-prefs", data / "data.json", "--method", "meg", *experts, *decoding, "--no-auto-check",
        "--out", out / "prefs",
    )  # fmt: skip
    changes = [part for change in (*SMALL, *settings) for part in ("--set", change)]
    prefs = out / "prefs" / "preferences.jsonl"
    trained = type_in(
        "train", "--size", "qwen2.5-vl-7b", "--base", base, "--prefs", prefs, "--out", out / "run", *changes
    )
    merged = type_in("merge-lora", out / "run", "--out", out / "merged", "--verify")
    how = ("--data", data / "pope", "--rule", "official", "--max-new-tokens", 2, "--num-beams", 1)
    scores = {
        place: type_in("eval", "pope", *model, *how, "--out", out / f"pope-{place}")
        for place, model in {
            "adapter": ("--model", base, "--adapter", out / "run"),
            "merged": ("--model", out / "merged"),
        }.items()
    }
    told = type_in("report", *(out / f"pope-{place}" for place in scores), "--html", out / "report.html")
    return {"made": made, "trained": trained, "merged": merged, "scores": scores, "report": told}


def answers(run: Path) -> list[Any]:
    return [json.loads(line)["answers"] for line in (run / "answers.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_the_loop_goes_all_the_way(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(name)
    monkeypatch.setattr(launch, "run_worker", train_here)
    told = go_through(name, data, tmp_path)
    assert told["made"]["items"] == 2
    assert told["trained"]["steps"] == 1
    assert told["merged"]["max_logit_difference"] < 1e-4
    assert answers(tmp_path / "pope-adapter") == answers(tmp_path / "pope-merged")
    facts = Run.read(tmp_path / "run").facts["result"]
    assert facts["self_test"]["layout"] == "shared-prefix"
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(".visual." not in key and "vision" not in key and "projector" not in key for key in weights)
    assert all(bool(torch.count_nonzero(one)) for key, one in weights.items() if "lora_B" in key)
    stored = {file.name for file in (tmp_path / "merged").iterdir()}
    assert ("video_preprocessor_config.json" in stored) == (FOLDERS[name].video is not None)
    kind = json.loads((tmp_path / "merged" / "processor_config.json").read_text())["processor_class"]
    assert kind == FOLDERS[name].processor[0]


PROJECTORS = ("qwen3-vl", "gemma-3", "internvl3")  # one with several parts, a bare weight, and two linear layers


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTORS)
def test_a_projector_is_trained_stored_resumed_merged_and_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run_worker", train_here)
    base = write_folder(name, tmp_path / "base")
    prefs = write_preferences(tmp_path / "data", [preference(number, levels=2) for number in range(2)])
    changes = [part for change in SMALL[1:] for part in ("--set", change)]
    how = (
        "train",
        "--size",
        "qwen2.5-vl-7b",
        "--base",
        base,
        "--prefs",
        prefs,
        *changes,
        "--set",
        "train_projector=true",
    )
    type_in(*how, "--set", "max_steps=2", "--out", tmp_path / "run")
    facts = Run.read(tmp_path / "run").facts["result"]
    assert facts["self_test"]["image_once"] is False
    assert "; the projector whole |" in (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    start = load_file(base / "model.safetensors")
    trained = {key: one for key, one in weights.items() if "lora_" not in key}
    network = load_model(ModelSpec(model=str(base))).model
    assert len(trained) == sum(
        one.numel() > 0 for module in projector_modules(network) for one in network.get_submodule(module).parameters()
    )
    own = dict(network.named_parameters())
    for key, one in trained.items():
        before = own[key.removeprefix("base_model.model.")]
        assert one.dtype == torch.float32
        assert not torch.equal(one, before), key
    # a run that is killed after its first step goes on to the same bytes
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for gone in ("adapter", RESULT, "checkpoints/checkpoint-2"):
        place = tmp_path / "again" / gone
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    result = Session(TrainConfig.from_settings(Run.read(tmp_path / "again").settings), tmp_path / "again").run()
    assert result["resumed_from"] == "checkpoint-1"
    resumed = load_file(tmp_path / "again" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(one, resumed[key]) for key, one in weights.items())
    merged = type_in("merge-lora", tmp_path / "run", "--out", tmp_path / "merged", "--verify")
    assert merged["max_logit_difference"] < 1e-4
    stored = load_model(ModelSpec(model=str(tmp_path / "merged"))).model
    for key, one in trained.items():
        assert torch.equal(stored.get_parameter(key.removeprefix("base_model.model.")), one)
    assert start.keys() == load_file(tmp_path / "merged" / "model.safetensors").keys()


def test_a_projector_is_refused_where_there_is_none_or_the_model_is_shared() -> None:
    with pytest.raises(AmpError, match="train_projector is for a fresh adapter"):
        TrainConfig(base="tiny", adapter="a", train_projector=True, max_steps=1)
    config = TrainConfig(base="tiny", train_projector=True, max_steps=1)
    with pytest.raises(AmpError, match="train_projector needs the whole model in each process"):
        launch.plan_launch(config, ["0", "1"], config_file="fsdp")
    launch.plan_launch(config, ["0", "1"])
    network = torch.nn.Linear(1, 1)
    network.config = SimpleNamespace(model_type="fuyu")
    with pytest.raises(AmpError, match="Models of type 'fuyu' have no projector"):
        projector_modules(network)
