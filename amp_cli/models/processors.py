"""Loads a family's own processor for images and text; what it has for videos is kept on the disk, and left alone.

folder on the disk     tokenizer    image settings    video settings
                           |              |                 |
in memory              tokenizer    PIL's backend           -          no torchvision needed
                           |              |                 |
saved again            tokenizer    image settings    copied as they were
"""

import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.parsing import read_plain_object

VIDEO = "video_processor"
_OF_VIDEOS = "video_preprocessor_config.json"
_OF_ALL = "processor_config.json"


def load_processor(folder: Path, kind: str, *, trust_remote_code: bool) -> Any:
    """Load the processor of a model of type `kind` from its folder.

    Images go through the PIL backend where the family has one, whatever else is installed: it is what most of these
    models were trained with, and another backend gives other pixels. Videos are not prepared here at all.

    Raises:
        ImportError: the family has no backend that is installed.
    """
    named = PROCESSOR_MAPPING_NAMES.get(kind)
    if not isinstance(named, str):  # none, or one of several
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    own = getattr(transformers, named)
    if VIDEO not in own.get_attributes():
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code, backend="pil")
    settings, _ = own.get_processor_dict(folder)
    if trust_remote_code and "auto_map" in settings:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    settings.pop(VIDEO, None)
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"),
    }
    return for_images(own).from_args_and_dict([parts.get(name) for name in own.get_attributes()], settings)


@cache
def for_images(own: Any) -> Any:
    """Return a processor class as it is without its part for videos, which it is given as None."""

    def get_attributes(_cls: Any) -> list[str]:
        return [name for name in own.get_attributes() if name != VIDEO]

    members = {
        "get_attributes": classmethod(get_attributes),
        VIDEO: SimpleNamespace(num_frames=None, fps=None),  # SmolVLM asks for these, video or not
        "__module__": own.__module__,
        "__doc__": own.__doc__,
    }
    return type(own.__name__, (own,), members)


def keep_video_settings(folder: Path, out: Path) -> None:
    """Put a model's settings for videos beside the processor that was saved in `out`: others may want them."""
    if (folder / _OF_VIDEOS).is_file():
        shutil.copyfile(folder / _OF_VIDEOS, out / _OF_VIDEOS)
    stored = read_plain_object(folder / _OF_ALL) if (folder / _OF_ALL).is_file() else {}
    saved = read_plain_object(out / _OF_ALL)
    if VIDEO in stored and VIDEO not in saved:
        write_json(out / _OF_ALL, {**saved, VIDEO: stored[VIDEO]})
