"""`amp models`: the models known by name."""

from typing import TYPE_CHECKING, Any

from amp_cli.commands.options import JsonOption

if TYPE_CHECKING:
    from amp_cli.core.zoo import KnownModel


def models(json: JsonOption = False) -> None:
    """List the models known by name: what they are, the memory they need, whether they are on this disk.

    Any other transformers image-text-to-text model works too: give its hub id or folder.

    Example: amp models
    """
    from amp_cli import ui
    from amp_cli.core.zoo import KNOWN, cached_bytes

    cached = cached_bytes()
    records = [_record(model, cached) for model in KNOWN]
    if json:
        ui.data({"models": records})
        return
    rows = [
        (
            record["name"],
            _described(record),
            record["obstacle"] or record["layout"],
            *("-" if record[key] is None else f"{record[key]:g}" for key in ("run_gb", "run_4bit_gb", "train_gb")),
            "yes" if record["on_disk"] else "no",
        )
        for record in records
    ]
    columns = ["name", "what", "layout", "run GB", "4 bit", "train", "on disk"]
    ui.table(
        "Known models; GB of memory to run in 16 bit, in 4 bit, and to train (estimated; an adapter's are its base's)",
        columns,
        rows,
    )
    ui.hint("amp doctor says which of them fit this machine")


def _described(record: dict[str, Any]) -> str:
    if record["hub_id"] not in (None, record["name"]):
        return f"{record['hub_id']}: {record['what']}"
    return f"{record['what']}, for {record['base']}" if record["base"] else str(record["what"])


def _record(model: "KnownModel", cached: dict[str, int]) -> dict[str, Any]:
    from amp_cli.core.hub import TINY

    talks = not model.is_encoder and model.base is None
    on_disk = (TINY / "config.json").is_file() if model.hub_id is None else model.hub_id in cached
    return {
        "name": model.name,
        "hub_id": model.hub_id,
        "what": model.what,
        "kind": "encoder" if model.is_encoder else "adapter" if model.base else "model",
        "base": model.base,
        "layout": model.layout,
        "parameters": model.parameters * 1e9,
        "run_gb": model.run_gb if talks else None,
        "run_4bit_gb": model.run_4bit_gb if talks else None,
        "train_gb": model.train_gb if talks else None,
        "on_disk": on_disk,
        "bytes_on_disk": cached.get(model.hub_id or "", 0),
        "obstacle": model.obstacle,
    }
