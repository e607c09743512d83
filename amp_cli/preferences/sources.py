"""Reads what preferences are made from: images, questions and standard answers, in our fields or LLaVA's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.dialogues.named_images import SourceImage
from amp_cli.dialogues.turns import read_standard
from amp_cli.disk.data_files import open_records, refuse_special_file
from amp_cli.disk.entries import entries_of
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.stored import Stored
from amp_cli.errors import AmpError, RecordError
from amp_cli.models.images import check_image, find_image
from amp_cli.records import SourceItem

SYSTEMATIC_AFTER = 20
"""When this many records from the start all fail in the same way, the fault is not in the items."""
MAX_CHARACTERS = 100_000
"""Longer texts are no answers but damaged files, and the parser's memory grows with the length."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The usable items of a file (image paths absolute), and what was refused, both in the file's order.

    The items lie on the disk: 100,000 of them take no more memory than their ids.
    """

    items: Sequence[SourceItem]
    refused: tuple[LeftOut, ...]


class _Faulty(Exception):
    def __init__(self, fault: str, error: AmpError) -> None:
        super().__init__(error.message)
        self.fault = fault
        self.error = error


def read_sources(path: Path, *, image_root: Path | None = None) -> Sources:
    """Read and check every record of a JSON list or JSONL file, images included.

    Args:
        image_root: folder that relative image paths start from; the file's own folder when None.

    Raises:
        AmpError: the file cannot be read, no record can be used, or the first `SYSTEMATIC_AFTER` fail in the same way.
    """
    reader = _Reader(image_root or path.parent)
    refuse_special_file(path)
    shown = 0
    size = path.stat().st_size
    with ui.byte_progress("Checking the data", size, 0) as advance, open_records(path) as (stream, file):
        for number, record, reason in entries_of(path, stream):
            reader.take(number, record, reason)
            advance(file.tell() - shown)
            shown = file.tell()
    if not reader.ids:
        raise reader.fault_of_all(f"None of the {len(reader.refused)} records of '{path}' can be used")
    reader.items.close_for_writing()
    return Sources(items=reader.items, refused=tuple(reader.refused))


class _Reader:
    """Collects items and refusals, and knows which ids and images it has seen."""

    def __init__(self, image_root: Path) -> None:
        self.image_root = image_root
        self.items = Stored.set_aside(SourceItem.from_json)
        self.ids: set[str] = set()
        self.refused: list[LeftOut] = []
        self._faults: set[str] = set()
        self._first_error: AmpError | None = None
        self._good_images: set[bytes] = set()  # digests of paths, which are shorter

    def take(self, number: int, record: Mapping[str, Any] | None, reason: str) -> None:
        item_id = f"record {number}"
        try:
            if record is None:
                raise _Faulty("json", RecordError(reason))
            given = record.get("id")
            item_id = _id_of(given) if given not in (None, "") else item_id
            item = _parse(record, item_id if given not in (None, "") else None)
            item_id = item.id
            if item_id in self.ids:
                raise _Faulty("id", RecordError(f"record {number} repeats the id '{item_id}'"))
            self.items.add(self._with_checked_images(item).to_json())
            self.ids.add(item_id)
        except _Faulty as faulty:
            self._first_error = self._first_error or faulty.error
            self.refused.append(LeftOut(id=item_id, reason=str(faulty)))
            self._faults.add(faulty.fault)
            self._stop_at_systematic_fault()

    def _with_checked_images(self, item: SourceItem) -> SourceItem:
        try:
            paths = tuple(find_image(name, self.image_root).resolve() for name in item.images)
            for path in paths:
                known = blake2b(os.fsencode(path), digest_size=16).digest()
                if known not in self._good_images:
                    check_image(path)
                    self._good_images.add(known)
        except AmpError as error:
            raise _Faulty("image", error) from error
        return replace(item, images=tuple(str(path) for path in paths))

    def _stop_at_systematic_fault(self) -> None:
        if self.ids or len(self.refused) != SYSTEMATIC_AFTER:
            return
        if len(self._faults) == 1:
            raise self.fault_of_all(f"The first {SYSTEMATIC_AFTER} records all fail in the same way")

    def fault_of_all(self, message: str) -> AmpError:
        """Return the error that ends the reading, with the first record's reason and hint."""
        layout = "An item needs 'images', 'questions' and 'answers', or 'conversations' or 'messages'"
        first = self._first_error
        if first is None:
            return AmpError(f"{message}: there are none", hint=layout)
        return AmpError(
            f"{message}; the first: {first.message}", hint=layout if isinstance(first, RecordError) else first.hint
        )


def _id_of(given: object) -> str:
    if isinstance(given, str) and given.strip():
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise _Faulty("id", RecordError(f"an id must be a text or a whole number, not {given!r:.80}"))


def _parse(record: Mapping[str, Any], item_id: str | None) -> SourceItem:
    """Return the record as an item whose images are still named as in the file."""
    try:
        dialogue = read_standard(record)
        _refuse_long_texts((*dialogue.questions, *dialogue.answers))
        meta = record.get("meta")
        return SourceItem(
            id=item_id or dialogue.id,
            images=tuple(_path_of(image) for image in dialogue.images),
            questions=dialogue.questions,
            answers=dialogue.answers,
            frame=dialogue.frame,
            meta=dict(meta) if isinstance(meta, Mapping) else {},
        )
    except AmpError as error:
        raise _Faulty("fields", error) from error


def _path_of(image: SourceImage) -> str:
    if image.content is not None:
        raise AmpError(
            "the record holds its image inside", hint="Import the file first: amp prefs import DATA --out DIR"
        )
    return image.names[0]


def _refuse_long_texts(said: Sequence[str]) -> None:
    for text in said:
        if len(text) > MAX_CHARACTERS:
            raise RecordError(f"a text has {len(text):,} characters, the limit is {MAX_CHARACTERS:,}")
