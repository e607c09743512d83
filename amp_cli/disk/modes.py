"""Who may read the files that libraries write: whoever may read our other files."""

import os
from functools import partial
from pathlib import Path

from amp_cli.disk.jsonl import disk_errors_explained


def share_weights(place: Path) -> None:
    """Give a safetensors file, or all of a folder, the mode that the umask says; they come for their owner alone.

    A server often runs as another user than the one who trained or merged.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    for file in [place] if place.is_file() else place.rglob("*.safetensors"):
        disk_errors_explained(partial(file.chmod, 0o666 & ~umask), file)
