"""Runs side by side, as numbers and as one self-contained page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.jsonl import write_text
from amp_cli.report.opening import opening_of
from amp_cli.report.paper import quoted_rows
from amp_cli.report.runs import GatheredRun, ReportRun, compared, gather

MAX_ITEMS = 600


def build_report(
    runs: Sequence[ReportRun],
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    html: Path | None = None,
    max_items: int = MAX_ITEMS,
) -> dict[str, Any]:
    """Compare `runs` with the first of them; write `html` (one self-contained file) if given.

    Args:
        title: instead of the one that says what came out.
        notes: paragraphs on how to read it. commands: what was typed. Both are shown at the end.
        max_items: how many answered questions the page lists at most; those in which the runs differ come first.

    Returns:
        what `amp report --json` prints.
    """
    return write_report(gather(runs), title=title, notes=notes, commands=commands, html=html, max_items=max_items)


def write_report(
    gathered: Sequence[GatheredRun],
    *,
    title: str | None,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    html: Path | None,
    max_items: int,
) -> dict[str, Any]:
    """Write the page of runs that are read already; see `build_report`."""
    opening = opening_of(gathered)
    if html is not None:
        from amp_cli.report.page import render_page

        with ui.busy(f"Building '{html}'"):
            page = render_page(gathered, opening, title=title, notes=notes, commands=commands, max_items=max_items)
            write_text(html, page)
    return {
        "headline": opening.sentence,
        "runs": [run.to_json() for run in gathered],
        "correction": {"method": "benjamini-hochberg", "comparisons": len(compared(gathered))},
        "quoted": quoted_rows(),
        "html": None if html is None else str(html),
    }
