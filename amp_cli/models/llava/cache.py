"""Keeps an original checkpoint's conversion on disk, where the user asks for it: the next load is a plain one."""

import hashlib
import time
from pathlib import Path

from amp_cli import __version__
from amp_cli.disk.run import make_whole
from amp_cli.downloads.places import cache_folder
from amp_cli.errors import OccupiedError
from amp_cli.models.llava.original import OriginalCheckpoint
from amp_cli.models.llava.to_hf import write_hf
from amp_cli.models.resolve import folder_identity

PAUSE = 0.5
"""Seconds between two looks at a conversion that another process makes."""


def converted_folder(checkpoint: OriginalCheckpoint) -> Path:
    """Return the folder of this very checkpoint's conversion, made on the first call of any process."""
    tower = checkpoint.tower.folder
    parts = [folder_identity(checkpoint.folder), folder_identity(tower) if tower else "", str(checkpoint.config)]
    parts += [folder_identity(file.parent) for file in checkpoint.projector] + [__version__]
    folder = cache_folder() / "converted" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    while not folder.exists():
        try:
            make_whole(
                folder,
                command="convert",
                settings={"model": checkpoint.folder, "to": "hf"},
                identity={},
                write=lambda part: {"tensors": write_hf(checkpoint, part)},
                overwrite=False,
                inputs=(),
            )
        except OccupiedError:  # the processes of one run all want it; the lock goes with the one that makes it
            time.sleep(PAUSE)
    return folder
