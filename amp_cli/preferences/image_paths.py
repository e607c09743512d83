"""Where the images of a preference source lie, how a file elsewhere names them, and which of them may be published."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from amp_cli.disk.parsing import read_json
from amp_cli.disk.replacing import NAME, is_ours
from amp_cli.errors import AmpError
from amp_cli.models.images import find_image, lies_below
from amp_cli.records import PreferenceItem


def image_root(source: str, image_root: Path | None) -> Path:
    """Return the folder that an item's relative image paths start from."""
    if image_root is not None:
        return image_root
    path = Path(source)
    return path if path.is_dir() else path.parent


def find_images(item: PreferenceItem, root: Path) -> tuple[Path, ...]:
    """Return the absolute places of an item's images.

    Raises:
        AmpError: an image is not there.
    """
    return tuple(find_image(name, root).resolve() for name in item.images)


def refuse_unnamed_folders(images: Collection[Path], folders: Collection[Path]) -> None:
    """Refuse to publish an image from a folder that the user did not name: a foreign file may name any place.

    Args:
        folders: what `publishable_folders` returns.

    Raises:
        AmpError: naming the first such image.
    """
    for image in images:
        if not lies_below(image, folders):
            raise AmpError(
                f"the image '{image}' lies outside the data's folder, so it is not published",
                hint="If it is yours to publish, name a folder above it with --image-root",
            )


def publishable_folders(source: str, image_root: Path | None) -> tuple[Path, ...]:
    """Return where images that are to be published may lie.

    That is below `image_root`, below the data's own folder, and, where the data are a result of ours, below the folders
    that those were made from.
    """
    return tuple({*([] if image_root is None else [image_root]), *_folders_behind(Path(source), set())})


def _folders_behind(source: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the folder of a source, and what the run that made it was given."""
    folder = (source if source.is_dir() else source.parent).resolve()
    if folder in seen:
        return
    seen.add(folder)
    yield folder
    facts = read_json(folder / NAME) if (folder / NAME).is_file() else None
    if facts is None or not is_ours(facts):
        return
    settings: dict[str, Any] = facts["settings"]
    if root := settings.get("image_root"):
        yield Path(root)
    mixed = [one["source"] for one in settings.get("sources", ())]
    for name in (settings.get("data"), settings.get("source"), *mixed):
        if name and Path(name).exists():
            yield from _folders_behind(Path(name), seen)


def name_from(folder: Path, image: Path) -> str:
    """Return the path from `folder` of an image below it, so that both can be moved; else the whole path."""
    below = folder.resolve()
    return image.relative_to(below).as_posix() if image.is_relative_to(below) else str(image)
