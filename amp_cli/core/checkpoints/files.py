"""Finds a folder's weight files and refuses those that are missing or cut off, without reading a tensor."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from amp_cli.core.store import read_json
from amp_cli.errors import AmpError

MODEL_STEMS = ("model.safetensors", "pytorch_model.bin")
ADAPTER_STEMS = ("adapter_model.safetensors", "adapter_model.bin")
LONGEST_HEADER = 100 << 20
"""Bytes; a safetensors header is never longer, a damaged file may claim anything."""


def weight_files(folder: Path, stems: Iterable[str] = MODEL_STEMS) -> list[Path]:
    """Return a folder's weight files in order; safetensors win over pickles. Each is there and whole.

    Raises:
        AmpError: there are none, an index names a file that is missing, or a file is cut off.
    """
    tried = list(stems)
    for stem in tried:
        index = folder / f"{stem}.index.json"
        if (folder / stem).is_file():
            files = [folder / stem]
        elif index.is_file():
            files = _indexed(index)
        else:
            continue
        for file in files:
            refuse_unfinished(file)
        return files
    raise AmpError(f"'{folder}' has no weights ({' or '.join(tried)})")


def _indexed(index: Path) -> list[Path]:
    record = read_json(index)
    weight_map = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise AmpError(f"'{index}' is no index of weight files: it has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name for name in names):
        raise AmpError(f"'{index}' names files outside its folder")
    files = [index.parent / name for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise AmpError(
            f"'{index.parent}' is incomplete: '{index.name}' names '{missing.name}', which is missing",
            hint="Fetch the model again; `amp download` goes on where it stopped",
        )
    return files


def refuse_unfinished(file: Path) -> None:
    """Refuse a weight file that was cut off, reading no more than its first and last bytes."""
    size = file.stat().st_size
    if file.suffix == ".safetensors":
        whole = _safetensors_size(file, size)
        if whole is None or whole != size:
            expected = "its header cannot be read" if whole is None else f"it should have {whole:,}"
            raise damaged(file, f"it has {size:,} bytes, {expected}")
        return
    with file.open("rb") as stream:
        start = stream.read(2)
    if start == b"PK" and not zipfile.is_zipfile(file):
        raise damaged(file, f"it has {size:,} bytes and no end")
    if start not in (b"PK", b"\x80\x02"):
        raise damaged(file, "it is no PyTorch file")


def _safetensors_size(file: Path, size: int) -> int | None:
    """Return how many bytes the header says the file has."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(LONGEST_HEADER, size):
            return None
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + int(max(ends, default=0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def damaged(file: Path, what: str) -> AmpError:
    return AmpError(
        f"The weight file '{file}' is damaged: {what}",
        hint="Fetch it again; a download that broke off leaves such files",
    )
