"""Shows what `amp generate-prefs` made."""

import shlex
from typing import TYPE_CHECKING

from amp_cli import ui

if TYPE_CHECKING:
    from amp_cli.preferences.generate import GenerateResult


def show(result: "GenerateResult") -> None:
    """Print the levels as a table, and where everything lies."""
    stats = result.stats
    counts = ", ".join(f"{number} with {levels} levels" for levels, number in stats["levels"].items())
    rows = [
        (source, row["n"], row["mean_level"], row["accuracy"], row["score"], row["words"])
        for source, row in stats["per_source"].items()
    ]
    columns = ("source", "answers", "mean level", "accuracy", "score", "words")
    ui.table(f"{stats['items']} items: {counts}", columns, rows)
    dropped, check = stats["dropped"], stats["auto_check"]
    if check is not None:
        ui.note(
            f"Auto-check ({check['encoder']}, tau {check['tau']}) changed the order of {check['reordered']} items; "
            f"{check['items_without_chunk']} name nothing to compare and kept theirs."
        )
    if dropped["identical"] or dropped["empty"]:
        ui.note(
            f"Left out: {dropped['identical']} answers like a better level, {dropped['empty']} empty ones, "
            f"{dropped['items']} items with fewer than two levels."
        )
    ui.note(f"Look at them in '{result.page}'.")
    ui.hint(f"amp train --size 7b --prefs {shlex.quote(str(result.preferences))} --out runs/mdpo")
