"""Opens images the way models need them (upright RGB), and refuses those that cannot be used."""

from pathlib import Path
from typing import TYPE_CHECKING

from amp_cli.dialogues.named_images import checked_name
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: 100 megapixels take 300 MB as RGB."""

BROWSER_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
"""Formats (as Pillow calls them) that a server can be sent as they are."""


def find_image(name: str, root: Path) -> Path:
    """Return the file that `name` means below `root` (an absolute `name` means itself).

    Raises:
        AmpError: no such file, a name that no file can have, or a relative path that leaves `root`.
    """
    path = Path(checked_name(name))
    if not path.is_absolute():
        path = root / path
        try:
            leaves = not path.resolve().is_relative_to(root.resolve())
        except RuntimeError as error:  # so Python says it of a link
            raise AmpError(f"The image '{path}' is a link that leads back to itself", hint="Remove the link") from error
        if leaves:
            raise AmpError(f"The image path '{name}' leaves the folder '{root}'", hint="Give --image-root")
    if not path.is_file():
        raise AmpError(f"No image at '{path}'", hint="Give --image-root, the folder that image paths start from")
    return path


def open_image(path: Path) -> "Image":
    """Return the image as upright RGB, fully decoded.

    Alpha is dropped, not blended (as LLaVA's own code does); EXIF rotation is applied; 16-bit grey is scaled to 8 bit.

    Raises:
        AmpError: empty, truncated, no image, animated, or more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, ImageOps

    if path.stat().st_size == 0:
        raise AmpError(f"The image '{path}' is empty (0 bytes)", hint="Copy or fetch it again")
    try:
        with _opened(path) as image:
            _refuse_unusable(image, path)
            image.load()
            if image.mode.startswith(("I", "F")):
                return _from_deep(image, path)
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise AmpError(
            f"The image '{path}' cannot be read: {error}", hint="Copy or fetch it again, or save it as PNG or JPEG"
        ) from error


def check_image(path: Path) -> None:
    """Refuse what `open_image` would refuse."""
    open_image(path).close()


def image_data_url(path: Path) -> str:
    """Return an image as a `data:` URL: its file as it is where browsers know the format, else as PNG.

    Raises:
        AmpError: what `open_image` would refuse.
    """
    import base64
    import io

    with open_image(path) as decoded:  # decodes all of it: half an image would be sent as well as a whole one
        with _opened(path) as image:
            kind = image.format or ""
        if kind in BROWSER_FORMATS:
            content = path.read_bytes()
        else:
            kind, file = "PNG", io.BytesIO()
            decoded.save(file, format=kind)
            content = file.getvalue()
    return f"data:{BROWSER_FORMATS[kind]};base64,{base64.b64encode(content).decode('ascii')}"


def _opened(path: Path) -> "Image":
    """Open a file's header; the size is checked by us before the pixels are decoded."""
    import warnings

    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(path)
        except Image.DecompressionBombError as error:
            raise AmpError(
                f"The image '{path}' is too large to open safely: {error}",
                hint="Scale it down first; models see a few hundred pixels a side",
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
