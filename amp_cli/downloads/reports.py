"""What a download did, or would do: one record a file, one for each thing that was asked for."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Advance = Callable[[int], None]
"""Told how many more bytes have arrived."""

Progress = Callable[[str, int | None, int], AbstractContextManager[Advance]]
"""Opens a progress bar: label, bytes in all (None: not known), bytes that are there already."""

FETCHED, PRESENT, LISTED = "fetched", "already here", "listed"


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file.

    Attributes:
        file: its path below the download's folder. url: where it comes from.
        place: where it lies on this machine.
        expected: the checksum its owner states, as "sha256:...", "md5:...", "git:..."; None where there is none.
        sha256: measured here; None where it was not.
        verified: what was compared, in a few words; None before that.
        count: how many files this record stands for (the images of an archive).
    """

    file: str
    url: str
    place: Path
    bytes: int | None
    expected: str | None = None
    sha256: str | None = None
    verified: str | None = None
    state: str = LISTED
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "place": str(self.place)}


@dataclass(frozen=True, kw_only=True)
class Download:
    """Everything of one model or benchmark. `notes` are what the user has to know or do besides."""

    name: str
    kind: str
    source: str
    folder: Path
    files: tuple[FileReport, ...]
    revision: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "revision": self.revision,
            "folder": str(self.folder),
            "bytes": sum(file.bytes or 0 for file in self.files),
            "files": [file.to_json() for file in self.files],
            "notes": list(self.notes),
        }
