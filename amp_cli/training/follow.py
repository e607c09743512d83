"""Follows the training processes: their events become a bar and a table, the rest of their output goes to train.log."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.core.launching import Launch, run_workers, tail_of
from amp_cli.errors import AmpError

LOG = "train.log"
LEGEND = "ok@d: share of pairs d levels apart in order; rL: reward of level L, nats"


def run_worker(launch: Launch, run_folder: Path) -> dict[str, Any]:
    """Start the worker, follow it to the end, return its result.

    Raises:
        AmpError: it failed; the message holds its own words or the last lines of its log.
    """
    log_path = run_folder / LOG
    outcome: dict[str, Any] = {}
    with ExitStack() as stack:
        status = run_workers(launch, run_folder, log_path, _display(stack, outcome))
    if "error" in outcome:
        raise AmpError(outcome["error"], hint=outcome["hint"] or f"The whole log is in '{log_path}'")
    if status or "result" not in outcome:
        raise AmpError(
            f"Training stopped (exit status {status}). The last lines of its log:\n{tail_of(log_path)}",
            hint=f"The whole log is in '{log_path}'; the same command goes on from the last checkpoint",
        )
    result: dict[str, Any] = outcome["result"]
    return result


def _display(stack: ExitStack, outcome: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return what shows an event; the worker's result or error is put into `outcome`."""
    advance: Callable[[], None] | None = None
    columns: list[str] = []

    def show(event: dict[str, Any]) -> None:
        nonlocal advance
        if "total" in event:
            stack.close()  # one bar at a time
            advance = stack.enter_context(
                ui.progress(event["label"], event["total"], done=event["done"], unit=event["unit"])
            )
        elif "step" in event and advance is not None:
            advance()
        elif "note" in event:
            ui.warn(event["note"])
        elif "said" in event:
            ui.note(event["said"])
        elif "metrics" in event:
            _show_row(_shown(event["metrics"]), columns)
        else:
            outcome.update(event)

    return show


def _show_row(row: dict[str, str], columns: list[str]) -> None:
    """Show a row of the live table, under its head where that is another than the last row's."""
    if list(row) != columns:
        columns[:] = row
        if "margin" in row:
            ui.note(LEGEND)
        ui.note(" ".join(f"{name:>7}" for name in columns))
    ui.note(" ".join(f"{value:>7}" for value in row.values()))


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
