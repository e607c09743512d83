"""Resolves a model or adapter name to a folder on this disk, fetching from the Hugging Face hub when allowed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from amp_cli.core.store import content_hash, read_json
from amp_cli.errors import AmpError

ALIASES = {"7b": "llava-hf/llava-1.5-7b-hf", "13b": "llava-hf/llava-1.5-13b-hf"}
TINY = Path(__file__).resolve().parent.parent / "world" / "tiny"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SAMPLED = 1 << 20
MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


def model_place(model: str) -> str:
    """Return what a MODEL argument means: the folder of `tiny`, the hub id behind a size alias, or `model` itself."""
    if model == "tiny":
        return str(TINY)
    return ALIASES.get(model, model)


def is_folder_name(name: str) -> bool:
    """Tell a path from a hub id (`owner/name`)."""
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") != 1


def fetch_file(repo: str, filename: str) -> Path:
    """Return a hub file's place on this disk, downloading it if need be.

    Raises:
        AmpError: no such repository or file, no network, or access refused.
    """
    from huggingface_hub import hf_hub_download

    return Path(_explained(lambda: hf_hub_download(repo, filename), repo))


def fetch_folder(repo: str, patterns: list[str] | None = None) -> Path:
    """Return a hub repository's folder on this disk, downloading what is missing (no pickles by default)."""
    from huggingface_hub import snapshot_download

    return Path(_explained(lambda: snapshot_download(repo, allow_patterns=patterns or MODEL_FILES), repo))


def _explained(download: Any, repo: str) -> str:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return str(download())
    except HFValidationError as error:
        raise AmpError(
            f"'{repo}' is neither a folder nor a hub id", hint="Give a folder that exists, owner/name, 7b, 13b or tiny"
        ) from error
    except GatedRepoError as error:
        raise AmpError(
            f"Access to '{repo}' is restricted", hint="Accept its terms on the hub and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise AmpError(
            f"The hub has no repository '{repo}' (or it is private)", hint="Check the name; set HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise AmpError(
            f"'{repo}' is not on this disk and the hub cannot be reached",
            hint="Check the network, or copy the model here and give its folder",
        ) from error
    except EntryNotFoundError as error:
        raise AmpError(f"'{repo}' on the hub lacks a file that is needed: {error}") from error
    except HfHubHTTPError as error:
        raise AmpError(f"The hub refused '{repo}': {error}") from error
    except OSError as error:
        raise AmpError(
            f"'{repo}' could not be fetched: {error}", hint="Run the same command again; it goes on"
        ) from error


def model_config(model: str) -> tuple[dict[str, Any], Path]:
    """Return a model's `config.json` and the folder it stands in (only that file is fetched from the hub)."""
    place = model_place(model)
    if is_folder_name(place):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise AmpError(
                f"No model folder at '{place}'",
                hint="Give a folder that exists, a hub id (owner/name), 7b, 13b or tiny",
            )
        path = folder / "config.json"
        if not path.is_file():
            raise AmpError(f"'{place}' is no model folder: it has no config.json")
    else:
        path = fetch_file(place, "config.json")
    config = read_json(path)
    if not isinstance(config, dict):
        raise AmpError(f"'{path}' is no model configuration")
    return config, path.parent


def refuse_unusable_model(model: str, config: dict[str, Any], folder: Path) -> None:
    """Refuse, before anything heavy, what cannot be loaded: other layouts, missing or unfinished weight files."""
    if "mm_vision_tower" in config or "mm_projector_type" in config:
        raise AmpError(
            f"'{model}' is in the original LLaVA layout, which this version cannot load yet",
            hint="Use the transformers layout of the same model, for example llava-hf/llava-1.5-7b-hf",
        )
    if not is_folder_name(model_place(model)):
        return
    present = [name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not present:
        raise AmpError(f"'{model}' has a config.json but no weights ({WEIGHT_FILES[0]})")
    for index in (name for name in present if name.endswith(".index.json")):
        missing = sorted(
            {part for part in read_json(folder / index)["weight_map"].values() if not (folder / part).is_file()}
        )
        if missing:
            raise AmpError(f"'{model}' is incomplete: '{index}' names '{missing[0]}', which is missing")


def folder_identity(folder: Path) -> str:
    """Return a fingerprint of a model or adapter folder.

    SHA-256 over names, sizes and contents; of files above 64 MB only the first and last MiB are read, for speed. The
    `run.json` that `amp merge-lora` leaves is not part of the model.
    """
    digest = hashlib.sha256()
    suffixes = (".json", ".safetensors", ".bin", ".model", ".jinja")
    for file in sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.name != "run.json"):
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
        return {"name": name, "hash": folder_identity(folder)}
    return {"name": name, "revision": folder.name}


def adapter_folder(adapter: str) -> Path:
    """Return the folder of `adapter_config.json`: `adapter` itself, the one in a run folder, or from the hub."""
    if not is_folder_name(adapter):
        fetch_file(adapter, "adapter_config.json")
        return fetch_folder(adapter)
    folder = Path(adapter).expanduser()
    for place in (folder, folder / "adapter"):
        if (place / "adapter_config.json").is_file():
            if not any((place / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
                raise AmpError(f"The adapter '{place}' has no weights (adapter_model.safetensors)")
            return place
    raise AmpError(
        f"'{adapter}' holds no LoRA adapter (adapter_config.json)",
        hint="Give an adapter folder or a finished run of `amp train`",
    )


def adapter_base(folder: Path) -> str:
    """Return the base model that an adapter folder names ('' when it names none)."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise AmpError(f"'{folder / 'adapter_config.json'}' is no valid JSON") from error
    return str(config.get("base_model_name_or_path") or "")
