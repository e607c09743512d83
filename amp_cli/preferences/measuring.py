"""Measures a preference set: its figures counted, written to stats.json, and drawn as one image."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.disk.one_file import is_rejected_list, refuse_foreign_file
from amp_cli.disk.parsing import read_json
from amp_cli.disk.replacing import NAME
from amp_cli.errors import AmpError
from amp_cli.preferences.figures import Figures
from amp_cli.preferences.reading import read_items, reading_progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BINS = 15
MOST_SOURCES = 12
"""More names than this are not readable on one axis."""


def draw_figures(figures: Figures, path: Path) -> None:
    """Write a PNG: items by levels, words by level, length differences, and accuracy by level or words by source."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = figures.to_json()
    image = Figure(figsize=(11, 7.4), layout="constrained")
    FigureCanvasAgg(image)
    panels = image.subplots(2, 2)
    _draw_levels(panels[0, 0], numbers)
    _draw_words(panels[0, 1], numbers)
    _draw_differences(panels[1, 0], figures.differences["adjacent"])
    _draw_accuracy_or_sources(panels[1, 1], numbers)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.savefig(path, dpi=110, metadata={"Software": None})

    disk_errors_explained(write, path)


def _draw_levels(axes: "Axes", numbers: dict[str, Any]) -> None:
    bars = axes.bar(list(numbers["levels"]), list(numbers["levels"].values()), color="#3558c9")
    axes.bar_label(bars, fmt="{:,.0f}")
    axes.set(title=f"{numbers['items']:,} items by number of levels", xlabel="levels", ylabel="items")


def _draw_words(axes: "Axes", numbers: dict[str, Any]) -> None:
    """Draw boxes of the quartiles; a diamond is the mean."""
    boxes = [
        {
            "label": f"{row['level']}" + (" (best)" if row["level"] == 0 else ""),
            "whislo": row["words"]["min"],
            "q1": row["words"]["q1"],
            "med": row["words"]["median"],
            "q3": row["words"]["q3"],
            "whishi": row["words"]["max"],
            "mean": row["words"]["mean"],
        }
        for row in numbers["per_level"]
    ]
    marker = {"marker": "D", "markerfacecolor": "#3558c9", "markeredgecolor": "none"}
    axes.bxp(boxes, showfliers=False, showmeans=True, meanprops=marker)
    axes.set(title="Words by level (box: quartiles, diamond: mean)", xlabel="level", ylabel="words")


def _draw_differences(axes: "Axes", counts: Counter[int]) -> None:
    edges_and_items = binned(counts, BINS)
    axes.bar(
        [low for low, _, _ in edges_and_items],
        [items for _, _, items in edges_and_items],
        width=[high - low for low, high, _ in edges_and_items],
        align="edge",
        color="#3558c9",
        edgecolor="white",
    )
    axes.axvline(0, color="black", linewidth=1, linestyle="--")
    axes.set(title="Better minus worse, adjacent levels", xlabel="words", ylabel="pairs")


def _draw_accuracy_or_sources(axes: "Axes", numbers: dict[str, Any]) -> None:
    checked = [row for row in numbers["per_level"] if row["accuracy"] is not None or row["score"] is not None]
    if checked:
        places = [str(row["level"]) for row in checked]
        for name, style in (("accuracy", "o-"), ("score", "s--")):
            # matplotlib leaves a gap at NaN
            axes.plot(places, [float("nan") if row[name] is None else row[name] for row in checked], style, label=name)
        axes.set(title="Accuracy and score by level", xlabel="level", ylim=(0, 1.05))
        axes.legend()
        return
    sources = list(numbers["per_source"].items())[:MOST_SOURCES]
    bars = axes.barh([name[:40] for name, _ in sources], [row["words"]["mean"] for _, row in sources], color="#3558c9")
    axes.bar_label(bars, fmt="{:.1f}")
    axes.invert_yaxis()
    axes.set(title="Mean words by source", xlabel="words")


def binned(counts: Counter[int], bins: int) -> list[tuple[int, int, int]]:
    """Return whole numbers in at most `bins` bins of equal width, one of which starts at 0, as (from, below, how many).

    The outer bins take what is beyond the 1st and 99th percent, so that one odd item does not squeeze all others.
    """
    import numpy as np

    values = np.array(sorted(counts))
    weights = np.array([counts[value] for value in values.tolist()])
    low, high = (int(value) for value in np.quantile(values, (0.01, 0.99), weights=weights, method="inverted_cdf"))
    width = -(-(high - low + 1) // max(bins - 1, 1))
    first, last = low // width, high // width
    places = np.clip(values // width, first, last) - first
    items = np.bincount(places, weights=weights, minlength=last - first + 1)
    return [((first + place) * width, (first + place + 1) * width, int(count)) for place, count in enumerate(items)]


@dataclass(frozen=True, kw_only=True)
class MeasuredPrefs:
    """The figures of a set, and the entries that gave no item."""

    figures: Figures
    refused: LeftOutLog

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        numbers = self.figures.to_json()
        return {"items": numbers.pop("items"), "rejected": self.refused.count, **numbers}


STATS, PLOT, REJECTED = "stats.json", "stats.png", "rejected.jsonl"


def measure(prefs: str, out: Path | None = None) -> MeasuredPrefs:
    """Count all items of a file; with `out`, write stats.json, stats.png and the list of refused entries there.

    Raises:
        AmpError: the file cannot be read, or holds no item, or `out` belongs to another command's run.
    """
    if out is not None and (out / NAME).exists():
        raise AmpError(
            f"'{out}' holds a run, which has a stats.json of its own", hint="Choose another folder with --out"
        )
    if out is not None:
        _refuse_other_files(out)
    measured = MeasuredPrefs(figures=Figures(), refused=LeftOutLog.begin(None if out is None else out / REJECTED))
    with reading_progress("Counting", Path(prefs)) as advance:
        for one in read_items(prefs):
            advance()
            if isinstance(one, LeftOut):
                measured.refused.add(one)
            else:
                measured.figures.add(one)
    refuse_empty(prefs, measured.figures.items, measured.refused)
    measured.figures.style.count_chunks()
    if out is not None:
        write_json(out / STATS, measured.to_json())
        draw_figures(measured.figures, out / PLOT)
    return measured


def _refuse_other_files(out: Path) -> None:
    """Refuse to replace what no earlier call wrote: its stats.json stands for the files beside it."""
    refuse_foreign_file(out / STATS, is_ours=_is_statistics)
    for name, is_ours in ((PLOT, lambda _: (out / STATS).exists()), (REJECTED, is_rejected_list)):
        refuse_foreign_file(out / name, is_ours=is_ours)


def _is_statistics(file: Path) -> bool:
    numbers = read_json(file)
    return isinstance(numbers, dict) and {"items", "rejected", "levels", "per_level", "per_source"} <= {*numbers}


def refuse_empty(prefs: str, items: int, refused: LeftOutLog) -> None:
    """Refuse a file that gave no item, with the first reason."""
    if items:
        return
    if not refused.first:
        raise AmpError(f"'{prefs}' holds no item", hint="Give a file with one item or more")
    reason = refused.first[0].reason
    raise AmpError(
        f"None of the {refused.count:,} entries of '{prefs}' is a preference item; the first: {reason}",
        hint=f"See what it is with `amp prefs check {prefs}`",
    )
