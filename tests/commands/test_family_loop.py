"""The whole loop on a tiny model of each family, stored as on the hub and read by the family's own processor class."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.run import Run
from amp_cli.launching import MARK
from amp_cli.main import app
from amp_cli.training import launch
from amp_cli.training.config import TrainConfig
from amp_cli.training.session import Session
from amp_cli.training.worker import RESULT
from amp_cli.world import files
from amp_cli.world.language import full_caption
from tests.support.family_folders import FOLDERS, write_folder

SMALL = (
    "max_steps=1", "lr_scheduler_type=constant", "learning_rate=1e-2", "lora_r=4", "global_batch_size=2",
    "save_steps=1", "logging_steps=1", "data_workers=0",
    "quantization=none", "gradient_checkpointing=false", "max_length=512",
)  # fmt: skip


def type_in(*words: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output[-2000:]}"
    return json.loads("".join(line for line in done.stdout.splitlines() if not line.startswith(MARK)))


def train_here(_launch: object, out: Path) -> None:
    """Do in this process what the worker does in its own: that one takes eight seconds to start."""
    write_json(out / RESULT, Session(TrainConfig.from_settings(Run.read(out).settings), out).run())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scenes with questions and standard answers, and POPE's files over another one."""
    folder = tmp_path_factory.mktemp("families")
    scenes = files.write_training_scenes(folder, scenes=2, seed=3)
    described = [
        {
            "id": name,
            "images": [f"images/{files.image_name(int(name))}"],
            "questions": ["describe this image in detail."],
            "answers": [full_caption(scene)],
        }
        for name, scene in zip(files.training_ids(2), scenes, strict=True)
    ]
    (folder / "data.json").write_text(json.dumps(described))
    files.write_evaluation(folder / "pope", scenes=1, seed=3)
    return folder


def needs(name: str) -> None:
    package = FOLDERS[name].needs
    if package is not None and find_spec(package) is None:
        pytest.skip(
            f"{name} needs {package}, which is in the extra: pip install 'amp-cli[vision]', or make test-vision"
        )


def go_through(name: str, data: Path, out: Path, *, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Generate preferences, train, merge, evaluate before and after, and report; return what was told."""
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
    how = ("--data", data / "pope", "--max-new-tokens", 2)
    scores = {
        place: type_in("eval", "pope", *model, *how, "--out", out / f"pope-{place}")
        for place, model in {
            "before": ("--model", base),
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
