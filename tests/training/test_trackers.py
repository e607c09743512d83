"""Trackers: one run of theirs for one run folder, also where it goes on; what the user has set goes before."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from amp_cli.disk.run import Run
from amp_cli.training.config import REPORTS
from amp_cli.training.trackers import prepare_tracker, run_name
from tests.test_architecture import ROOT

VARIABLES = (
    "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_RESUME", "SWANLAB_PROJECT", "SWANLAB_PROJ_NAME", "SWANLAB_EXP_NAME",
    "SWANLAB_RUN_ID", "SWANLAB_RESUME", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "TENSORBOARD_LOGGING_DIR",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # taken back to what it was when the test ends
        monkeypatch.delenv(name)
    with Run.start(tmp_path / "mdpo", command="train", settings={}) as run:
        run.finish()
    return tmp_path / "mdpo"


def test_transformers_knows_every_tracker() -> None:
    assert set(REPORTS) - {"none"} <= INTEGRATION_TO_CALLBACK.keys()


def test_every_tracker_can_be_installed_as_an_extra() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in set(REPORTS) - {"none"}:
        assert f'\n{name} = ["{name}>=' in text


def test_a_run_folder_has_one_name_of_its_own(folder: Path, tmp_path: Path) -> None:
    name = run_name(folder)
    assert name.startswith("mdpo-")
    assert run_name(folder) == name
    with Run.start(tmp_path / "other" / "mdpo", command="train", settings={}) as run:
        run.finish()
    assert run_name(tmp_path / "other" / "mdpo") != name


def test_wandb_goes_on_with_the_run(folder: Path) -> None:
    prepare_tracker("wandb", folder)
    assert os.environ["WANDB_RUN_ID"] == run_name(folder)
    assert os.environ["WANDB_RESUME"] == "allow"


def test_swanlabs_run_is_begun_or_gone_on_with_before_the_callback_asks_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callback's own question is an error in SwanLab 0.10 where no run is there."""
    begun: list[dict[str, str]] = []

    def get_run() -> dict[str, str]:
        if not begun:
            raise RuntimeError("No active Run. Call swanlab.init() first.")
        return begun[-1]

    fake = types.SimpleNamespace(init=lambda **given: begun.append(given), get_run=get_run, config={})
    monkeypatch.setitem(sys.modules, "swanlab", fake)
    prepare_tracker("swanlab", folder)
    assert "SWANLAB_PROJECT" not in os.environ
    name = run_name(folder)
    assert begun == [{"project": "amp", "name": name, "id": name, "resume": "allow"}]
    monkeypatch.setattr("transformers.integrations.integration_utils.is_swanlab_available", lambda: True)
    callback = INTEGRATION_TO_CALLBACK["swanlab"]()
    callback.setup(TrainingArguments(run_name=name), TrainerState(is_world_process_zero=True), model=None)
    assert len(begun) == 1
    assert fake.config["run_name"] == name


def test_what_the_user_has_set_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    prepare_tracker("wandb", folder)
    assert os.environ["WANDB_PROJECT"] == "mine"


def test_mlflow_is_asked_for_the_run_that_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    known: list[Any] = []

    def search_runs(**given: Any) -> list[Any]:
        asked.update(given)
        return known

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(search_runs=search_runs))
    prepare_tracker("mlflow", folder)
    assert asked["experiment_names"] == ["amp"]
    assert run_name(folder) in asked["filter_string"]
    assert "MLFLOW_RUN_ID" not in os.environ
    known.append(types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc")))
    prepare_tracker("mlflow", folder)
    assert os.environ["MLFLOW_RUN_ID"] == "abc"
