"""`amp models`: the models known by name, and the conversions that are kept."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli.commands.options import JsonOption

if TYPE_CHECKING:
    from amp_cli.downloads.zoo import KnownModel


def models(
    clear_conversions: Annotated[
        bool, typer.Option("--clear-conversions", help="Remove the conversions that --cache-converted has kept.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the models known by name: what they are, what they need, whether they are on this disk.

    Any other transformers image-text-to-text model works too: give its hub id or folder.
    Conversions that `amp --cache-converted` has kept are listed with their size.

    Example: amp models
    """
    from amp_cli import ui
    from amp_cli.downloads.places import clear_conversions as clear
    from amp_cli.downloads.places import kept_conversions, size_text
    from amp_cli.downloads.zoo import KNOWN, cached_bytes

    if clear_conversions:
        freed = clear()
        if json:
            ui.data({"freed_bytes": freed, "conversions": [asdict(one) for one in kept_conversions()]})
        else:
            ui.note(f"Removed {size_text(freed)} of conversions")
        return
    cached = cached_bytes()
    records = [_record(model, cached) for model in KNOWN]
    conversions = kept_conversions()
    if json:
        ui.data({"models": records, "conversions": [asdict(one) for one in conversions]})
        return
    ui.table("Known models", ["name", "what", "layout", "licence"], [_description(record) for record in records])
    for obstacle in dict.fromkeys(record["obstacle"] for record in records if record["obstacle"]):
        ui.note(f"Cannot run: {obstacle}")
    ui.table(
        "Billions of parameters; GB to download, of memory to run in 16 and in 4 bit and to train (estimated)",
        ["name", "size", "download", "run", "4 bit", "train", "on disk"],
        [
            (
                record["name"],
                f"{record['parameters'] / 1e9:.3g}",
                *(
                    "-" if record[key] is None else f"{record[key]:g}"
                    for key in ("download_gb", "run_gb", "run_4bit_gb", "train_gb")
                ),
                f"yes, {record['bytes_on_disk'] / 1e9:.1f} GB" if record["bytes_on_disk"] else _yes(record["on_disk"]),
            )
            for record in records
        ],
    )
    if conversions:
        rows = [(one.model, one.folder, size_text(one.bytes), _yes(one.is_finished)) for one in conversions]
        ui.table("Conversions kept by --cache-converted", ["of", "where", "size", "whole"], rows)
        ui.hint("amp models --clear-conversions removes them")
    ui.note("An adapter needs its base, an original-layout model the vision tower: amp download brings both along")
    ui.hint("amp download NAME fetches one; amp doctor says which of them fit this machine")


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _description(record: dict[str, Any]) -> tuple[str, str, str, str | None]:
    what = f"{record['what']}, for {record['base']}" if record["base"] else str(record["what"])
    if record["hub_id"]:
        what = f"{record['hub_id']}: {what}"
    layout = f"{record['layout']}: cannot run" if record["obstacle"] else record["layout"]
    return record["name"], what, layout, record["licence"]


def _record(model: "KnownModel", cached: dict[str, int]) -> dict[str, Any]:
    from amp_cli.downloads.zoo import needed_with
    from amp_cli.models.resolve import TINY

    talks = not model.is_encoder  # an adapter needs what its base needs
    on_disk = (TINY / "config.json").is_file() if model.hub_id is None else model.hub_id in cached
    return {
        "name": model.name,
        "hub_id": model.hub_id,
        "what": model.what,
        "kind": "encoder" if model.is_encoder else "adapter" if model.base else "model",
        "base": model.base,
        "layout": model.layout,
        "licence": model.licence,
        "needs": [other.name for other in needed_with(model)],
        "download_gb": model.download_gb,
        "parameters": model.parameters * 1e9,
        "run_gb": model.run_gb if talks else None,
        "run_4bit_gb": model.run_4bit_gb if talks else None,
        "train_gb": model.train_gb if talks else None,
        "on_disk": on_disk,
        "bytes_on_disk": cached.get(model.hub_id or "", 0),
        "obstacle": model.obstacle,
    }
