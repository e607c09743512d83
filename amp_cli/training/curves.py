"""Draws a run's metrics.jsonl as curves.png."""

from pathlib import Path
from typing import Any

from amp_cli.core.store import RecordLog, disk_errors_explained

CURVES = "curves.png"


def draw_curves(run_folder: Path) -> Path | None:
    """Draw loss, margins, accuracy by pair distance and reward by level over the steps; None without metrics."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = RecordLog(run_folder / "metrics.jsonl").read()
    if not records:
        return None
    panels = {
        "loss": _series(records, "loss"),
        "margin (nats)": _series(records, "margin_distance_") or {},
        "share of pairs in order": _series(records, "accuracy_distance_") or _series(records, "mean_token_accuracy"),
        "reward by level (nats)": _series(records, "reward_level_"),
    }
    panels = {title: series for title, series in panels.items() if series}
    figure = Figure(figsize=(6 * min(2, len(panels)), 3.6 * ((len(panels) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, series) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot((len(panels) + 1) // 2, min(2, len(panels)), number)
        for name, (steps, values) in series.items():
            axes.plot(steps, values, label=_label(name))
        axes.set_title("share of answer tokens right" if "mean_token_accuracy" in series else title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(series) > 1:
            axes.legend()
    path = run_folder / CURVES
    disk_errors_explained(lambda: figure.savefig(path, dpi=110, metadata={"Software": None}), path)
    return path


def _series(records: list[dict[str, Any]], prefix: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return name -> (steps, values) of the metrics whose name starts so; a metric may be absent from some lines."""
    names = sorted({name for record in records for name in record if name.startswith(prefix)})
    return {
        name: (
            [record["step"] for record in records if name in record],
            [record[name] for record in records if name in record],
        )
        for name in names
    }


def _label(name: str) -> str:
    """Return the legend of a metric: what a number at its end stands for."""
    kind, _, number = name.rpartition("_")
    if kind.endswith("distance"):
        return "adjacent levels" if number == "1" else f"{number} levels apart"
    if kind.endswith("level"):
        return f"level {number}" + (" (best)" if number == "0" else "")
    return name
