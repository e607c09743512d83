"""Trains in this process, in place of the worker that `amp train` starts: that one takes eight seconds to begin."""

from pathlib import Path

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.run import Run
from amp_cli.training.config import TrainConfig
from amp_cli.training.session import Session
from amp_cli.training.worker import RESULT


def train_here(_launch: object, out: Path) -> None:
    """Stand in for `amp_cli.training.launch.run_worker`."""
    write_json(out / RESULT, Session(TrainConfig.from_settings(Run.read(out).settings), out).run())
