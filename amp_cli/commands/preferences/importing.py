"""`amp prefs import`: preference data of any known format, as items of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli import ui
from amp_cli.commands import completing
from amp_cli.commands.options import ImageRootOption, JsonOption, OutOption, OverwriteOption
from amp_cli.errors import AmpError

SOURCE = "Source"
RATINGS = "Rated answers (vlfeedback, mm-rlhf, vision-feedback)"


def import_prefs(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="JSON, JSONL or Parquet file, folder, or hub id.")],
    out: OutOption,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=completing.formats,
            help="auto (told by the content), amp-authors, rlhf-v, rlaif-v, vlfeedback, llava-rlhf, llava-instruct, "
            "povid, ha-dpo, mdpo, plain-dpo, mm-rlhf, trl, ms-swift, llama-factory, vision-feedback or amp.",
            rich_help_panel=SOURCE,
        ),
    ] = "auto",
    image_root: ImageRootOption = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Part of a folder or hub data set that has several", rich_help_panel=SOURCE),
    ] = None,
    rating_weights: Annotated[
        str,
        typer.Option(
            "--rating-weights",
            metavar="NAME=W,...",
            help="Weights of VLFeedback's ratings; one that is not named does not count.",
            rich_help_panel=RATINGS,
        ),
    ] = "helpfulness=1,faithfulness=1,ethics=1",
    ties: Annotated[
        Literal["merge", "drop"],
        typer.Option(
            "--ties",
            help="Of answers with equal ratings, keep the first (merge) or none (drop).",
            rich_help_panel=RATINGS,
        ),
    ] = "merge",
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Read preference data of other projects into preferences.jsonl: 2 to 8 levels, images included.

    Data with one response per question become sources.jsonl, which `amp generate-prefs` takes.

    Example: amp prefs import openbmb/RLHF-V-Dataset --out prefs/rlhf-v
    """
    from amp_cli.preferences.formats.draft import Choices
    from amp_cli.preferences.formats.importing import import_preferences

    result = import_preferences(
        source,
        out,
        format=format,
        image_root=image_root,
        split=split,
        choices=Choices(weights=_weights(rating_weights), ties=ties),
        overwrite=overwrite,
    )
    for warning in result.warnings:
        ui.warn(warning)
    if json:
        ui.data(result.to_json())
    else:
        rows = [
            ("format", result.format),
            ("items", result.items),
            *((f"with {count} levels", number) for count, number in result.levels.items()),
            ("rejected", result.rejected),
            ("images written", result.images),
            ("written to", result.file),
        ]
        ui.table(f"Imported '{source}'", ("", ""), rows)
    if result.was_there:
        ui.note("It was there already and was not done again; --overwrite does.")
    if result.is_standard_only:
        ui.note("These are standard responses, one per question, and no preferences.")
        ui.hint(
            ui.command_line(
                *("amp", "generate-prefs", result.file), method="meg", expert=("NAME=MODEL", "NAME=MODEL"), out="prefs"
            )
        )
        ui.note("Two experts or more; the best one first.")
    else:
        ui.hint(ui.command_line("amp", "prefs", "check", result.file))
    if result.rejected:
        ui.warn(f"{result.rejected} records gave no item; the reasons are in '{result.rejected_file}'")
        raise typer.Exit(3)


def _weights(text: str) -> dict[str, float]:
    weights = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError as error:
            raise typer.BadParameter(
                f"'{part}' is not of the form NAME=NUMBER", param_hint="--rating-weights"
            ) from error
    return weights


@dataclass(frozen=True, kw_only=True)
class UsablePrefs:
    """A file that training reads, and the folder that its image paths start from (None: the file's own)."""

    file: Path
    image_root: Path | None


def usable_prefs(prefs: Path, out: Path, *, image_root: Path | None, method: str) -> UsablePrefs:
    """Return preferences as training reads them: our own as they are, others imported into `OUT.imported`.

    The import stands beside the run's folder, not in it: `--overwrite` empties that, and it is made before the run
    is known to be able to start. It is made once and used again while the source is the same.

    Args:
        method: `sft` also takes data with one response per question.

    Raises:
        AmpError: the source cannot be read, or has no preferences.
    """
    from amp_cli.preferences.formats.importing import import_preferences
    from amp_cli.preferences.formats.source import open_source

    as_it_is = UsablePrefs(file=prefs, image_root=image_root)
    if not prefs.exists() and len(prefs.parts) != 2:  # no hub id: training says what is missing
        return as_it_is
    try:
        format = open_source(prefs, image_root=image_root).format
    except AmpError:
        if prefs.is_file():  # what training reads beyond preferences, or refuses in its own words
            return as_it_is
        raise
    if format.name == "amp" and prefs.is_file():
        return as_it_is
    if format.is_standard_only and method != "sft":
        raise AmpError(
            f"'{prefs}' has one response per question and no preferences ({format.name})",
            hint=f"Make some: amp generate-prefs {prefs} --out DIR ...; or fine-tune on it with --method sft",
        )
    place = out.parent / f"{out.name}.imported"
    result = import_preferences(prefs, place, format=format.name, image_root=image_root, overwrite=True, keep_same=True)
    again = "was imported before" if result.was_there else "is imported"
    ui.note(f"'{prefs}' is in the format {result.format}; it {again}: {result.items} items in '{result.file}'")
    for warning in result.warnings:
        ui.warn(warning)
    if result.rejected:
        ui.warn(f"{result.rejected} of its records gave no item; the reasons are in '{result.rejected_file}'")
    return UsablePrefs(file=result.file, image_root=None)
