"""Writes an original LLaVA checkpoint as a transformers folder, shard by shard, offline; no part of it is left out."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import stored_tensors, write_shards
from amp_cli.models.llava.names import HUB, NETWORK, is_buffer, projector_names, respell
from amp_cli.models.llava.original import (
    EMBEDDING,
    HEAD,
    TOWER,
    OriginalCheckpoint,
    generation_config_of,
    llava_config,
    processor_of,
    tensors_by_file,
)
from amp_cli.models.templates import chat_template_text


def refuse_gaps(folder: Path, config: LlavaConfig, stored: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse weights (name in any spelling, shape) that are not exactly those of the model, built without memory.

    Raises:
        AmpError: naming the first that is missing, too many, or of another shape.
    """
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {respell(name, NETWORK) or name: shape for name, shape in stored if not is_buffer(name)}
    if config.tie_word_embeddings:
        wanted.pop(f"{NETWORK.head}weight")
        found.pop(f"{NETWORK.head}weight", None)
    missing, surplus = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shaped = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for what, names in (
        ("lacks {} of the weights its configuration asks for", missing),
        ("has {} weights that its configuration has no place for", surplus),
        ("has {} weights whose shapes differ from its configuration", shaped),
    ):
        if names:
            raise AmpError(
                f"'{folder}' {what.format(len(names))}, first {_quoted(names)}",
                hint="The folder is incomplete or its files do not belong together. Download it again",
            )


def shapes_in(checkpoint: OriginalCheckpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every weight that a conversion of an original checkpoint will hold."""
    for name, place in checkpoint.stored.items():
        rows = checkpoint.rows if name in (EMBEDDING, HEAD) else place.shape[0]
        if not name.startswith(TOWER):
            yield name, (rows, *place.shape[1:])
    for name, place in stored_tensors(checkpoint.projector).items():
        yield projector_names(name, NETWORK) or name, place.shape
    outside = stored_tensors({file for file, _ in checkpoint.tower.tensors.values()})
    for name, (_, key) in checkpoint.tower.tensors.items():
        yield name, outside[key].shape


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3])


KEPT = "original"
"""Folder for the source's small files as they were: converting back restores them."""
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def write_hf(checkpoint: OriginalCheckpoint, out: Path, advance: Callable[[int], object] = lambda _: None) -> int:
    """Write the whole folder and return how many tensors it holds."""
    refuse_gaps(checkpoint.folder, llava_config(checkpoint), shapes_in(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    disk_errors_explained(lambda: _write_small_files(checkpoint, out), out)
    return write_shards(tensors_by_file(checkpoint, HUB), out, advance)


def _write_small_files(checkpoint: OriginalCheckpoint, out: Path) -> None:
    llava_config(checkpoint).save_pretrained(out)
    generation_config_of(checkpoint).save_pretrained(out)
    save_processor(processor_of(checkpoint, chat_template=chat_template_text("vicuna_v1")), out)
    keep_small_files(checkpoint.folder, checkpoint.config, out)


def save_processor(processor: Any, out: Path) -> None:
    """Write a processor with its tokenizer under a class name that transformers before 5.0 knows too."""
    processor.save_pretrained(out)
    tokenizer = read_plain_object(out / "tokenizer_config.json")
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        write_json(out / "tokenizer_config.json", {**tokenizer, "tokenizer_class": "PreTrainedTokenizerFast"})


def keep_small_files(folder: Path, config: dict[str, Any] | None, out: Path) -> None:
    """Keep beside a transformers model what the original layout would need again.

    Args:
        folder: where the model came from. config: the original's, None where it came in transformers' layout.
    """
    if (folder / "tokenizer.model").is_file():
        shutil.copyfile(folder / "tokenizer.model", out / "tokenizer.model")
    if (folder / KEPT).is_dir():
        shutil.copytree(folder / KEPT, out / KEPT)
        return
    if config is None:
        return
    write_json(out / KEPT / "config.json", config)
    for name in SMALL_FILES[1:]:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / KEPT / name)
