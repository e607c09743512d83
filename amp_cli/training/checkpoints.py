"""Checkpoints that a kill cannot spoil: only one whose marker was written last is resumed from."""

import shutil
from pathlib import Path

from amp_cli.core.store import read_json, write_json

FOLDER = "checkpoints"
MARKER = "complete.json"


def mark_complete(checkpoint: Path, *, step: int, of: int) -> None:
    """Say that everything of a checkpoint is on disk."""
    files = {str(file.relative_to(checkpoint)): file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()}
    write_json(checkpoint / MARKER, {"step": step, "of": of, "files": files})


def last_complete(run_folder: Path) -> tuple[Path, int, int] | None:
    """Return the newest whole checkpoint, its step and the steps in all; None when there is none."""
    found = [(int(folder.name.rpartition("-")[2]), folder) for folder in _folders(run_folder) if _is_complete(folder)]
    if not found:
        return None
    step, folder = max(found)
    return folder, step, int(read_json(folder / MARKER)["of"])


def remove_incomplete(run_folder: Path) -> None:
    """Delete what a kill left half-written."""
    for folder in _folders(run_folder):
        if not _is_complete(folder):
            shutil.rmtree(folder)


def _folders(run_folder: Path) -> list[Path]:
    return [folder for folder in (run_folder / FOLDER).glob("checkpoint-*") if folder.is_dir()]


def _is_complete(checkpoint: Path) -> bool:
    if not (checkpoint / MARKER).is_file():
        return False
    files = read_json(checkpoint / MARKER)["files"]
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in files.items()
    )
