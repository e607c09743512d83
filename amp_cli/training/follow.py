"""Runs the worker processes: their events become a bar and a table, the rest of their output goes to train.log."""

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.core.store import disk_errors_explained
from amp_cli.errors import AmpError
from amp_cli.training.events import parse
from amp_cli.training.machine import Launch

LOG = "train.log"
TAIL = 15
"""Lines of the log that an error shows."""
LEGEND = "ok@d: share of pairs d levels apart in order; rL: reward of level L, nats"
PATIENCE = 20
"""Seconds that an interrupted worker has to end by itself."""


def run_worker(launch: Launch, run_folder: Path) -> dict[str, Any]:
    """Start the worker, follow it to the end, return its result.

    Raises:
        AmpError: it failed; the message holds its own words or the last lines of its log.
    """
    log_path = run_folder / LOG
    with disk_errors_explained(lambda: log_path.open("a", encoding="utf-8"), log_path) as log:
        process = subprocess.Popen(
            launch.command(run_folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, **launch.environment},
            start_new_session=True,  # so that Ctrl-C reaches it once, from us
        )
        try:
            outcome = _follow(process, log)
        except BaseException:
            _stop(process)
            raise
    if "error" in outcome:
        raise AmpError(outcome["error"], hint=outcome["hint"] or f"The whole log is in '{log_path}'")
    if process.returncode or "result" not in outcome:
        lines = log_path.read_text(encoding="utf-8").splitlines()[-TAIL:]
        raise AmpError(
            f"Training stopped (exit status {process.returncode}). The last lines of its log:\n" + "\n".join(lines),
            hint=f"The whole log is in '{log_path}'; the same command goes on from the last checkpoint",
        )
    result: dict[str, Any] = outcome["result"]
    return result


def _follow(process: subprocess.Popen[str], log: Any) -> dict[str, Any]:
    """Read the worker's output to its end; return its result or error."""
    outcome: dict[str, Any] = {}
    assert process.stdout is not None  # PIPE
    with ExitStack() as stack:
        advance = None
        columns: list[str] = []
        for line in process.stdout:
            event = parse(line)
            if event is None:
                log.write(line)
                log.flush()
            elif "total" in event:
                advance = stack.enter_context(ui.progress("Training", event["total"], done=event["done"], unit="steps"))
            elif "step" in event and advance is not None:
                advance()
            elif "note" in event:
                ui.warn(event["note"])
            elif "metrics" in event:
                shown = _shown(event["metrics"])
                if list(shown) != columns:
                    columns = list(shown)
                    if "margin" in shown:
                        ui.note(LEGEND)
                    ui.note(" ".join(f"{name:>7}" for name in columns))
                ui.note(" ".join(f"{value:>7}" for value in shown.values()))
            else:
                outcome |= event
    process.wait()
    return outcome


def _shown(metrics: dict[str, Any]) -> dict[str, str]:
    """Return a row of the live table: what to watch of one line of metrics.jsonl."""
    row = {"step": str(metrics["step"]), "loss": f"{metrics['loss']:.4f}"}
    if "margin" in metrics:
        row["margin"] = f"{metrics['margin']:.2f}"
        for name, short, digits in (("accuracy_distance_", "ok@", 3), ("reward_level_", "r", 2)):
            row |= {
                short + key.removeprefix(name): f"{metrics[key]:.{digits}f}" for key in metrics if key.startswith(name)
            }
    elif "mean_token_accuracy" in metrics:
        row["tok ok"] = f"{metrics['mean_token_accuracy']:.3f}"
    return row


def _stop(process: subprocess.Popen[str]) -> None:
    """Pass an interruption on to the whole group that we started, and see that it ends."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=PATIENCE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return
