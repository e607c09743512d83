"""Names an item's images: paths as the data mean them, embedded ones by their content, written once."""

import os
from pathlib import Path

from amp_cli.dialogues.named_images import SourceImage
from amp_cli.disk.jsonl import disk_errors_explained
from amp_cli.errors import AmpError, RecordError
from amp_cli.models.images import image_content, image_place

FOLDER = "images"
HASH_DIGITS = 32
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def name_in_data(image: SourceImage, root: Path) -> str:
    """Return the path as the data have it; of several possible ones the first that exists, else the first."""
    if len(image.names) == 1:
        return image.names[0]
    return next((name for name in image.names if (root / name).is_file()), image.names[0])


class ImportedImages:
    """Gives the paths under which the items of `out` know their images, and writes embedded images there."""

    def __init__(self, part: Path, out: Path) -> None:
        """`part`: where the folder is made; `out`: what it will be called."""
        self._folder = part / FOLDER
        self._out = str(out.resolve())
        self.in_result: Path | None = None  # an image that an older result holds, and a new one would remove
        self.missing = 0
        self.written = 0

    def name(self, image: SourceImage, root: Path) -> str:
        """Return a path below the result folder where the image is there, else an absolute one.

        Raises:
            AmpError: an embedded image that is none, or a relative path that leaves `root`.
        """
        if image.content is not None:
            return self._written(image.content)
        path = str(image_place(name_in_data(image, root), root))
        self.missing += not os.path.isfile(path)  # noqa: PTH113 (this runs for every record of millions)
        if not _is_inside(path, self._out):
            return path
        self.in_result = self.in_result or Path(path)
        return path[len(self._out) :].lstrip(os.sep)

    def _written(self, content: bytes) -> str:
        import hashlib

        digest = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
        for suffix in SUFFIXES.values():
            if (self._folder / f"{digest}{suffix}").exists():
                return f"{FOLDER}/{digest}{suffix}"
        beside = self._folder / f"{digest}.part"

        def write() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)

        disk_errors_explained(write, beside)
        try:
            suffix = _checked_suffix(beside)
        except AmpError as error:
            beside.unlink()
            raise RecordError(error.message.replace(f"The image '{beside}'", "the image in the data")) from error
        beside.rename(self._folder / f"{digest}{suffix}")
        self.written += 1
        return f"{FOLDER}/{digest}{suffix}"


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _checked_suffix(path: Path) -> str:
    """Return the file suffix of an image's format.

    Raises:
        AmpError: it cannot be used, or is in a format that no path of ours says.
    """
    _, kind = image_content(path)
    if kind not in SUFFIXES:
        raise RecordError(f"the image in the data is {kind}; known: {', '.join(SUFFIXES)}")
    return SUFFIXES[kind]
