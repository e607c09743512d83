"""Two machines train as one, each with its own command; here both are this one, with caches of their own."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from amp_cli.disk.run import Run
from amp_cli.disk.templates import template_path
from amp_cli.training import launch
from tests.support.training_items import write_preferences
from tests.training.test_sharded import MIXED, assert_same_training
from tests.training.test_trainer import RAGGED, train

ROOT = Path(__file__).resolve().parents[2]
CALL = """
import json, sys
from pathlib import Path
from amp_cli.training.config import TrainConfig
from amp_cli.training.launch import train_model
config, prefs, out, file = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])
result = train_model(TrainConfig.from_json(config), prefs=prefs, out=out, accelerate_config=str(file))
print(json.dumps(result.to_json()))
"""


def config_file(folder: Path, machine: int, port: int) -> Path:
    settings = yaml.safe_load(template_path("accelerate", "multi_cpu.yaml").read_text())
    settings |= {"num_machines": 2, "machine_rank": machine, "num_processes": 2}
    settings |= {"main_process_ip": "127.0.0.1", "main_process_port": port}
    file = folder / f"machine-{machine}.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_only_the_main_machine_writes_the_run_folder_and_both_end_well(tmp_path: Path) -> None:
    config = replace(RAGGED, max_steps=3, save_steps=3, reference="cache", tokens_per_step=100)
    train(tmp_path / "alone", config, MIXED)
    prefs = write_preferences(tmp_path / "data", MIXED)
    out, port = tmp_path / "run", free_port()
    running = []
    for machine in (1, 0):  # whichever comes first waits for the other
        environment = {**os.environ, "AMP_HOME": str(tmp_path / f"home-{machine}"), "PYTHONPATH": str(ROOT)}
        arguments = [json.dumps(config.to_json()), str(prefs), str(out), str(config_file(tmp_path, machine, port))]
        command = [sys.executable, "-c", CALL, *arguments]
        running.append(
            subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
            )
        )
    said = [one.communicate(timeout=300) for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    assert said[0][0] == said[1][0]  # both tell the same result
    assert json.loads(said[0][0])["steps"] == 3
    assert_same_training(tmp_path / "alone", out)
    assert (Run.read(out).facts["state"], Run.read(out).facts["accelerate_config"][-14:]) == ("done", "machine-0.yaml")
    assert (tmp_path / "run.machine-1.log").exists()
    assert len(list((tmp_path / "home-1").rglob("*.safetensors"))) == 1  # its own part of the reference, no more


def test_another_machine_takes_the_result_of_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"steps": 3, "loss": 1.0, "accuracy": 0.5, "resumed_from": None, "seconds": 1.0}
    (tmp_path / "result.json").write_text(json.dumps({**result, "items_per_second": 2.0, "items": 8}))
    monkeypatch.setattr(launch, "run_worker", lambda *_, **__: pytest.fail("there is nothing left to train"))
    found = launch.train_model(
        RAGGED, prefs=tmp_path / "none", out=tmp_path, accelerate_config=str(config_file(tmp_path, 1, 29500))
    )
    assert (found.steps, found.items) == (3, 8)
    assert not (tmp_path / "run.json").exists()
