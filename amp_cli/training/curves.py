"""Draws a run's metrics.jsonl as curves.png, and as curves-dark.png for dark pages, and says what is seen in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.disk.jsonl import RecordLog, disk_errors_explained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES, DARK_CURVES = "curves.png", "curves-dark.png"
PREFIX = "held_out_"
"""How metrics of held-out items begin."""
PROXY = f"{PREFIX}best_per_token"
"""Mean log-probability of a token of the best answer under the policy minus that under the reference, nats.

A stand-in for recall: what the best answer names and the model no longer expects, it no longer says.
"""

Series = dict[str, tuple[list[int], list[float]]]
"""name -> (steps, values)."""
FEW = 20
"""So many points are drawn as they are; more are smoothed over a twentieth of them to either side."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """The colours of a drawing."""

    page: str
    ink: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Looks(
    page="#ffffff", ink="#1d2125", grid="#d5d8dc",
    lines=("#0072b2", "#c65700", "#008a64", "#b0578d", "#7a5c00", "#1d2125"),
)  # fmt: skip
DARK = Looks(
    page="#1d2125", ink="#e7e5e1", grid="#454c54",
    lines=("#56b4e9", "#f08a3c", "#2fbf96", "#e08fc0", "#e0c341", "#e7e5e1"),
)  # fmt: skip
"""Okabe and Ito's colours, which colour-blind people tell apart, darker on white and lighter on black."""
STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "X")
"""Of held-out items, which are evaluated at few steps."""


def draw_curves(run_folder: Path) -> Path | None:
    """Draw loss, margins, accuracy by pair distance and reward by level over the steps; None without metrics.

    Lines are means over the steps around; what was measured at each step stands behind them, faint.
    """
    records = RecordLog(run_folder / "metrics.jsonl").read()
    if not records:
        return None
    for name, looks in ((DARK_CURVES, DARK), (CURVES, LIGHT)):  # where the second one is, the first one is too
        _draw(records, run_folder / name, looks)
    return run_folder / CURVES


def _draw(records: Sequence[Mapping[str, Any]], path: Path, looks: Looks) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(records)
    rows, columns = (len(panels) + 1) // 2, min(2, len(panels))
    figure = Figure(figsize=(6 * columns, 3.8 * rows), layout="constrained", facecolor=looks.page)
    FigureCanvasAgg(figure)
    for number, (title, series) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_panel(axes, records, series, looks)
        axes.set_title("share of answer tokens right" if "mean_token_accuracy" in series else title, color=looks.ink)
    beside = path.with_suffix(".part")  # a kill while it is drawn would leave half of it

    def save() -> None:
        figure.savefig(beside, format="png", dpi=110, metadata={"Software": None})
        beside.replace(path)

    disk_errors_explained(save, path)


def _panels(records: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    panels = {
        "loss": _series(records, "loss"),
        "margin (nats)": _series(records, "margin_distance_") | _series(records, "margin_images"),
        "share of pairs in order": _series(records, "accuracy_distance_") | _series(records, "accuracy_images")
        or _series(records, "mean_token_accuracy"),
        "reward by level (nats)": _series(records, "reward_level_"),
        "loss of a token of the best answer (nats)": _series(records, "best_nll"),
        "best answer against the reference, held out (nats a token)": _series(records, PROXY),
    }
    return {title: series for title, series in panels.items() if series}


def _draw_panel(axes: "Axes", records: Sequence[Mapping[str, Any]], series: Series, looks: Looks) -> None:
    is_smoothed = False
    for place, (name, (steps, values)) in enumerate(series.items()):
        colour, marker = looks.lines[place % len(looks.lines)], MARKERS[place % len(MARKERS)]
        if name.startswith(PREFIX):
            axes.plot(steps, values, marker=marker, markersize=4, linewidth=0.8, color=colour, label=_label(name))
            continue
        smooth = smoothed(values)
        if smooth != values:
            is_smoothed = True
            axes.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
        style = STYLES[place % len(STYLES)]
        axes.plot(steps, smooth, linestyle=style, linewidth=1.9, color=colour, label=_label(name))
        for steps_of, values_of in _series(records, f"{PREFIX}{name}", is_whole_name=True).values():
            called = f"{_label(name)}, held out"
            axes.plot(steps_of, values_of, marker=marker, markersize=5, linewidth=0.8, color=colour, label=called)
    axes.set_xlabel("step; lines are means over the steps around, faint is each step" if is_smoothed else "step")
    axes.set_facecolor(looks.page)
    axes.grid(color=looks.grid, linewidth=0.7)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(colors=looks.ink)
    axes.xaxis.label.set_color(looks.ink)
    axes.spines[:].set_color(looks.ink)
    _draw_legend(axes, looks)


def _draw_legend(axes: "Axes", looks: Looks) -> None:
    labels = axes.get_legend_handles_labels()[1]
    colours: dict[str, Any] = {"facecolor": looks.page, "edgecolor": looks.grid, "labelcolor": looks.ink}
    if len(labels) > 4:  # with held-out items twice as many: below, where no line is hidden
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2), handlelength=3.5, **colours)
    elif len(labels) > 1:
        axes.legend(fontsize=9, handlelength=3.5, **colours)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the mean over the points around each, fewer at the ends; the values themselves where they are few.

    Args:
        values: (points,), one for each logged step.
    """
    reach = 0 if len(values) <= FEW else max(1, len(values) // 20)
    around = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return [sum(some) / len(some) for some in around]


def describe_curves(run_folder: Path) -> str:
    """Say in words what curves.png shows: how the loss and the order of the pairs went. "" without metrics."""
    metrics = run_folder / "metrics.jsonl"
    records = RecordLog(metrics).read() if metrics.is_file() else []
    said = []
    for name, called in (("loss", "loss"), ("accuracy", "share of pairs in order")):
        for steps, values in _series(records, name, is_whole_name=True).values():
            smooth = smoothed(values)
            how = "" if smooth == values else ", smoothed,"
            said.append(
                f"{called}{how} from {smooth[0]:.3f} at step {steps[0]:,} to {smooth[-1]:.3f} at step {steps[-1]:,}"
            )
    return "; ".join(said)


def _series(records: Sequence[Mapping[str, Any]], prefix: str, *, is_whole_name: bool = False) -> Series:
    """Return name -> (steps, values) of the metrics whose name starts so; a metric may be absent from some lines."""
    names = sorted({name for record in records for name in record if name.startswith(prefix)})
    names = [name for name in names if not is_whole_name or name == prefix]
    return {
        name: (
            [record["step"] for record in records if name in record],
            [record[name] for record in records if name in record],
        )
        for name in names
    }


def _label(name: str) -> str:
    """Return the legend of a metric: what a number at its end stands for."""
    name = name.removeprefix(PREFIX)
    if name.endswith("_images"):
        return "beside other images"
    if name == "best_nll":
        return "best answer"
    kind, _, number = name.rpartition("_")
    if kind.endswith("distance"):
        return "adjacent levels" if number == "1" else f"{number} levels apart"
    if kind.endswith("level"):
        return f"level {number}" + (" (best)" if number == "0" else "")
    return name
