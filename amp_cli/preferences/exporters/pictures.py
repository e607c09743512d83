"""Where the pictures of a preference source lie, and how an export names them."""

import shutil
from pathlib import Path

from amp_cli.core.images import find_image
from amp_cli.core.store import content_hash, disk_errors_explained
from amp_cli.records import PreferenceItem

SHORT_HASH = 8


def picture_root(source: str, image_root: Path | None) -> Path:
    """Return the folder that an item's relative image paths start from."""
    if image_root is not None:
        return image_root
    path = Path(source)
    return path if path.is_dir() else path.parent


def find_pictures(item: PreferenceItem, root: Path) -> tuple[Path, ...]:
    """Return the absolute places of an item's pictures.

    Raises:
        AmpError: a picture is not there.
    """
    return tuple(find_image(name, root).resolve() for name in item.images)


def name_from(folder: Path, picture: Path) -> str:
    """Return the path from `folder` of a picture below it, so that both can be moved; else the whole path."""
    below = folder.resolve()
    return picture.relative_to(below).as_posix() if picture.is_relative_to(below) else str(picture)


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
