"""Reads preference items one by one, so that a file may be larger than memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amp_cli.core.store import read_json_records
from amp_cli.errors import AmpError
from amp_cli.records import PreferenceItem


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An entry that gives no item, and why."""

    id: str
    reason: str


def read_items(source: Path) -> Iterator[PreferenceItem | Refused]:
    """Yield the items of a preference file in its order; what is none is yielded with the reason.

    Raises:
        AmpError: the file cannot be read, or is no list and no lines of JSON.
    """
    for number, record, reason in read_json_records(source):
        item_id = f"{source.stem}-{number}"
        if record is None:
            yield Refused(id=item_id, reason=reason)
            continue
        try:
            yield PreferenceItem.from_json({"id": item_id, **record})
        except AmpError as error:
            yield Refused(id=str(record.get("id", item_id)), reason=error.message)
