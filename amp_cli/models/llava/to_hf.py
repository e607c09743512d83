"""Writes an original LLaVA checkpoint as a transformers folder, shard by shard, offline."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.models.llava.complete import refuse_gaps, shapes_in
from amp_cli.models.llava.files import write_shards
from amp_cli.models.llava.names import HUB
from amp_cli.models.llava.original import (
    OriginalCheckpoint,
    generation_config_of,
    llava_config,
    processor_of,
    tensors_by_file,
)
from amp_cli.models.templates import chat_template_text

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
