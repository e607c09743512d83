"""Images that do not show what an item's best response tells: small crops of its own, or another item's.

mDPO (arXiv 2406.11839) has the model prefer an answer beside the image that it is about to the same answer beside one
that shows little of it: by default a random crop of 0 to 20 % of the image. Its released code hides visual tokens in
place of that. SymMPO (arXiv 2506.11712) objects that two images have two normalisers, which do not cancel out, and
compares answers beside one image; its contrast is another level of an item, and needs nothing of this.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.records import PreferenceItem, SourceItem

if TYPE_CHECKING:
    from PIL.Image import Image

CROP, OTHER = "crop", "other"
LARGEST_CROP = 0.2
"""Share of an image's area."""


@dataclass(frozen=True, kw_only=True)
class OtherImages:
    """Chooses the images of the worse side, once for each item: an item has the same in every epoch and process.

    Attributes:
        kind: "crop", scaled up to the size of the whole; or "other": as many images of other items.
        pool: files to choose from, of all items that are trained on.
    """

    kind: str
    seed: int
    pool: tuple[str, ...]

    @classmethod
    def among(cls, items: Iterable[PreferenceItem | SourceItem], *, kind: str | None, seed: int) -> Self | None:
        """Return what chooses among the images of these items, None where no image pairs are wanted.

        Raises:
            AmpError: no item has an image; or all have the same, and others are wanted.
        """
        if kind is None:
            return None
        shown = [item.images for item in items if item.images]
        pool = tuple(dict.fromkeys(name for names in shown for name in names))
        if not pool:
            raise AmpError("image_pairs needs items with images, and no item has one", hint="Leave out image_pairs")
        if kind == OTHER and any(set(names) == set(pool) for names in shown):
            raise AmpError(
                "image_pairs=other needs another image for each item, and an item shows all that there are",
                hint="Give --set image_pairs=crop",
            )
        return cls(kind=kind, seed=seed, pool=pool)

    def of(self, item: PreferenceItem | SourceItem, images: Sequence["Image"]) -> "list[Image]":
        """Return images for the worse side of an item; `images` are its own.

        Raises:
            AmpError: another item's image cannot be read.
        """
        drawn = random.Random(f"{self.seed} image pair {item.id}")
        if self.kind == CROP:
            return [_crop(image, drawn) for image in images]
        own = set(item.images)
        chosen: list[str] = []
        while len(chosen) < len(images):
            name = drawn.choice(self.pool)
            if name not in own:
                chosen.append(name)
        return [open_image(Path(name)) for name in chosen]


def _crop(image: "Image", drawn: random.Random) -> "Image":
    """Return a part of up to a fifth of the area, of the same shape, as large as the whole: as many tokens."""
    from PIL.Image import Resampling

    side = drawn.uniform(0.0, LARGEST_CROP) ** 0.5
    width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
    left, top = drawn.randint(0, image.width - width), drawn.randint(0, image.height - height)
    part = image.crop((left, top, left + width, top + height))
    return part.resize(image.size, Resampling.BICUBIC)
