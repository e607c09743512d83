"""Reads a preference set once for its figures, and writes them as stats.json and stats.png."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.core.run import NAME
from amp_cli.core.store import write_json
from amp_cli.errors import AmpError
from amp_cli.preferences.figures import Figures
from amp_cli.preferences.figures_plot import draw_figures
from amp_cli.preferences.leftovers import Leftovers
from amp_cli.preferences.reading import Refused, read_items
from amp_cli.preferences.reading_progress import reading_progress


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of a set, and the entries that gave no item."""

    figures: Figures
    refused: Leftovers

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        numbers = self.figures.to_json()
        return {"items": numbers.pop("items"), "rejected": self.refused.count, **numbers}


def measure(prefs: str, out: Path | None = None) -> Measured:
    """Count all items of a file; with `out`, write stats.json, stats.png and the list of refused entries there.

    Raises:
        AmpError: the file cannot be read, or holds no item, or `out` belongs to another command's run.
    """
    if out is not None and (out / NAME).exists():
        raise AmpError(
            f"'{out}' holds a run, which has a stats.json of its own", hint="Choose another folder with --out"
        )
    measured = Measured(figures=Figures(), refused=Leftovers(None if out is None else out / "rejected.jsonl"))
    with reading_progress("Counting", Path(prefs)) as advance:
        for one in read_items(prefs):
            advance()
            if isinstance(one, Refused):
                measured.refused.add(one)
            else:
                measured.figures.add(one)
    refuse_empty(prefs, measured.figures.items, measured.refused)
    if out is not None:
        write_json(out / "stats.json", measured.to_json())
        draw_figures(measured.figures, out / "stats.png")
    return measured


def refuse_empty(prefs: str, items: int, refused: Leftovers) -> None:
    """Refuse a file that gave no item, with the first reason."""
    if items:
        return
    if not refused.first:
        raise AmpError(f"'{prefs}' holds no item")
    reason = refused.first[0].reason
    raise AmpError(
        f"None of the {refused.count:,} entries of '{prefs}' is a preference item; the first: {reason}",
        hint=f"See what it is with `amp prefs check {prefs}`",
    )
