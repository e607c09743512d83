"""Makes the small pictures of a page, several at once, each file one time only."""

import base64
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from amp_cli import ui
from amp_cli.core.images import open_image
from amp_cli.errors import AmpError

JPEG_QUALITY = 80


def make_thumbnails(paths: Iterable[Path], side: int) -> dict[Path, str | AmpError]:
    """Return of each file a JPEG of at most `side` x `side` pixels as base64 text, or why there is none.

    Pillow decodes and scales outside Python's lock, so threads are enough.
    """
    different = list(dict.fromkeys(paths))

    def make(path: Path) -> str | AmpError:
        try:
            return _thumbnail(path, side)
        except AmpError as error:
            return error

    made: dict[Path, str | AmpError] = {}
    with (
        ui.progress("Thumbnails", len(different), unit="pictures") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            for path, thumbnail in zip(different, pool.map(make, different), strict=True):
                made[path] = thumbnail
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return made


def _thumbnail(path: Path, side: int) -> str:
    with open_image(path) as image:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
