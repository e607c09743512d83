"""`amp prefs export`: preferences in the layout of another program, or as a folder for the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from amp_cli.commands.options import OUTPUT_PANEL, ImageRootOption, JsonOption, OverwriteOption

if TYPE_CHECKING:
    from amp_cli.preferences.formats.export import Exported


Layout = Literal["trl", "ms-swift", "llama-factory", "amp-authors", "hub"]
NEXT = {
    "trl": 'datasets.load_dataset("{kind}", data_files="{out}") gives the train_dataset of TRL\'s DPOTrainer',
    "ms-swift": "swift rlhf --rlhf_type dpo --dataset {out} --model MODEL",
    "llama-factory": "llamafactory-cli train CONFIG.yaml, with dataset_dir: {folder} and dataset: {stem}",
    "amp-authors": "amp prefs check {out}",
    "hub": "fill in the licences in {out}/README.md, then: hf upload --repo-type dataset OWNER/NAME {out}",
}


def export(
    prefs: Annotated[str, typer.Argument(metavar="PREFS", help="Preference file, in any format that can be imported.")],
    to: Annotated[
        Layout,
        typer.Option(
            "--to",
            help="trl, ms-swift, llama-factory (pairs), amp-authors (all levels), hub (a folder).",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A file; trl: .parquet (images inside) or .jsonl; amp-authors: .json; hub: a folder; else .jsonl.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ],
    pairs: Annotated[
        Literal["all", "adjacent", "best-vs-rest"],
        typer.Option(
            "--pairs", help="Which levels become pairs, where the layout holds pairs.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = "all",
    image_root: ImageRootOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write preferences for TRL, ms-swift, LLaMA-Factory, the AMP authors' code, or the Hugging Face hub.

    Items that the layout cannot hold are left out, counted, and listed beside the result (exit status 3).

    Example: amp prefs export preferences.jsonl --to trl --out trl/train.parquet
    """
    from amp_cli import ui
    from amp_cli.preferences.formats.export import ExportSettings, export_file
    from amp_cli.preferences.formats.hub import export_folder

    settings = ExportSettings(source=prefs, to=to, out=out, pairs=pairs, image_root=image_root, overwrite=overwrite)
    result = export_folder(settings) if to == "hub" else export_file(settings)
    if json:
        ui.data(
            {
                "to": to,
                "out": str(result.out),
                "items": result.items,
                "records": result.records,
                "rejected": len(result.rejected),
                "levels": {str(count): items for count, items in sorted(result.levels.items())},
            }
        )
    else:
        _show(result, to)
    if result.rejected:
        were = "1 item was" if len(result.rejected) == 1 else f"{len(result.rejected):,} items were"
        ui.warn(f"{were} left out, see '{result.rejections}'")
        raise typer.Exit(3)


def _show(result: "Exported", to: str) -> None:
    from amp_cli import ui

    levels = ", ".join(f"{items:,} with {count} levels" for count, items in sorted(result.levels.items()))
    rows = [
        ("items", f"{result.items:,} ({levels})"),
        ("written", f"{result.records:,} {'items' if to in ('hub', 'amp-authors') else 'pairs'}"),
        ("left out", f"{len(result.rejected):,}"),
        ("to", result.out),
    ]
    ui.table(f"Exported for {to}", ("", ""), rows)
    kind = "parquet" if result.out.suffix == ".parquet" else "json"
    ui.hint(NEXT[to].format(out=result.out, folder=result.out.parent, stem=result.out.stem, kind=kind))
