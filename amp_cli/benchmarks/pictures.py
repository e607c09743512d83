"""Finds the pictures that a benchmark's files name, and checks them before a model is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path

from amp_cli.core.images import check_image, find_image
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem

COCO_PREFIX = "COCO_val2014_"


def picture_folder(items: Sequence[BenchmarkItem], data: Path, image_root: Path | None) -> Path:
    """Return the folder that the items' image paths start from.

    That is `image_root` if given, else `data`, or the first folder up to two levels below (`val2014`, `images`) that
    holds one of the first few pictures.
    """
    root = image_root or (data.parent if data.is_file() else data)
    if not root.is_dir():
        raise AmpError(f"There is no folder '{root}'", hint="Give --image-root, the folder that image paths start from")
    folders = [root, *sorted(folder for pattern in ("*", "*/*") for folder in root.glob(pattern) if folder.is_dir())]
    return next((folder for folder in folders if holds_pictures(folder, items)), root)


def holds_pictures(folder: Path, items: Sequence[BenchmarkItem]) -> bool:
    """Return whether a folder holds one of the first few pictures."""
    names = (name for item in items[:20] for name in item.images)
    return any((folder / spelling).is_file() for name in names for spelling in _spellings(name))


def _spellings(name: str) -> tuple[str, str]:
    """Return a picture's name, and the same with or without COCO's prefix: distributions differ in it."""
    path = Path(name)
    bare = path.name.removeprefix(COCO_PREFIX)
    return name, str(path.with_name(bare if bare != path.name else COCO_PREFIX + path.name))


def check_pictures(
    items: Sequence[BenchmarkItem], folder: Path, *, on_reject: Callable[[str, str], None], advance: Callable[[], None]
) -> dict[str, tuple[Path, ...]]:
    """Return id -> picture files of the items whose pictures can all be opened; others are rejected with the reason."""
    usable: dict[str, tuple[Path, ...]] = {}
    checked: dict[str, Path | AmpError] = {}
    for item in items:
        for name in item.images:
            if name not in checked:
                checked[name] = _checked(name, folder)
        found = [checked[name] for name in item.images]
        fault = next((one for one in found if isinstance(one, AmpError)), None)
        if fault:
            on_reject(item.id, fault.message)
        else:
            usable[item.id] = tuple(one for one in found if isinstance(one, Path))
        advance()
    return usable


def picture_file(name: str, folder: Path) -> Path:
    """Return a picture's file, whichever way its name is spelled there.

    Raises:
        AmpError: there is none.
    """
    return find_image(next((one for one in _spellings(name) if (folder / one).is_file()), name), folder)


def _checked(name: str, folder: Path) -> Path | AmpError:
    try:
        path = picture_file(name, folder)
        check_image(path)
    except AmpError as fault:
        return fault
    return path
