"""The recipes for clusters in `templates/launch`, run with stand-ins for the cluster's own commands."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from amp_cli.disk.templates import template_path
from amp_cli.training.launch import plan_launch
from tests.training.test_trainer import RAGGED

STANDS_IN = {
    "amp": 'echo "$@" > "$SEEN/arguments"; cp "${@: -1}" "$SEEN/config.yaml"',
    "scontrol": "printf 'node-a\\nnode-b\\n'",
    "srun": 'exec "$@"',
}


def run(folder: Path, script: Path, arguments: list[str], environment: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the arguments that `amp` was called with, and its accelerate configuration."""
    for name, text in STANDS_IN.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script), *arguments], env={"PATH": path, "SEEN": str(folder), **environment}, check=True
    )
    return (folder / "arguments").read_text(), yaml.safe_load((folder / "config.yaml").read_text())


def assert_is_second_of_two(folder: Path, config: dict[str, Any]) -> None:
    assert (config["num_machines"], config["machine_rank"]) == (2, 1)
    assert plan_launch(RAGGED, ["0"], config_file=str(folder / "config.yaml"), processes=4).processes == 4


@pytest.mark.parametrize("gpus", ["8", "a100:8"])
def test_each_node_of_a_slurm_job_knows_which_it_is(tmp_path: Path, gpus: str) -> None:
    environment = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}
    environment |= {"SLURM_JOB_ID": "12345", "SLURM_GPUS_PER_NODE": gpus}
    script = template_path("launch", "slurm.sh")
    said, config = run(tmp_path, script, ["--prefs", "a b.jsonl", "--out", "run"], environment)
    assert said.startswith("train --prefs a b.jsonl --out run --accelerate-config ")
    assert (config["main_process_ip"], config["main_process_port"]) == ("node-a", 22345)
    assert config["num_processes"] == 16
    assert_is_second_of_two(tmp_path, config)


def test_each_node_of_a_skypilot_task_knows_which_it_is(tmp_path: Path) -> None:
    task = yaml.safe_load(template_path("launch", "skypilot.yaml").read_text())
    (tmp_path / "run.sh").write_text(task["run"])
    environment = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5", "SKYPILOT_NODE_RANK": "1"}
    environment |= {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    said, config = run(tmp_path, tmp_path / "run.sh", [], environment)
    assert "--out /shared/run" in said
    assert (config["main_process_ip"], config["num_processes"]) == ("10.0.0.4", 16)
    assert_is_second_of_two(tmp_path, config)
