"""A small ablation: a plan of two variants and two seeds, trained in this process, and killed where it is told to be.

As a program, `python -m tests.support.ablation PLAN OUT KILL`, it ends by signal 9: "between" cells, once the first
variant's is done, or "inside" one, once the second variant's training has a checkpoint.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from amp_cli.benchmarks.runner import EvalResult, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.commands.ablate import run_ablation
from amp_cli.commands.ablation import Workshop
from amp_cli.commands.ablation_plan import read_plan
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import prepare_items
from amp_cli.training.session import Session


def plan_of(folder: Path, prefs: Path, data: Path, **changes: Any) -> Path:
    """Write a plan over these preferences, evaluated on these files."""
    plan = {
        "base": "tiny",
        "preferences": str(prefs),
        "settings": {"global_batch_size": 4, "save_steps": 2, "logging_steps": 1, "learning_rate": 0.001},
        "steps": 4,
        "match": "tokens",
        "control": "dpo",
        "seeds": [0, 1],
        "variants": {"dpo": {"pairs": "best-vs-rest"}, "sft": {"method": "sft"}},
        "evaluate": [{"pope": {"data": str(data), "num_beams": 1, "max_new_tokens": 2, "batch_size": 50}}],
    }
    path = folder / "plan.yaml"
    given = {name: value for name, value in (plan | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


def train_here(config: TrainConfig, *, prefs: Path, out: Path, image_root: Path | None) -> Any:
    """Train as `amp train` does, without a process of its own; what is finished is not trained again."""
    if not (out / "adapter").is_dir():
        prepare_items(prefs, out, image_root=image_root, method=config.method)
        Session(config, out).run()
    return SimpleNamespace(seconds=1.0, items=8, rejected=0, items_per_second=4.0)


def run_plan(
    plan: Path,
    out: Path,
    *,
    train: Callable[..., Any] = train_here,
    evaluate: Callable[[EvalSettings], EvalResult] = run_benchmark,
    final: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Do a plan as `amp ablate` does."""
    workshop = Workshop(read_plan(plan), out, type_in=lambda words: None, train=train, evaluate=evaluate)
    return run_ablation(workshop, lambda cells, final: workshop.work(cells), final=final, overwrite=overwrite)


def _kill_once(sign: Path) -> None:
    def watch() -> None:
        while not sign.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    plan, out, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    cells = out / "cells"
    inside = cells / "sft" / "seed-0" / "train" / "checkpoints" / "checkpoint-2" / "complete.json"
    _kill_once(cells / "dpo" / "seed-0" / "cell.json" if moment == "between" else inside)
    run_plan(plan, out)
