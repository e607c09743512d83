"""Writes a model's weights file by file, so that never more than one file's tensors are in memory."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from amp_cli.core.store import disk_errors_explained, write_json

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


def _own_memory(part: dict[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield the tensors; of those that share their memory (tied weights) all but the first are copied."""
    seen: set[int] = set()
    for name, tensor in part.items():
        place = tensor.data_ptr()
        yield name, tensor.clone() if place in seen else tensor
        seen.add(place)
