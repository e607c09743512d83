"""Reads what a record says of its images: paths, bytes, base64, and objects of bytes and path."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from amp_cli.errors import RecordError

Record = Mapping[str, Any]

LONGEST_PATH = 4096
LONGEST_NAME = 255
BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk")
"""How JPEG, PNG, GIF, WebP and BMP begin in base64."""
SHORTEST_BASE64 = 64
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_FILE_ADDRESS = re.compile(r"file://(?:localhost)?(?=/)", re.IGNORECASE)
_DATA_ADDRESS = re.compile(r"data:image/[\w.+-]+;base64,")


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image as the data has it: the path that is meant (the first that exists), or the file's bytes."""

    names: tuple[str, ...] = ()
    content: bytes | None = None

    def __post_init__(self) -> None:
        if (self.content is None) == (not self.names):
            raise RecordError("an image has either a path or its bytes")


def images_of(record: Record, *names: str) -> tuple[SourceImage, ...]:
    """Return the images of the first of the fields that has any.

    Raises:
        AmpError: an image is neither a path nor the content of a file.
    """
    for name in names:
        found = _images(record.get(name), name)
        if found:
            return found
    return ()


def image_of_part(part: Record) -> tuple[SourceImage, ...]:
    """Return the image that an entry of a message's content brings along, if it does."""
    value = part.get("image", part.get("image_url", part.get("path")))
    if isinstance(value, dict) and "url" in value:
        value = value["url"]
    return _images(value, "image")


def _images(value: Any, name: str) -> tuple[SourceImage, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, list | tuple):
        return tuple(image for entry in value for image in _images(entry, name))
    if isinstance(value, dict):
        return _of_bytes_and_path(value, name)
    if isinstance(value, bytes):
        return (_embedded(value),)
    if isinstance(value, str):
        return (_of_text(value),)
    raise RecordError(f"'{name}' must be a path or the image itself, not {value!r:.80}")


def _of_bytes_and_path(value: Record, name: str) -> tuple[SourceImage, ...]:
    content, path = value.get("bytes"), value.get("path")
    if isinstance(content, bytes) and content:
        return (_embedded(content),)
    if isinstance(content, str) and content:
        return (_decoded(content),)
    if content or not isinstance(path, str) or not path:
        raise RecordError(f"'{name}' must have 'bytes' or 'path', not {value!r:.80}")
    return (_of_text(path),)


def _of_text(text: str) -> SourceImage:
    if found := _DATA_ADDRESS.match(text):
        return _decoded(text[found.end() :])
    if len(text) >= SHORTEST_BASE64 and text.startswith(BASE64_STARTS) and _BASE64.fullmatch(text):
        return _decoded(text)
    if found := _FILE_ADDRESS.match(text):
        text = unquote(text[found.end() :])
    return SourceImage(names=(checked_name(text),))


def checked_name(name: str) -> str:
    """Refuse what no disk can hold as a path.

    Raises:
        AmpError: an address, too long, or with characters that no path has.
    """
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        raise RecordError(f"the image is an address, '{name[:80]}'; download it first")
    try:
        is_impossible = "\0" in name or len(name) > LONGEST_PATH or not name.strip()
        is_impossible = is_impossible or any(len(part.encode()) > LONGEST_NAME for part in name.split("/"))
    except UnicodeEncodeError:
        is_impossible = True
    if is_impossible:
        raise RecordError(f"{name!r:.80} is not the path of an image")
    return name


def _embedded(content: bytes) -> SourceImage:
    if not content:
        raise RecordError("the image in the data is empty (0 bytes)")
    return SourceImage(content=content)


def _decoded(text: str) -> SourceImage:
    try:
        return _embedded(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError) as error:  # ValueError: a character beyond ASCII
        raise RecordError(f"the image's base64 is damaged: {error}") from error
