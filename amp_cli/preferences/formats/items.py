"""Turns drafts into items: images named, image tokens taken out, pairs joined, ids unique."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from amp_cli.dialogues.named_images import SourceImage
from amp_cli.dialogues.turns import Placed, derived_id, place_images, refuse_tokens_in_answers
from amp_cli.disk.jsonl import disk_errors_explained
from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError, RecordError
from amp_cli.models.images import image_content, image_place
from amp_cli.preferences.formats.draft import ENDLESS, Draft, Format
from amp_cli.preferences.formats.grouping import GivenIds, PairsByPrompt, join_pairs
from amp_cli.preferences.formats.source import Source
from amp_cli.records import PLAIN, PreferenceItem, SourceItem

FOLDER = "images"
HASH_DIGITS = 32
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def name_in_data(image: SourceImage, root: Path) -> str:
    """Return the path as the data have it; of several possible ones the first that exists, else the first."""
    if len(image.names) == 1:
        return image.names[0]
    return next((name for name in image.names if (root / name).is_file()), image.names[0])


class ImportedImages:
    """Gives the paths under which the items of `out` know their images, and writes embedded images there."""

    def __init__(self, part: Path, out: Path) -> None:
        """`part`: where the folder is made; `out`: what it will be called."""
        self._folder = part / FOLDER
        self._out = str(out.resolve())
        self.in_result: Path | None = None  # an image that an older result holds, and a new one would remove
        self.missing = 0
        self.written = 0

    def name(self, image: SourceImage, root: Path) -> str:
        """Return a path below the result folder where the image is there, else an absolute one.

        Raises:
            AmpError: an embedded image that is none, or a relative path that leaves `root`.
        """
        if image.content is not None:
            return self._written(image.content)
        path = str(image_place(name_in_data(image, root), root))
        self.missing += not os.path.isfile(path)  # noqa: PTH113 (this runs for every record of millions)
        if not _is_inside(path, self._out):
            return path
        self.in_result = self.in_result or Path(path)
        return path[len(self._out) :].lstrip(os.sep).replace(os.sep, "/")

    def _written(self, content: bytes) -> str:
        import hashlib

        digest = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
        for suffix in SUFFIXES.values():
            if (self._folder / f"{digest}{suffix}").exists():
                return f"{FOLDER}/{digest}{suffix}"
        beside = self._folder / f"{digest}.part"

        def write() -> None:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)

        disk_errors_explained(write, beside)
        try:
            suffix = _checked_suffix(beside)
        except AmpError as error:
            beside.unlink()
            raise RecordError(error.message.replace(f"The image '{beside}'", "the image in the data")) from error
        beside.rename(self._folder / f"{digest}{suffix}")
        self.written += 1
        return f"{FOLDER}/{digest}{suffix}"


def _is_inside(path: str, folder: str) -> bool:
    return os.path.normcase(path).startswith(os.path.normcase(folder).rstrip(os.sep) + os.sep)


def _checked_suffix(path: Path) -> str:
    """Return the file suffix of an image's format.

    Raises:
        AmpError: it cannot be used, or is in a format that no path of ours says.
    """
    _, kind = image_content(path)
    if kind not in SUFFIXES:
        raise RecordError(f"the image in the data is {kind}; known: {', '.join(SUFFIXES)}")
    return SUFFIXES[kind]


Item = PreferenceItem | SourceItem
NameImage = Callable[[SourceImage, Path], str]


def items_of(
    source: Source, name_image: NameImage, notes: Counter[str], *, unique_ids: bool
) -> Iterator[Item | LeftOut]:
    """Yield the source's items in its order (joined ones at the end) and what was refused.

    Args:
        name_image: gives the path under which an item knows an image, of the image and the folder that the
            data's paths start from; raises AmpError where the item cannot be used.
        notes: counts what was left out without refusing the record.
        unique_ids: give a repeated id a number, and refuse what repeats content and id.
    """
    given = GivenIds()
    for found in _joined_items(source, name_image, notes):
        if isinstance(found, LeftOut) or not unique_ids:
            yield found
            continue
        item_id = given.unique(found.id, _content(found))
        if item_id is None:
            yield LeftOut(id=found.id, reason=f"it repeats the item '{found.id}'")
        else:
            yield found if item_id == found.id else type(found).from_json({**found.to_json(), "id": item_id})


def _joined_items(source: Source, name_image: NameImage, notes: Counter[str]) -> Iterator[Item | LeftOut]:
    pairs = PairsByPrompt()
    for draft, root in source.drafts():
        found = draft if isinstance(draft, LeftOut) else _item(draft, source.format, name_image, root, notes)
        if source.format.is_grouped and isinstance(found, PreferenceItem):
            pairs.add(found)
        else:
            yield found
    for group in pairs.groups():
        yield from join_pairs(group, notes)


def _item(draft: Draft, format: Format, name_image: NameImage, root: Path, notes: Counter[str]) -> Item | LeftOut:
    answers = [level.answers for level in draft.levels]
    item_id = draft.id or derived_id(
        draft.images or [image for _, image in draft.brought if image is not None],
        draft.questions,
        answers[0] if format.is_standard_only else answers,
        draft.frame,
    )
    meta = _finite(draft.meta)
    try:
        placed = _placed(draft, format)
        questions = placed.questions
        images = tuple(name_image(image, root) for image in placed.images)
        frame = replace(draft.frame, image_rounds=placed.image_rounds)
        item: Item
        if format.is_standard_only:
            bare = tuple(question.strip() for question in questions)
            item = SourceItem(id=item_id, images=images, questions=bare, answers=answers[0], frame=frame, meta=meta)
        else:
            item = PreferenceItem(
                id=item_id, images=images, questions=questions, levels=draft.levels, frame=frame, meta=meta
            )
        _refuse_unwritable(item)
    except AmpError as error:
        return LeftOut(id=item_id.encode("utf-8", "replace").decode(), reason=error.message)
    notes.update((*draft.notes, *placed.notes, *((ENDLESS,) if meta != draft.meta else ())))
    return item


def _placed(draft: Draft, format: Format) -> Placed:
    if not format.has_image_tokens:
        return Placed(questions=draft.questions, images=draft.images, image_rounds=draft.frame.image_rounds, notes=())
    for level in draft.levels:
        refuse_tokens_in_answers(level.answers)
    return place_images(draft.questions, draft.images, draft.brought)


def _content(item: Item) -> str:
    """Return what makes two items the same, whatever their ids and meta."""
    answers = [item.answers] if isinstance(item, SourceItem) else [level.answers for level in item.levels]
    frame = json.dumps(item.frame.to_json()) if item.frame != PLAIN else ""
    return frame + "\0".join([*item.images, *item.questions, *(answer for level in answers for answer in level)])


def _finite(value: Any) -> Any:
    """Return the value with null for each number that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_unwritable(item: Item) -> None:
    """Refuse what UTF-8 JSON cannot hold: halves of characters, numbers that are none, bytes."""
    try:
        json.dumps(item.to_json(), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("a text holds half a character (a lone surrogate)") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError("'meta' holds something that cannot be written as JSON") from error
