"""Draws a sweep's scores over the steps, with their intervals and the best step."""

from pathlib import Path

from amp_cli.benchmarks.sweep import CURVES, DECIDING, Sweep
from amp_cli.core.store import disk_errors_explained

BLUE, GREEN = "#2f6fb5", "#1a7440"


def draw_sweep(sweep: Sweep, path: Path) -> None:
    """Draw each score over the steps with its 95 % interval, the best step of a deciding one marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [curve for curve in CURVES if curve.benchmark in sweep.best]
    rows = (len(curves) + 1) // 2
    columns = min(2, len(curves))
    figure = Figure(figsize=(6 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, curve in enumerate(curves, start=1):
        blocks = [curve.block(of_point[curve.benchmark]) for of_point in sweep.scores]
        drawn = [
            (point.step, block[curve.name], block["ci95"].get(curve.name))
            for point, block in zip(sweep.points, blocks, strict=True)
            if block[curve.name] is not None
        ]
        axes = figure.add_subplot(rows, columns, number)
        axes.plot([step for step, _, _ in drawn], [value for _, value, _ in drawn], marker="o", color=BLUE)
        bands = [(step, *bounds) for step, _, bounds in drawn if bounds is not None]
        if bands:
            steps, low, high = zip(*bands, strict=True)
            axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")
        if DECIDING[curve.benchmark] is curve:
            best = sweep.best[curve.benchmark]
            axes.axvline(best, color=GREEN, linestyle="--", label=f"best: step {best:,}")
        axes.set_title(curve.title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    disk_errors_explained(lambda: figure.savefig(path, dpi=110, metadata={"Software": None}), path)
