"""Tells what a command over preferences could not do, and ends it with status 3."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from amp_cli.preferences.leftovers import Leftovers


def tell_leftovers(leftovers: "Leftovers", what: str, prefs: str) -> None:
    """Warn of what was left out, naming the first few, and exit with status 3; do nothing where all was done."""
    from amp_cli import ui

    if not leftovers.count:
        return
    first = "; ".join(f"{one.id}: {one.reason}" for one in leftovers.first)
    more = leftovers.count - len(leftovers.first)
    ui.warn(f"{leftovers.count:,} {what}: {first}" + (f"; and {more:,} more" if more else ""))
    ui.note(f"All of them: '{leftovers.path}'" if leftovers.path else f"`amp prefs check {prefs}` lists them")
    raise typer.Exit(3)
