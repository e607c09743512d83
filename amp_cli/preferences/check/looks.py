"""What an image looks like in a few bytes, so that a re-encoded or resized copy is found again."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_cli.disk.jsonl import content_hash
from amp_cli.models.images import open_image

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
