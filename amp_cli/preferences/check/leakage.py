"""Finds images that are also in a benchmark: by their content, and by how they look."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli import ui
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.models.images import check_image, find_image, open_image
from amp_cli.records import PreferenceItem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Thumbnail = NDArray[np.int16]


SIDE = 32
KEPT = 8
THUMBNAIL = 16


@dataclass(frozen=True, kw_only=True)
class Look:
    """A file's SHA-256, its image's perceptual hash (64 bits) and its (16, 16, 3) thumbnail.

    The hash says for each of the 64 lowest frequencies of the image in grey whether it is above their median.
    """

    content: str
    hash: int
    thumbnail: "Thumbnail"


def look_at(path: Path) -> Look:
    """Read an image's file and pixels.

    Raises:
        AmpError: what `open_image` refuses.
    """
    import numpy as np
    from PIL import Image

    with open_image(path) as image:
        small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        return Look(
            content=content_hash(path),
            hash=perceptual_hash(image),
            thumbnail=np.asarray(small, dtype=np.int16),
        )


def perceptual_hash(image: "Image") -> int:
    """Return as one number the signs of the 64 lowest frequencies (cosine transform of 32 x 32 grey pixels)."""
    import numpy as np
    from PIL import Image
    from scipy.fft import dctn

    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:KEPT, :KEPT].ravel()  # (64,)
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MOST_BITS = 8
"""Perceptual hashes (64 bits) that differ in more are of different images."""
MOST_DIFFERENCE = 8.0
"""Thumbnails whose pixels differ by more on average (of 255) are of different images, whatever their hashes say."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A benchmark's image that is the same file (`how` "content") or looks the same ("perceptual")."""

    image: str
    how: str
    bits: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"benchmark": self.image, "how": self.how, "bits": self.bits}


class BenchmarkImages:
    """The images below some folders, by content and by look."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read every image; what cannot be read is counted in `unreadable`.

        Raises:
            AmpError: a folder is not there or holds no image.
        """
        import numpy as np

        files = [file for folder in folders for file in _images_below(folder)]
        self.unreadable = 0
        self._by_content: dict[str, str] = {}
        self._names: list[str] = []
        looks: list[Look] = []
        with (
            ui.progress("Benchmark images", len(files), unit="images") as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for file, look in zip(files, pool.map(_look_or_none, files), strict=True):
                advance()
                if look is None:
                    self.unreadable += 1
                elif look.content not in self._by_content:
                    self._by_content[look.content] = str(file)
                    self._names.append(str(file))
                    looks.append(look)
        self._hashes = np.array([look.hash for look in looks], dtype=np.uint64)  # (images,)
        self._thumbnails = np.array([look.thumbnail for look in looks], dtype=np.int16)  # (images, 16, 16, 3)

    def __len__(self) -> int:
        return len(self._names)

    def match(self, look: Look) -> Match | None:
        """Return the benchmark's image that this one is a copy of: the same bytes, else the most alike."""
        import numpy as np

        if look.content in self._by_content:
            return Match(image=self._by_content[look.content], how="content")
        bits = np.bitwise_count(self._hashes ^ np.uint64(look.hash))  # (images,)
        near = np.flatnonzero(bits <= MOST_BITS)
        if not near.size:
            return None
        differences = np.abs(self._thumbnails[near] - look.thumbnail).mean(axis=(1, 2, 3))  # (near,)
        closest = int(differences.argmin())
        if differences[closest] > MOST_DIFFERENCE:
            return None
        return Match(image=self._names[near[closest]], how="perceptual", bits=int(bits[near[closest]]))


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise AmpError(f"No benchmark folder at '{folder}'", hint="Give --benchmark a folder with images")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    if not files:
        raise AmpError(f"No image below '{folder}'", hint="Give --benchmark a folder with images, unpacked")
    return files


def _look_or_none(file: Path) -> Look | None:
    try:
        return look_at(file)
    except AmpError:
        return None


AHEAD = 256
"""Items that are under way at once."""


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """One image of an item: why it cannot be used, or the benchmark's image that it copies."""

    name: str
    problem: str | None = None
    match: Match | None = None


Seen = tuple[PreferenceItem | LeftOut, tuple[CheckedImage, ...]]


def with_images(
    items: Iterable[PreferenceItem | LeftOut], root: Path, benchmark: BenchmarkImages | None
) -> Iterator[Seen]:
    """Yield each entry with what its images are like."""
    known: dict[str, CheckedImage | Future[CheckedImage]] = {}
    waiting: deque[PreferenceItem | LeftOut] = deque()

    def finished(item: PreferenceItem | LeftOut) -> Seen:
        names = () if isinstance(item, LeftOut) else item.images
        for name in names:
            image = known[name]
            if isinstance(image, Future):
                known[name] = image.result()
        return item, tuple(image for name in names if isinstance(image := known[name], CheckedImage))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            for name in () if isinstance(item, LeftOut) else item.images:
                if name not in known:
                    known[name] = pool.submit(_examine, name, root, benchmark)
            waiting.append(item)
            if len(waiting) >= AHEAD:
                yield finished(waiting.popleft())
        while waiting:
            yield finished(waiting.popleft())


def _examine(name: str, root: Path, benchmark: BenchmarkImages | None) -> CheckedImage:
    try:
        path = find_image(name, root)
        if benchmark is None:
            check_image(path)
            return CheckedImage(name=name)
        return CheckedImage(name=name, match=benchmark.match(look_at(path)))
    except AmpError as error:
        return CheckedImage(name=name, problem=error.message)
