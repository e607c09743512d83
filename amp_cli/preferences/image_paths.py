"""Where the images of a preference source lie, and how a file elsewhere names them."""

from pathlib import Path

from amp_cli.models.images import find_image
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


def name_from(folder: Path, image: Path) -> str:
    """Return the path from `folder` of an image below it, so that both can be moved; else the whole path."""
    below = folder.resolve()
    return image.relative_to(below).as_posix() if image.is_relative_to(below) else str(image)
