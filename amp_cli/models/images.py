"""Finds and opens images the way models need them (upright RGB), and refuses those that cannot be used.

Nothing else in the package opens an image file: formats, limits and faults are decided here.
"""

import io
import os
import random
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from amp_cli import ui
from amp_cli.dialogues.named_images import checked_name
from amp_cli.disk.jsonl import content_hash
from amp_cli.errors import AmpError, RecordError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL.Image import Image


MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: 100 megapixels take 300 MB as RGB."""

AGAIN = "Copy or fetch it again, or save it as PNG or JPEG"
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The only decoders of Pillow that a file may choose, whatever it is called: others start programs, as EPS does."""

BROWSER_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
"""Formats (as Pillow calls them) that a server can be sent as they are."""


def image_place(name: str, root: Path) -> Path:
    """Return the absolute place that `name` means below `root`, links followed; an absolute `name` means itself.

    This is the one rule of all readers. It need not be there.

    Raises:
        AmpError: a relative path that leaves `root`, in its text or through a link.
    """
    base = _followed_folder(str(root if root.is_absolute() else Path.cwd() / root))
    named = name.replace("/", os.sep)
    is_whole = os.path.isabs(named)  # noqa: PTH117 (this runs for every record of millions)
    place = _followed_file(named if is_whole else f"{base}{os.sep}{named}")
    if is_whole:
        return Path(place)
    if not _is_below(place, base) and not _is_blob_of(place, base):
        raise AmpError(f"The image path '{name}' leaves the folder '{root}'", hint="Give --image-root")
    return Path(place)


def find_image(name: str, root: Path) -> Path:
    """Return the file that `name` means below `root` (an absolute `name` means itself).

    Raises:
        AmpError: no such file, a name that no file can have, or a relative path that leaves `root`.
    """
    place = image_place(checked_name(name), root)
    if not place.is_file():
        raise AmpError(f"No image at '{root / name}'", hint="Give --image-root, the folder that image paths start from")
    return root / name


def lies_below(image: Path, folders: "Iterable[Path]") -> bool:
    """Tell whether a file lies below one of the folders, links followed."""
    place = _followed(image)
    return any(_is_below(place, _followed(folder)) for folder in folders)


def _followed_file(path: str) -> str:
    """Follow the links of a path whose folder was likely met before: importers ask for millions."""
    folder, _, last = path.rpartition(os.sep)
    if last in ("", ".", ".."):
        return _followed(path)
    place = f"{_followed_folder(folder or os.sep).rstrip(os.sep)}{os.sep}{last}"
    return _followed(place) if "\0" in path or os.path.islink(place) else place  # noqa: PTH114


@lru_cache(maxsize=1024)
def _followed_folder(folder: str) -> str:
    return _followed(folder)


def _followed(path: Path | str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError as error:  # a zero byte
        raise RecordError(f"The image path {str(path)!r:.200} cannot be a path: {error}") from error


def _is_below(place: str, folder: str) -> bool:
    place, folder = os.path.normcase(place), os.path.normcase(folder)  # alike but for the case under Windows
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _is_blob_of(place: str, folder: str) -> bool:
    """Tell whether a file is one of the hub's cache that `folder` is a snapshot of: its files are links to blobs."""
    repository, snapshots, _ = folder.partition(f"{os.sep}snapshots{os.sep}")
    return bool(snapshots) and _is_below(place, f"{repository}{os.sep}blobs")


def open_image(path: Path) -> "Image":
    """Return the image as upright RGB, fully decoded.

    Alpha is dropped, not blended (as LLaVA's own code does); EXIF rotation is applied; 16-bit grey is scaled to 8 bit.

    Raises:
        AmpError: empty, truncated, no image, in none of `FORMATS`, animated, or more than `MAX_PIXELS` pixels.
    """
    return _decoded(path, path)[0]


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's (width, height) from its header; refuse what the header shows to be unusable.

    Raises:
        AmpError: empty, no image, animated, too large, or floating-point.
    """
    with _header(path, path) as image:
        return image.size


ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""The last bytes of a whole file, by format as Pillow calls it."""


def look_at_image(path: Path) -> None:
    """Refuse what `open_image` would refuse, without decoding a file whose header and end are in order.

    An image that is damaged in between shows only when it is opened.
    """
    with _header(path, path) as image:
        is_deep = image.mode.startswith(("I", "F"))  # its pixels say whether it can be used
        end = None if is_deep else ENDS.get(image.format or "")
    if end is None or not _ends_with(path, end):
        check_image(path)


def _ends_with(path: Path, end: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(-min(len(end), path.stat().st_size), 2)
        return file.read() == end


def check_image(path: Path) -> None:
    """Refuse what `open_image` would refuse."""
    open_image(path).close()


def image_content(path: Path) -> tuple[bytes, str]:
    """Return a file's bytes and its format as Pillow calls it, of what has been decoded whole: to be copied or sent.

    Raises:
        AmpError: what `open_image` would refuse; so nothing but an image is ever copied or sent.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AmpError(
            f"The image '{path}' cannot be read: {error.strerror}",
            hint=AGAIN,
        ) from error
    image, kind = _decoded(io.BytesIO(content), path)
    image.close()
    return content, kind


def image_data_url(path: Path) -> str:
    """Return an image as a `data:` URL: its file as it is where browsers know the format, else as PNG.

    Raises:
        AmpError: what `open_image` would refuse.
    """
    import base64

    content, kind = image_content(path)
    if kind not in BROWSER_FORMATS:
        kind, file = "PNG", io.BytesIO()
        open_image(path).save(file, format=kind)
        content = file.getvalue()
    return f"data:{BROWSER_FORMATS[kind]};base64,{base64.b64encode(content).decode('ascii')}"


_FAULTS = (
    *(OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError),
    *(EOFError, MemoryError, struct.error, zlib.error),
)
"""What Pillow's decoders raise on damaged files."""


def _decoded(source: "Path | io.BytesIO", path: Path) -> "tuple[Image, str]":
    """Return upright RGB and the file's format; `path` is how the image is called in errors."""
    from PIL import ImageOps

    with _header(source, path) as image:
        kind = image.format or ""
        image.load()
        if image.mode.startswith(("I", "F")):
            return _from_deep(image, path), kind
        upright: Image = ImageOps.exif_transpose(image)
        return upright.convert("RGB"), kind


@contextmanager
def _header(source: "Path | io.BytesIO", path: Path) -> "Iterator[Image]":
    """Open an image for a block that reads of it what it needs; whatever is wrong with it is a sentence."""
    size = source.stat().st_size if isinstance(source, Path) else len(source.getvalue())
    if size == 0:
        raise AmpError(f"The image '{path}' is empty (0 bytes)", hint="Copy or fetch it again")
    try:
        with _opened(source, path) as image:
            _refuse_unusable(image, path)
            yield image
    except _FAULTS as error:
        raise AmpError(
            f"The image '{path}' cannot be read: {str(error) or type(error).__name__}",
            hint=AGAIN,
        ) from error


def _opened(source: "Path | io.BytesIO", path: Path) -> "Image":
    """Open a file's header, in a format of ours; the size is checked by us before the pixels are decoded."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(source, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise AmpError(
                f"The image '{path}' is too large to open safely: {error}",
                hint="Scale it down first; models see a few hundred pixels a side",
            ) from error
        except UnidentifiedImageError as error:
            raise AmpError(
                f"The image '{path}' cannot be read: it is none of {', '.join(FORMATS)}",
                hint="Save it as PNG or JPEG",
            ) from error


def _refuse_unusable(image: "Image", path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise AmpError(
            f"The image '{path}' is too large: {image.width} x {image.height} pixels, the limit is {MAX_PIXELS:,}",
            hint="Scale it down first; models see a few hundred pixels a side",
        )
    frames = getattr(image, "n_frames", 1)  # only multi-frame formats have the attribute
    if frames > 1:
        raise AmpError(f"The image '{path}' is animated ({frames} frames)", hint="Save the frame you mean as PNG")


def _from_deep(image: "Image", path: Path) -> "Image":
    """Scale 16-bit grey to 8 bit; other deep formats have no agreed range and are refused."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith("I"):
        raise AmpError(f"The image '{path}' has floating-point pixels", hint="Save it as 8-bit PNG or JPEG")
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise AmpError(f"The image '{path}' has more than 16 bits a pixel", hint="Save it as 8-bit PNG or JPEG")
    return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")


def hold_out(images: Sequence[Sequence[Path]], share: float, seed: int) -> set[int]:
    """Return the numbers of the items that are held out: at most `share` of them, in whole groups.

    Items belong to one group if they share an image's content, directly or through other items. Groups are taken in
    random order as long as they fit; an item without an image is a group of its own.

    Args:
        images: the files of each item's images.
        share: of the items, between 0 and 1.
    """
    from scipy.cluster.hierarchy import DisjointSet

    contents = _contents({path for paths in images for path in paths})
    sets = DisjointSet(range(len(images)))
    first_with: dict[str, int] = {}
    for number, paths in enumerate(images):
        for path in paths:
            sets.merge(number, first_with.setdefault(contents[path], number))
    groups: dict[int, list[int]] = {}
    for number in range(len(images)):
        groups.setdefault(sets[number], []).append(number)
    inorder = list(groups.values())
    random.Random(f"{seed} held out").shuffle(inorder)
    wanted = round(share * len(images))
    held: set[int] = set()
    for group in inorder:
        if len(held) + len(group) <= wanted:
            held.update(group)
    return held


def _contents(paths: set[Path]) -> dict[Path, str]:
    """Return the hash of each file, read in parallel."""
    ordered = sorted(paths)
    with (
        ui.progress("Reading images", len(ordered), unit="images") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        contents = {}
        for path, content in zip(ordered, pool.map(content_hash, ordered), strict=True):
            contents[path] = content
            advance()
    return contents
