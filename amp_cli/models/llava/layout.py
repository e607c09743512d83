"""Tells in which layout a model folder is, by its weights' names and its configuration, never by what it is called."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amp_cli.models.llava.files import weight_files

ORIGINAL, TRANSFORMERS, LANGUAGE_MODEL = "llava", "hf", "language model"


def layout_of(folder: Path) -> str:
    """Return `llava` (original), `hf`, or `language model` (a plain Llama without vision) for a local model folder.

    Raises:
        AmpError: weights that are missing or cut off.
    """
    from amp_cli.models.llava.files import stored_tensors

    return layout_of_names(stored_tensors(weight_files(folder)))


def layout_of_names(names: Iterable[str]) -> str:
    """Decide by the weights' names: those of projector and tower differ between the layouts."""
    names = list(names)
    if any(".mm_projector." in f".{name}" or name.startswith("model.vision_tower.vision_tower.") for name in names):
        return ORIGINAL
    plain = any(name.startswith("model.layers.") for name in names)
    others = any(".language_model." in f".{name}" or ".visual." in f".{name}" or "vision" in name for name in names)
    return LANGUAGE_MODEL if plain and not others else TRANSFORMERS


def says_original(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is the original's, as far as it can be told before the weights are here."""
    return "mm_vision_tower" in config or "mm_projector_type" in config
