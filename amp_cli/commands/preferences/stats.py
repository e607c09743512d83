"""`amp prefs stats`: the numbers of a preference set, as tables, bars and one image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli.commands.options import OUTPUT_PANEL, JsonOption
from amp_cli.commands.preferences.checking import show_style

if TYPE_CHECKING:
    from collections import Counter

    from amp_cli.disk.left_out import LeftOutLog


SHOWN_DATASETS = 12
BINS = 11


def stats(
    prefs: Annotated[str, typer.Argument(metavar="PREFS", help="File, folder or hub id, in our format or another.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for stats.json, stats.png and the list of what could not be read.",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Count levels, rounds, images and words, by level and by source, and how the lengths of levels differ.

    The file is read once, line by line; it may be larger than memory. Images are counted by name and not opened.

    Example: amp prefs stats preferences.jsonl --out stats
    """
    from amp_cli import ui
    from amp_cli.preferences.measuring import measure

    measured = measure(prefs, out)
    if json:
        ui.data(measured.to_json())
    else:
        _show(measured.to_json(), measured.figures.differences["adjacent"])
    if out is not None:
        ui.note(f"Wrote '{out / 'stats.json'}' and '{out / 'stats.png'}'")
    ui.hint(ui.command_line("amp", "prefs", "view", prefs, out="preferences.html"))
    tell_leftovers(measured.refused, "entries give no item", prefs)


def _show(numbers: dict[str, Any], differences: "Counter[int]") -> None:
    from amp_cli import ui

    images = numbers["pictures"]
    rows = [
        ("items", f"{numbers['items']:,}"),
        ("rejected", f"{numbers['rejected']:,}"),
        ("rounds", _counted(numbers["rounds"])),
        ("images per item", _counted(images["per_item"])),
        ("different images", f"{images['distinct']:,}"),
        ("of them in several items", f"{images['in_several_items']:,} (one in up to {images['most_items']:,})"),
    ]
    ui.table("Preferences", ("", ""), rows)
    most = max(numbers["levels"].values(), default=0)
    ui.bars(
        "Items by number of levels",
        [(f"{levels} levels", 0, count, f"{count:,}") for levels, count in numbers["levels"].items() if most],
    )
    heads = ("answers", "mean words", "quartiles", "accuracy", "score")
    ui.table(
        "By level; 0 is the best, words of all rounds together",
        ("level", *heads),
        [(row["level"], *_row(row)) for row in numbers["per_level"]],
    )
    ui.bars(
        "Words by level: the middle half of the answers (q1 to q3)",
        [
            (f"level {row['level']}", row["words"]["q1"], row["words"]["q3"], f"median {row['words']['median']:,}")
            for row in numbers["per_level"]
        ],
    )
    ui.table(
        "By source",
        ("source", "level", *heads),
        [(name, row["mean_level"], *_row(row)) for name, row in numbers["per_source"].items()],
    )
    if set(numbers["datasets"]) != {""}:
        named = [(name or "(not named)", count) for name, count in numbers["datasets"].items()]
        rest = sum(count for _, count in named[SHOWN_DATASETS:])
        shown = named[:SHOWN_DATASETS] + ([(f"{len(named) - SHOWN_DATASETS} more", rest)] if rest else [])
        ui.bars("Items by data set", [(name, 0, count, f"{count:,}") for name, count in shown])
    _show_differences(numbers["length_differences"], differences)
    show_style(numbers["pair_style"])


def _show_differences(numbers: dict[str, Any], adjacent: "Counter[int]") -> None:
    from amp_cli import ui
    from amp_cli.preferences.measuring import binned

    names = {"adjacent": "adjacent levels", "best_and_worst": "best and worst"}
    ui.table(
        "Length of the better answer minus the worse, in words",
        ("of", "pairs", "mean", "quartiles", "better longer", "equal"),
        [
            (
                names[name],
                f"{row['pairs']:,}",
                f"{row['mean']:+.1f}",
                f"{row['q1']:+d} / {row['median']:+d} / {row['q3']:+d}",
                f"{row['better_is_longer']:.0%}",
                f"{row['equally_long']:.0%}",
            )
            for name, row in numbers.items()
        ],
    )
    ui.bars(
        "Pairs of adjacent levels by that difference",
        [(f"{low:+d} to {high - 1:+d}", 0, pairs, f"{pairs:,}") for low, high, pairs in binned(adjacent, BINS)],
    )


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    words = row["words"]
    return (
        f"{row['n']:,}",
        f"{words['mean']:.1f}",
        f"{words['q1']} / {words['median']} / {words['q3']}",
        row["accuracy"],
        row["score"],
    )


def _counted(counts: dict[str, int]) -> str:
    """Return "1: 1,200 items, 2: 40 items" of number -> how many items."""
    if len(counts) > 8:
        numbers = [int(number) for number in counts]
        return f"{min(numbers)} to {max(numbers)}"
    return ", ".join(f"{number} in {count:,} items" for number, count in counts.items())


def tell_leftovers(leftovers: "LeftOutLog", what: str, prefs: str) -> None:
    """Warn of what was left out, naming the first few, and exit with status 3; do nothing where all was done."""
    from amp_cli import ui

    if not leftovers.count:
        return
    first = "; ".join(f"{one.id}: {one.reason}" for one in leftovers.first)
    more = leftovers.count - len(leftovers.first)
    ui.warn(f"{leftovers.count:,} {what}: {first}" + (f"; and {more:,} more" if more else ""))
    ui.note(f"All of them: '{leftovers.path}'" if leftovers.path else f"`amp prefs check {prefs}` lists them")
    raise typer.Exit(3)
