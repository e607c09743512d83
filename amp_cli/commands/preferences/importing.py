"""`amp prefs import`: preference data of any known format, as items of ours."""

from typing import Annotated, Literal

import typer

from amp_cli import ui
from amp_cli.commands.options import ImageRootOption, JsonOption, OutOption, OverwriteOption

SOURCE = "Source"
RATINGS = "Rated answers (vlfeedback, mm-rlhf, vision-feedback)"


def import_prefs(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="JSON, JSONL or Parquet file, folder, or hub id.")],
    out: OutOption,
    format: Annotated[
        str,
        typer.Option(
            "--format",
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
    """Read preference data of other projects into preferences.jsonl: any number of levels, pictures included.

    Data with one response per question become sources.jsonl, which `amp generate-prefs` takes.

    Example: amp prefs import openbmb/RLHF-V-Dataset --out prefs/rlhf-v
    """
    from amp_cli.preferences.importers.draft import Choices
    from amp_cli.preferences.importers.importing import import_preferences

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
            ("pictures written", result.pictures),
            ("written to", result.file),
        ]
        ui.table(f"Imported '{source}'", ("", ""), rows)
    if result.was_there:
        ui.note("It was there already and was not done again; --overwrite does.")
    if result.is_standard_only:
        ui.note("These are standard responses, one per question, and no preferences.")
        ui.hint(f"amp generate-prefs {result.file} --method meg --expert NAME=MODEL ... --out DIR")
    else:
        ui.hint(f"amp prefs check {result.file}")
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
