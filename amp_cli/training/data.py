"""Reads the training items, checks every one of them and its images, and keeps the good ones in the run folder."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch.utils.data import Dataset

from amp_cli.disk.entries import read_entries
from amp_cli.disk.jsonl import write_json, write_text
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError, RecordError
from amp_cli.models.images import check_image, find_image, open_image
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import EncodedItem, encode_item
from amp_cli.records import PreferenceItem, SourceItem

TrainItem = PreferenceItem | SourceItem

ITEMS = "items.jsonl"
REJECTED = "rejected.jsonl"
SYSTEMATIC = 20
"""When the first so many items all fail, the fault is not in the items."""


def prepare_items(source: Path, run_folder: Path, *, image_root: Path | None, method: str) -> int:
    """Write the usable items of `source` to the run folder's `items.jsonl`, the others to `rejected.jsonl`.

    Image paths become absolute. Done once: a resumed run keeps its items.

    Returns:
        The number of usable items.

    Raises:
        AmpError: the file cannot be read, no item is usable, or the first items all fail.
    """
    kept = run_folder / ITEMS
    if kept.exists():
        return len(load_items(run_folder, method))
    rejections = LeftOutLog.open(run_folder / REJECTED)
    root = image_root or source.resolve().parent
    items: dict[str, TrainItem] = {}
    for number, record, reason in read_entries(source):
        item_id = _id_of(record, number, source)
        try:
            if record is None:
                raise RecordError(reason)
            if item_id in items:
                raise RecordError(f"the id '{item_id}' occurs twice; the first item is kept")
            items[item_id] = _usable({**record, "id": item_id}, root, method)
        except AmpError as error:
            rejections.note(item_id if item_id not in items else f"{item_id} (entry {number})", error.message)
            refuse_systematic(rejections, len(items), source, error)
    if not items:
        raise AmpError(f"'{source}' has no usable items", hint=f"The reasons are in '{run_folder / REJECTED}'")
    lines = (json.dumps(item.to_json(), ensure_ascii=False) for item in items.values())
    write_text(kept, "".join(line + "\n" for line in lines))
    return len(items)


def load_items(run_folder: Path, method: str) -> list[TrainItem]:
    """Read the items that `prepare_items` kept."""
    items = []
    for _, record, reason in read_entries(run_folder / ITEMS):
        if record is None:
            raise AmpError(f"'{run_folder / ITEMS}' is damaged: {reason}", hint="Start afresh with --overwrite")
        items.append(parse_item(record, method))
    return items


def parse_item(record: dict[str, object], method: str) -> TrainItem:
    """Return a preference item, or for `sft` also an item that has only the standard answers."""
    if method == "sft" and "levels" not in record:
        return SourceItem.from_json(record)
    return PreferenceItem.from_json(record)


def answers_of(item: TrainItem, method: str) -> list[tuple[str, ...]]:
    """Return the responses to train on: every level, or for `sft` the best one alone."""
    if isinstance(item, SourceItem):
        return [item.answers]
    levels = item.levels[:1] if method == "sft" else item.levels
    return [level.answers for level in levels]


def refuse_systematic(rejections: LeftOutLog, usable: int, source: Path, last: AmpError) -> None:
    """Stop when nothing but rejected items has come so far.

    Raises:
        AmpError: the first `SYSTEMATIC` items were all rejected.
    """
    if not usable and rejections.count >= SYSTEMATIC:
        raise AmpError(
            f"None of the first {rejections.count} items of '{source}' is usable; the last one: {last.message}",
            hint="See rejected.jsonl in the run folder" if isinstance(last, RecordError) else last.hint,
        )


def _id_of(record: dict[str, object] | None, number: int, source: Path) -> str:
    """Return the item's id; one without gets the file's name and its place in it."""
    given = (record or {}).get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, str) and given.strip():
        return given
    return f"{source.stem}-{number}"


def _usable(record: dict[str, object], root: Path, method: str) -> TrainItem:
    item = parse_item(record, method)
    paths = [find_image(name, root) for name in item.images]
    for path in paths:
        check_image(path)
    return type(item).from_json({**item.to_json(), "images": [str(path.resolve()) for path in paths]})


ENCODABLE = "encodable.json"
KEPT_ENCODED = 256
"""A 336-pixel image takes 1.4 MB, so at most about 350 MB; the picture world fits in whole."""


class EncodedItems(Dataset[EncodedItem]):
    """Items by number, each with the levels that the method trains on."""

    def __init__(self, loaded: LoadedModel, items: Sequence[TrainItem], *, method: str) -> None:
        self.loaded = loaded
        self.items = items
        self.method = method
        self._kept = lru_cache(maxsize=KEPT_ENCODED)(self._encode)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> EncodedItem:
        return self._kept(number)

    def _encode(self, number: int) -> EncodedItem:
        item = self.items[number]
        images = [open_image(Path(name)) for name in item.images]
        return encode_item(self.loaded, item.questions, answers_of(item, self.method), images, item.frame)

    def only(self, numbers: Sequence[int]) -> "EncodedItems":
        """Return the same data with some items alone."""
        if len(numbers) == len(self.items):
            return self
        return EncodedItems(self.loaded, [self.items[number] for number in numbers], method=self.method)


def usable_items(data: EncodedItems, run_folder: Path, *, max_length: int) -> EncodedItems:
    """Return the items that can be encoded within `max_length` tokens; the others are rejected with the reason.

    Done once: the outcome is kept in the run folder, so a resumed run sees the same items at once.

    Raises:
        AmpError: no item is usable, or the first ones all fail.
    """
    known = run_folder / ENCODABLE
    if known.exists():
        return data.only(read_plain_object(known, numbers=list)["numbers"])
    rejections = LeftOutLog.open(run_folder / REJECTED)
    numbers = []
    for number, item in enumerate(data.items):
        try:
            encoded = data[number]
            length = max(len(response.input_ids) for response in encoded.responses)
            if length > max_length:
                raise RecordError(f"the item has {length} tokens; max_length is {max_length}")
            numbers.append(number)
        except AmpError as error:
            rejections.note(item.id, error.message)
            refuse_systematic(rejections, len(numbers), run_folder, error)
    if not numbers:
        reason = next(reversed(rejections.reasons().values()))
        raise AmpError(
            f"No item can be used for training; the last one: {reason}", hint="See rejected.jsonl in the run folder"
        )
    write_json(known, {"numbers": numbers, "max_length": max_length})
    return data.only(numbers)
