"""Reads tensors from weight files, safetensors or pickled, without running code from them."""

import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from amp_cli.core.checkpoints.files import damaged
from amp_cli.errors import AmpError


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
            f"'{file}' is a pickle that wants to run code; it was not run",
            hint="Ask its owner for a safetensors file, or for a file of plain tensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise damaged(file, (str(error) or type(error).__name__).splitlines()[0]) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise AmpError(f"'{file}' is no plain list of named tensors")
    return content
