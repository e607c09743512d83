"""Resolves a model or adapter name to a folder on this disk, fetching from the Hugging Face hub when allowed."""

import hashlib
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.data_files import refuse_special_file
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.parsing import read_object
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run
from amp_cli.downloads.hub_files import PICKLES, SAFE, SMALL, explained
from amp_cli.downloads.zoo import find_model
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import ADAPTER_STEMS, weight_files
from amp_cli.models.llava.settings import refuse_other_models
from amp_cli.models.packages import refuse_missing_package
from amp_cli.models.spec import ModelSpec

TINY = Path(__file__).resolve().parent.parent / "world" / "tiny"
SAMPLED = 1 << 20


def model_place(model: str) -> str:
    """Return what a MODEL argument means: the folder of `tiny`, the hub id behind an alias, or `model` itself."""
    if model == "tiny":
        return str(TINY)
    known = None if Path(model).is_dir() else find_model(model)
    return (known.hub_id if known else None) or model


def whole_place(model: str) -> str:
    """Return what a MODEL argument means as the same text however it is spelled: a whole path, or a hub id."""
    place = model_place(model)
    return str(Path(place).expanduser().resolve()) if is_folder_name(place) else place


def model_and_adapter(model: str, adapter: str | None) -> tuple[str, str | None]:
    """Split a name that means base and adapter together, such as `amp-meg-7b`.

    Raises:
        AmpError: it brings its adapter and another one is given.
    """
    known = None if Path(model).is_dir() else find_model(model)
    if known is None or known.base is None or known.hub_id is None:
        return model, adapter
    if adapter is not None:
        raise AmpError(
            f"'{model}' is itself an adapter, so it cannot be combined with --adapter '{adapter}'",
            hint=f"Give --model {known.base} --adapter {adapter}",
        )
    return known.base, known.hub_id


def is_folder_name(name: str) -> bool:
    """Tell a path from a hub id (`owner/name`)."""
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") != 1


def fetch_file(repo: str, filename: str) -> Path:
    """Return a hub file's place on this disk, downloading it if need be.

    Raises:
        AmpError: no such repository or file, no network, or access refused.
    """
    from huggingface_hub import hf_hub_download

    return Path(explained(lambda: hf_hub_download(repo, filename), repo))


def fetch_folder(repo: str) -> Path:
    """Return a hub repository's folder on this disk, downloading what is missing: pickles only without safetensors."""
    from huggingface_hub import snapshot_download

    folder = Path(explained(lambda: snapshot_download(repo, allow_patterns=[*SMALL, *SAFE]), repo))
    if any(folder.glob("*.safetensors")):
        return folder
    return Path(explained(lambda: snapshot_download(repo, allow_patterns=[*SMALL, *PICKLES]), repo))


def model_config(model: str) -> tuple[dict[str, Any], Path]:
    """Return a model's `config.json` and the folder it stands in (only that file is fetched from the hub)."""
    place = model_place(model)
    if is_folder_name(place):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise AmpError(
                f"There is no model folder '{place}'",
                hint="Give a folder that exists, a hub id (owner/name), or a name that `amp models` lists",
            )
        path = folder / "config.json"
        if any((at / "adapter_config.json").is_file() for at in (folder, folder / "adapter")) and not path.is_file():
            raise AmpError(
                f"'{place}' is a LoRA adapter, not a model",
                hint=f"Give --model BASE --adapter {place}, or merge it first",
            )
        if not path.is_file():
            raise AmpError(
                f"'{place}' is not a model folder: it has no config.json",
                hint="Give a folder with config.json, a hub id (owner/name), or a name that `amp models` lists",
            )
    else:
        path = fetch_file(place, "config.json")
    return read_object(path), path.parent


def refuse_unusable_model(model: str, folder: Path) -> None:
    """Refuse a local folder whose weight files are missing, named but not there, or cut off."""
    if is_folder_name(model_place(model)):
        weight_files(folder)


def local_folder(model: str) -> Path:
    """Return a model's folder on this disk, fetched from the hub where it is not there."""
    place = model_place(model)
    return Path(place).expanduser() if is_folder_name(place) else fetch_folder(place)


def folder_of_small_files(model: str) -> Path:
    """Return a model's folder where configuration, tokenizer and processor are; its weights need not be there."""
    from huggingface_hub import snapshot_download

    model_config(model)
    place = model_place(model)
    if is_folder_name(place):
        return Path(place).expanduser()
    return Path(explained(lambda: snapshot_download(place, allow_patterns=[*SMALL]), place))


def check_model(spec: ModelSpec) -> dict[str, Any]:
    """Refuse, without loading weights, a model or adapter that cannot be used; return their identity."""
    base, adapter = model_and_adapter(spec.model, spec.adapter)
    config, folder = model_config(base)
    refuse_other_models(base, config)
    refuse_missing_package(base, config)
    refuse_unusable_model(base, folder)
    identity: dict[str, Any] = {"model": {**identity_of(base, folder), "name": spec.model}}
    if adapter is not None:
        identity["adapter"] = identity_of(adapter, adapter_folder(adapter))
    if spec.vision_tower is not None:
        _, tower = model_config(spec.vision_tower)
        identity["vision_tower"] = identity_of(spec.vision_tower, tower)
    return identity


def folder_identity(folder: Path) -> str:
    """Return a fingerprint of a model or adapter folder.

    SHA-256 over names, sizes and contents; of files above 64 MB only the first and last MiB are read, for speed. The
    `run.json` that `amp merge-lora` leaves is not part of the model.
    """
    digest = hashlib.sha256()
    suffixes = (".json", ".safetensors", ".bin", ".model", ".jinja")
    for file in sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.name != "run.json" and not p.is_dir()):
        refuse_special_file(file)
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        if size <= 64 << 20:
            digest.update(content_hash(file).encode())
        else:
            with file.open("rb") as stream:
                digest.update(stream.read(SAMPLED))
                stream.seek(-SAMPLED, 2)
                digest.update(stream.read(SAMPLED))
    return digest.hexdigest()


def identity_of(name: str, folder: Path) -> dict[str, str]:
    """Return what `run.json` says of a model or adapter: its name, and revision (hub) or fingerprint (folder)."""
    if is_folder_name(model_place(name)):
        with ui.busy(f"Looking at the files of '{name}'"):
            return {"name": name, "hash": folder_identity(folder)}
    return {"name": name, "revision": folder.name}


def adapter_folder(adapter: str) -> Path:
    """Return the folder of `adapter_config.json`: `adapter` itself, the one in a run folder, or from the hub."""
    source = model_place(adapter)
    if not is_folder_name(source):
        fetch_file(source, "adapter_config.json")
        return fetch_folder(source)
    folder = Path(source).expanduser()
    for place in (folder, folder / "adapter"):
        if (place / "adapter_config.json").is_file():
            weight_files(place, ADAPTER_STEMS)
            return place
    raise AmpError(
        f"'{adapter}' does not hold a LoRA adapter (adapter_config.json)",
        hint="Give an adapter folder or a finished run of `amp train`",
    )


def training_run_of(adapter: Path) -> Run | None:
    """Return the run of `amp train` that an adapter's folder lies in; None where it lies in none."""
    if not (adapter.parent / NAME).is_file():
        return None
    run = Run.read(adapter.parent)
    return run if run.facts.get("command") == "train" else None


def recorded_base(adapter: Path) -> str:
    """Return the base that the run around an adapter names, or else the adapter's own configuration; '' for none."""
    run = training_run_of(adapter)
    return str(run.settings["base"] if run else adapter_base(adapter))


def places_of(*names: str | None) -> list[Path]:
    """Return where models and adapters of these names lie as folders on this disk; None is one that is not given."""
    places = [Path(model_place(name)).expanduser() for name in names if name]
    return [place for place in places if place.exists()]


def adapter_base(folder: Path) -> str:
    """Return the base model that an adapter folder names ('' when it names none).

    A folder is looked for beside the adapter too: checkpoints often travel as sisters.
    """
    base = str(read_object(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    beside = folder.parent / base
    return str(beside) if base and not Path(base).exists() and (beside / "config.json").is_file() else base
