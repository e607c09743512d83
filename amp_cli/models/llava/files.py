"""Finds a folder's weight files and refuses those that are missing or cut off, without reading a tensor."""

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.modes import share_weights
from amp_cli.disk.parsing import UnreadableError, parse_json, read_object
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
    raise AmpError(
        f"'{folder}' has no weights ({' or '.join(tried)})",
        hint="Give the folder of a whole model; `amp download` fetches one",
    )


def _indexed(index: Path) -> list[Path]:
    weight_map = read_object(index, weight_map=dict)["weight_map"]
    if not weight_map:
        raise AmpError(f"'{index}' is not an index of weight files: its weight_map is empty", hint="Download it again")
    names = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name for name in names):
        raise AmpError(f"'{index}' names files outside its folder", hint="Download the model again")
    files = [index.parent / name for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise AmpError(
            f"'{index.parent}' is incomplete: '{index.name}' names '{missing.name}', which is missing",
            hint="Download the model again; `amp download` continues where it stopped",
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
        raise damaged(file, f"it has {size:,} bytes and is cut off")
    if start not in (b"PK", b"\x80\x02"):
        raise damaged(file, "it is not a PyTorch file")


def _safetensors_size(file: Path, size: int) -> int | None:
    """Return how many bytes the header says the file has."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(LONGEST_HEADER, size):
            return None
        try:
            header = parse_json(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + int(max(ends, default=0))
        except (UnreadableError, LookupError, ValueError, TypeError, AttributeError, OverflowError):
            return None


def damaged(file: Path, what: str) -> AmpError:
    return AmpError(
        f"The weight file '{file}' is damaged: {what}",
        hint="Download it again; an interrupted download leaves such files",
    )


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what it is like, known without reading it."""

    file: Path
    shape: tuple[int, ...]


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return name -> place and shape of every tensor, reading headers only."""
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, shape in _shapes(file):
            found[name] = StoredTensor(file=file, shape=shape)
    return found


def _shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    if file.suffix == ".safetensors":
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                yield name, tuple(opened.get_slice(name).get_shape())
        return
    for name, tensor in _unpickled(file, device="meta").items():
        yield name, tuple(tensor.shape)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return a file's tensors; they stay on disk (memory-mapped) until they are used.

    Raises:
        AmpError: the file is damaged, or a pickle that holds anything but tensors, which is never run.
    """
    if file.suffix != ".safetensors":
        return _unpickled(file, device="cpu")
    with _opened(file) as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise damaged(file, str(error)) from error


def _unpickled(file: Path, *, device: str) -> dict[str, torch.Tensor]:
    """Read a pickle with PyTorch's restricted reader, which knows tensors and nothing else."""
    try:
        content: Any = torch.load(file, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise damaged(file, str(error).splitlines()[0]) from error
        raise AmpError(
            f"'{file}' is a pickle that would run code; it was not loaded",
            hint="Ask its owner for a safetensors file, or for a file of plain tensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise damaged(file, (str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise AmpError(
            f"'{file}' is not a plain list of named tensors",
            hint="Give weights as safetensors, or as a pickle of named tensors only",
        )
    return content


INDEX = "model.safetensors.index.json"


def write_shards(
    parts: Iterable[dict[str, torch.Tensor]], out: Path, advance: Callable[[int], object] = lambda _: None
) -> int:
    """Write each part as one safetensors file, and the index; return how many tensors were written.

    Args:
        advance: told the bytes of each file that is on disk.
    """
    written: list[tuple[Path, list[str]]] = []
    total = 0
    for part in parts:
        if not part:
            continue
        file = out / f"part-{len(written) + 1:05d}.safetensors"
        tensors = dict(_own_memory(part))
        del part
        save_tensors(tensors, file)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        advance(size)
        total += size
        written.append((file, sorted(tensors)))
        tensors.clear()
    weight_map: dict[str, str] = {}
    for number, (file, names) in enumerate(written, start=1):
        named = file.with_name(f"model-{number:05d}-of-{len(written):05d}.safetensors")
        file.rename(named)
        weight_map |= dict.fromkeys(names, named.name)
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    return len(weight_map)


def save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write one safetensors file that transformers reads."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    disk_errors_explained(lambda: save_file(whole, file, {"format": "pt"}), file)
    share_weights(file)


def _own_memory(part: dict[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield the tensors; of those that share their memory (tied weights) all but the first are copied."""
    seen: set[int] = set()
    for name, tensor in part.items():
        place = tensor.data_ptr()
        yield name, tensor.clone() if place in seen else tensor
        seen.add(place)
