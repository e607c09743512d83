"""Reads the training items, checks every one of them and its pictures, and keeps the good ones in the run folder."""

import json
from pathlib import Path

from amp_cli.core.images import check_image, find_image
from amp_cli.core.store import Rejections, read_json_records, write_text
from amp_cli.errors import AmpError
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
    rejections = Rejections(run_folder / REJECTED)
    root = image_root or source.resolve().parent
    items: dict[str, TrainItem] = {}
    for number, record, reason in read_json_records(source):
        item_id = _id_of(record, number, source)
        try:
            if record is None:
                raise AmpError(reason)
            if item_id in items:
                raise AmpError(f"the id '{item_id}' occurs twice; the first item is kept")
            items[item_id] = _usable({**record, "id": item_id}, root, method)
        except AmpError as error:
            rejections.add(item_id if item_id not in items else f"{item_id} (entry {number})", error.message)
            refuse_systematic(rejections, len(items), source, error)
    if not items:
        raise AmpError(f"'{source}' has no usable item", hint=f"The reasons are in '{run_folder / REJECTED}'")
    lines = (json.dumps(item.to_json(), ensure_ascii=False) for item in items.values())
    write_text(kept, "".join(line + "\n" for line in lines))
    return len(items)


def load_items(run_folder: Path, method: str) -> list[TrainItem]:
    """Read the items that `prepare_items` kept."""
    items = []
    for _, record, reason in read_json_records(run_folder / ITEMS):
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


def refuse_systematic(rejections: Rejections, usable: int, source: Path, last: AmpError) -> None:
    """Stop when nothing but rejected items has come so far.

    Raises:
        AmpError: the first `SYSTEMATIC` items were all rejected.
    """
    if not usable and rejections.count >= SYSTEMATIC:
        raise AmpError(
            f"The first {rejections.count} items of '{source}' are all unusable; the last: {last.message}",
            hint=last.hint or "See rejected.jsonl in the run folder",
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
