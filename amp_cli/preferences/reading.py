"""Reads preference items one by one, in our format or another, so that a file may be larger than memory."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from amp_cli.errors import AmpError
from amp_cli.preferences.importers.draft import Picture, Refused
from amp_cli.preferences.importers.items import items_of
from amp_cli.preferences.importers.naming import name_in_data
from amp_cli.preferences.importers.source import open_source
from amp_cli.records import PreferenceItem

__all__ = ["Refused", "read_items"]


class _PicturesInsideError(Exception):
    pass


def read_items(
    source: str | Path, *, format: str = "auto", image_root: Path | None = None
) -> Iterator[PreferenceItem | Refused]:
    """Yield the items of a file, folder or hub data set; what is none is yielded with the reason.

    Image paths are relative to the file's folder (or `image_root`), as the data have them; those of a folder's files
    are absolute. Ids are as in the data in our own format, and made unique in others.

    Args:
        format: a name of `importers.formats.FORMATS`, or `auto`: told by the content.

    Raises:
        AmpError: the source cannot be read, is in no format that is known, holds its pictures inside, or has standard
            responses only.
    """
    opened = open_source(source, format=format, image_root=image_root)
    if opened.format.is_standard_only:
        raise AmpError(
            f"'{source}' has one response per question and no preferences",
            hint=f"Make some: amp generate-prefs {source} --out DIR ...",
        )
    one_folder = Path(source).is_file() or image_root is not None

    def name_picture(picture: Picture, root: Path) -> str:
        if picture.content is not None:
            raise _PicturesInsideError
        return name_in_data(picture, root) if one_folder else str(root.resolve() / name_in_data(picture, root))

    try:
        for item in items_of(opened, name_picture, Counter(), unique_ids=opened.format.name != "amp"):
            if isinstance(item, PreferenceItem | Refused):
                yield item
    except _PicturesInsideError as error:
        raise AmpError(
            f"'{source}' holds its pictures inside", hint=f"Import it first: amp prefs import {source} --out DIR"
        ) from error
