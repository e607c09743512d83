"""`amp prefs mix`: a training set drawn from several preference files."""

from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli.commands.options import (
    OUTPUT_PANEL,
    ImageRootOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    SeedOption,
    number,
    train_line,
)

if TYPE_CHECKING:
    from amp_cli.preferences.mixing import Mixed


def mix(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="PREFS[:COUNT]...", help="Preference files, each with how many items (default: all)."),
    ],
    out: OutOption,
    held_out: Annotated[
        float,
        number(
            "--held-out",
            help="Share of items for held_out.jsonl, 0 to below 1; no image is on both sides.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = 0.0,
    seed: SeedOption = 0,
    image_root: ImageRootOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Draw items from several files at random, without repeats, and shuffle them into one.

    Where a file has fewer items than asked for, all of them are taken, with a warning.
    The same files, numbers and seed give the same bytes.

    Example: amp prefs mix sharegpt4v.jsonl:1000 rlhfv.jsonl:4000 --seed 1 --held-out 0.05 --out mixed
    """
    from amp_cli import ui
    from amp_cli.preferences.mixing import REJECTED, Ingredient, MixSettings
    from amp_cli.preferences.mixing import mix as run

    result = run(
        MixSettings(
            ingredients=tuple(Ingredient.parse(source) for source in sources),
            out=out,
            seed=seed,
            held_out=held_out,
            image_root=image_root,
            overwrite=overwrite,
        )
    )
    for one in result.taken:
        if one.asked is not None and one.mixed < one.asked:
            ui.warn(f"'{one.source}' has {one.mixed:,} different usable items, not {one.asked:,}; all are taken")
    if held_out and not result.held_out:
        ui.warn("No item is held out: every group of items that share images is larger than the share asked for")
    if json:
        ui.data(result.to_json())
    else:
        _show(result, with_held_out=held_out > 0)
    if result.rejected:
        ui.warn(f"{len(result.rejected):,} entries cannot be used, see '{out / REJECTED}'")
    ui.hint(train_line(result.out / "preferences.jsonl"))
    if result.rejected:
        raise typer.Exit(3)


def _show(result: "Mixed", *, with_held_out: bool) -> None:
    from amp_cli import ui

    rows = [
        (one.source, one.asked or "all", f"{one.found:,}", f"{one.repeated:,}", f"{one.rejected:,}", f"{one.mixed:,}")
        for one in result.taken
    ]
    ui.table(f"Mixed into {result.out}", ("source", "asked", "usable", "repeats", "unusable", "mixed"), rows)
    renamed = sum(one.renamed for one in result.taken)
    if renamed:
        ui.note(f"{renamed:,} ids occurred before and got their source's name in front")
    if with_held_out:
        ui.note(f"{result.items:,} items to train on, {result.held_out:,} held out (no image is on both sides)")
