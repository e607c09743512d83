"""Finds a folder's weight files and refuses those that are missing or cut off; writes them tensor by tensor."""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.modes import share_weights
from amp_cli.disk.parsing import UnreadableError, parse_json, read_object
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    import torch

MODEL_STEMS = ("model.safetensors", "pytorch_model.bin")
ADAPTER_STEMS = ("adapter_model.safetensors", "adapter_model.bin")
LONGEST_HEADER = 100 << 20
"""Bytes; a safetensors header is never longer, a damaged file may claim anything."""
_PIECE = 32 << 20
"""Bytes that are written between two looks at the bar."""


@cache
def _precisions() -> "dict[str, torch.dtype]":
    """Return what safetensors calls number formats, in the order in which it lays tensors into a file."""
    import torch

    return {
        "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64, "F32": torch.float32,
        "U32": torch.uint32, "I32": torch.int32, "BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16,
        "I16": torch.int16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8,
        "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip


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
    dtype: "torch.dtype"


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return name -> place and shape of every tensor, reading headers only."""
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, shape, dtype in _outlines(file):
            found[name] = StoredTensor(file=file, shape=shape, dtype=dtype)
    return found


def _outlines(file: Path) -> "Iterator[tuple[str, tuple[int, ...], torch.dtype]]":
    if file.suffix == ".safetensors":
        precisions = _precisions()
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                outline = opened.get_slice(name)
                yield name, tuple(outline.get_shape()), precisions.get(outline.get_dtype(), precisions["U8"])
        return
    for name, tensor in _unpickled(file, device="meta").items():
        yield name, tuple(tensor.shape), tensor.dtype


def read_tensors(file: Path) -> "dict[str, torch.Tensor]":
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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise damaged(file, str(error)) from error


def _unpickled(file: Path, *, device: str) -> "dict[str, torch.Tensor]":
    """Read a pickle with PyTorch's restricted reader, which knows tensors and nothing else."""
    import torch

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
    parts: "Iterable[dict[str, torch.Tensor]]", out: Path, advance: Callable[[int], object] = lambda _: None
) -> int:
    """Write each part as one safetensors file, and the index; return how many tensors were written.

    Args:
        advance: told the bytes that are written, as they are.
    """
    written: list[tuple[Path, list[str]]] = []
    total = 0
    for part in parts:
        if not part:
            continue
        file = out / f"part-{len(written) + 1:05d}.safetensors"
        tensors = dict(_own_memory(part))
        del part
        save_tensors(tensors, file, advance)
        total += sum(map(bytes_of, tensors.values()))
        written.append((file, sorted(tensors)))
        tensors.clear()
    weight_map: dict[str, str] = {}
    for number, (file, names) in enumerate(written, start=1):
        named = file.with_name(f"model-{number:05d}-of-{len(written):05d}.safetensors")
        file.rename(named)
        weight_map |= dict.fromkeys(names, named.name)
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    return len(weight_map)


def bytes_of(tensor: "torch.Tensor") -> int:
    """Return how many bytes a tensor's numbers take."""
    return tensor.numel() * tensor.element_size()


def save_tensors(
    tensors: "dict[str, torch.Tensor]", file: Path, advance: Callable[[int], object] = lambda _: None
) -> None:
    """Write one safetensors file that transformers reads."""
    write_tensors(tensors, tensors.__getitem__, file, advance)


def write_tensors(
    outlines: "Mapping[str, torch.Tensor]",
    read: "Callable[[str], torch.Tensor]",
    file: Path,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Write one safetensors file with one tensor in memory at a time, which the library's own writer cannot.

    The bytes are those that it would write (format: huggingface/safetensors, README): the length of the header, the
    header with names, formats, shapes and places, then the tensors without a gap.

    Args:
        outlines: name -> anything of the tensor's format and shape, such as a tensor on the meta device.
        read: gives a tensor when its turn comes; neighbours by name and format come one after the other.
        advance: told the bytes that are written, as they are.
    """
    import torch

    formats = {precision: name for name, precision in _precisions().items()}
    order = list(_precisions().values())
    names = sorted(outlines, key=lambda name: (order.index(outlines[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        outline = outlines[name]
        start, end = end, end + bytes_of(outline)
        place = {"dtype": formats[outline.dtype], "shape": list(outline.shape), "data_offsets": [start, end]}
        header[name] = place
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write() -> None:
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                tensor = read(name)
                assert (tensor.dtype, tensor.shape) == (outlines[name].dtype, outlines[name].shape), name
                data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                for start in range(0, len(data), _PIECE):
                    stream.write(data[start : start + _PIECE])
                    advance(len(data[start : start + _PIECE]))

    disk_errors_explained(write, file)
    share_weights(file)


def _own_memory(part: "dict[str, torch.Tensor]") -> "Iterable[tuple[str, torch.Tensor]]":
    """Yield the tensors; of those that share their memory (tied weights) all but the first are copied."""
    seen: set[int] = set()
    for name, tensor in part.items():
        place = tensor.data_ptr()
        yield name, tensor.clone() if place in seen else tensor
        seen.add(place)
