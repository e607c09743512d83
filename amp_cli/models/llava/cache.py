"""Keeps an original checkpoint's conversion on disk, where the user asks for it: the next load is a plain one."""

import hashlib
from pathlib import Path

from amp_cli import __version__
from amp_cli.disk.run import Run, part_of, put_in_place
from amp_cli.downloads.places import cache_folder
from amp_cli.models.llava.original import OriginalCheckpoint
from amp_cli.models.llava.to_hf import write_hf
from amp_cli.models.resolve import folder_identity


def converted_folder(checkpoint: OriginalCheckpoint) -> Path:
    """Return the folder of this very checkpoint's conversion, made on the first call."""
    tower = checkpoint.tower.folder
    parts = [folder_identity(checkpoint.folder), folder_identity(tower) if tower else "", str(checkpoint.config)]
    parts += [folder_identity(file.parent) for file in checkpoint.projector] + [__version__]
    folder = cache_folder() / "converted" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    if not folder.exists():
        part = part_of(folder)
        run = Run.start(part, command="convert", settings={"model": checkpoint.folder, "to": "hf"})
        run.finish("done", tensors=write_hf(checkpoint, part))
        put_in_place(part, folder)
    return folder
