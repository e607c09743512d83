"""Copies the pictures of an export, each content once."""

import shutil
from pathlib import Path

from amp_cli.core.store import content_hash, disk_errors_explained

SHORT_HASH = 8


class PictureCopies:
    """Copies pictures into `folder`, each content once, in subfolders that stay small enough for the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[Path, str] = {}
        self._by_content: dict[str, str] = {}

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self._by_content)

    def copy(self, picture: Path) -> str:
        """Return the copy's path from `folder`."""
        if picture not in self._names:
            content = content_hash(picture)
            if content not in self._by_content:
                self._by_content[content] = self._copied(picture, content)
            self._names[picture] = self._by_content[content]
        return self._names[picture]

    def _copied(self, picture: Path, content: str) -> str:
        name = f"images/{content[:2]}/{picture.stem}-{content[:SHORT_HASH]}{picture.suffix}"
        place = self.folder / name

        def write() -> None:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, place)

        disk_errors_explained(write, place)
        return name
