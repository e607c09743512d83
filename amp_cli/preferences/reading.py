"""Reads preference items one by one, in any format, and finds their images; a file may be larger than memory."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from amp_cli import ui
from amp_cli.dialogues.named_images import SourceImage
from amp_cli.disk.jsonl import disk_errors_explained, full_disk_told
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.replacing import own_facts
from amp_cli.errors import AmpError
from amp_cli.models.images import find_image, lies_below
from amp_cli.preferences.formats.items import items_of, name_in_data
from amp_cli.preferences.formats.source import open_source
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


def refuse_unnamed_folders(images: Collection[Path], folders: Collection[Path]) -> None:
    """Refuse to publish an image from a folder that the user did not name: a foreign file may name any place.

    Args:
        folders: what `publishable_folders` returns.

    Raises:
        AmpError: naming the first such image.
    """
    for image in images:
        if not lies_below(image, folders):
            raise AmpError(
                f"the image '{image}' lies outside the data's folder, so it is not published",
                hint="If it is yours to publish, name a folder above it with --image-root",
            )


def publishable_folders(source: str, image_root: Path | None) -> tuple[Path, ...]:
    """Return where images that are to be published may lie.

    That is below `image_root`, below the data's own folder, and, where the data are a result of ours, below the folders
    that those were made from.
    """
    return tuple({*([] if image_root is None else [image_root]), *_folders_behind(Path(source), set())})


def _folders_behind(source: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the folder of a source, and what the run that made it was given."""
    folder = (source if source.is_dir() else source.parent).resolve()
    if folder in seen:
        return
    seen.add(folder)
    yield folder
    facts = own_facts(folder)
    if facts is None:
        return
    settings: dict[str, Any] = facts["settings"]
    root, mixed = settings.get("image_root"), settings.get("sources")
    if root and isinstance(root, str):
        yield Path(root)
    sources = [one.get("source") for one in mixed if isinstance(one, dict)] if isinstance(mixed, list) else []
    for name in (settings.get("data"), settings.get("source"), *sources):
        if name and isinstance(name, str) and Path(name).exists():
            yield from _folders_behind(Path(name), seen)


def name_from(folder: Path, image: Path) -> str:
    """Return the path from `folder` of an image below it, so that both can be moved; else the whole path."""
    below = folder.resolve()
    return image.relative_to(below).as_posix() if image.is_relative_to(below) else str(image)


class _ImagesInsideError(Exception):
    pass


def read_items(
    source: str | Path, *, format: str = "auto", image_root: Path | None = None
) -> Iterator[PreferenceItem | LeftOut]:
    """Yield the items of a file, folder or hub data set; what is none is yielded with the reason.

    Image paths are relative to the file's folder (or `image_root`), as the data have them; those of a folder's files
    are absolute. Ids are as in the data in our own format, and made unique in others.

    Args:
        format: a name of `formats.FORMATS`, or `auto`: told by the content.

    Raises:
        AmpError: the source cannot be read, is in no format that is known, holds its images inside, or has standard
            responses only.
    """
    opened = open_source(source, format=format, image_root=image_root)
    if opened.format.is_standard_only:
        raise AmpError(
            f"'{source}' has one response per question and no preferences",
            hint=f"Make some: amp generate-prefs {source} --out DIR ...",
        )
    one_folder = Path(source).is_file() or image_root is not None

    def name_image(image: SourceImage, root: Path) -> str:
        if image.content is not None:
            raise _ImagesInsideError
        return name_in_data(image, root) if one_folder else str(root.resolve() / name_in_data(image, root))

    try:
        for item in items_of(opened, name_image, Counter(), unique_ids=opened.format.name != "amp"):
            if isinstance(item, PreferenceItem | LeftOut):
                yield item
    except _ImagesInsideError as error:
        raise AmpError(
            f"'{source}' holds its images inside", hint=f"Import it first: amp prefs import {source} --out DIR"
        ) from error


@contextmanager
def reading_progress(label: str, source: Path) -> Iterator[Callable[[], None]]:
    """Show a bar where the number of entries is known: the lines of a JSONL file; yields what advances it."""
    if source.suffix != ".jsonl" or not source.is_file():
        with ui.busy(f"{label} '{source}'"):
            yield lambda: None
        return
    with source.open("rb") as stream:
        lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    with ui.progress(label, lines) as advance:
        yield advance


class RecordWriter:
    """Writes one record after the other; a JSON list where `as_list`, else JSONL."""

    def __init__(self, stream: IO[str], path: Path, *, as_list: bool) -> None:
        self._stream = stream
        self._path = path
        self._as_list = as_list
        self.count = 0

    def write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        if self._as_list:
            line = ("[\n" if self.count == 0 else ",\n") + line
        else:
            line += "\n"
        disk_errors_explained(lambda: self._stream.write(line), self._path)
        self.count += 1

    def close_list(self) -> None:
        """Write the end of a list; JSONL has none."""
        if self._as_list:
            disk_errors_explained(lambda: self._stream.write("\n]\n" if self.count else "[]\n"), self._path)


@contextmanager
def written_beside(path: Path, *, as_list: bool = False) -> Iterator[RecordWriter]:
    """Yield a writer for `path`, which stands there only when the block has ended without an error."""
    beside = path.with_name(path.name + ".part")
    disk_errors_explained(lambda: path.parent.mkdir(parents=True, exist_ok=True), path)
    stream = disk_errors_explained(lambda: beside.open("w", encoding="utf-8", newline="\n"), path)
    try:
        with full_disk_told(path), stream:
            writer = RecordWriter(stream, path, as_list=as_list)
            yield writer
            writer.close_list()
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    disk_errors_explained(lambda: beside.replace(path), path)
