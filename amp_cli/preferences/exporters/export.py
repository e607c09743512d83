"""Streams preference items into a file of another program, or into a folder for the hub."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from amp_cli.core.store import read_json, write_json
from amp_cli.errors import AmpError
from amp_cli.preferences.exporters.layouts import (
    authors_record,
    factory_record,
    refuse_image_tokens,
    swift_record,
    trl_record,
)
from amp_cli.preferences.exporters.pairs import PAIRINGS, Pair, cut_pairs
from amp_cli.preferences.exporters.parquet import written_parquet
from amp_cli.preferences.pictures import find_pictures, name_from, picture_root
from amp_cli.preferences.reading import Refused, read_items
from amp_cli.preferences.streaming import written_beside
from amp_cli.records import PreferenceItem

ENDINGS = {
    "trl": (".parquet", ".jsonl"),
    "ms-swift": (".jsonl",),
    "llama-factory": (".jsonl",),
    "amp-authors": (".json",),
}
"""The files that each layout is written to; for TRL, Parquet holds the pictures themselves."""
CUTS_PAIRS = ("trl", "ms-swift", "llama-factory")
DATASET_INFO = "dataset_info.json"


class Writer(Protocol):
    """Takes one record after the other and counts them."""

    count: int

    def write(self, record: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What to export, in which layout, and where to."""

    source: str
    to: str
    out: Path
    pairs: str = "all"
    image_root: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.pairs not in PAIRINGS:
            raise AmpError(f"There is no pairing '{self.pairs}'", hint=f"Use {', '.join(PAIRINGS)}")
        if self.to not in (*ENDINGS, "hub"):
            raise AmpError(f"There is no layout '{self.to}'", hint=f"Use {', '.join(ENDINGS)} or hub")

    @property
    def root(self) -> Path:
        return picture_root(self.source, self.image_root)


@dataclass(kw_only=True)
class Exported:
    """What was written; `rejected` holds id and reason of items that have no place in the layout."""

    out: Path
    items: int = 0
    records: int = 0
    levels: Counter[int] = field(default_factory=Counter)
    pictures: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rejections(self) -> Path:
        """The file beside the result that lists what was left out."""
        return self.out.with_name(f"{self.out.name}.rejected.jsonl")

    def take(self, item: PreferenceItem, records: int) -> None:
        self.items += 1
        self.records += records
        self.levels[len(item.levels)] += 1


def export_file(settings: ExportSettings) -> Exported:
    """Write the items to one file of the layout, one at a time.

    Raises:
        AmpError: the place is taken or of the wrong kind, the source cannot be read, or no item can be written.
    """
    _refuse_place(settings)
    result = Exported(out=settings.out)
    with _writer(settings) as writer:
        for item in sound_items(settings, result):
            try:
                records = _records(item, settings)
            except AmpError as error:
                result.rejected.append((item.id, error.message))
                continue
            for record in records:
                writer.write(record)
            result.take(item, len(records))
        refuse_nothing(result, settings.source)
    list_rejected(result)
    if settings.to == "llama-factory":
        _describe_to_factory(settings.out)
    return result


def sound_items(settings: ExportSettings, result: Exported) -> Iterator[PreferenceItem]:
    """Yield the source's items; entries that are none are noted."""
    for item in read_items(settings.source, image_root=settings.image_root):
        if isinstance(item, Refused):
            result.rejected.append((item.id, item.reason))
        else:
            yield item


def refuse_nothing(result: Exported, source: str) -> None:
    """Refuse a result without items, with the first reason."""
    if result.items == 0:
        first = f"; the first of {len(result.rejected)}: {result.rejected[0][1]}" if result.rejected else ""
        raise AmpError(
            f"'{source}' has no item that can be exported{first}", hint=f"Look at `amp prefs check {source}`"
        )


def list_rejected(result: Exported) -> None:
    """Write the list of what was left out, or remove an older one."""
    if not result.rejected:
        result.rejections.unlink(missing_ok=True)
        return
    with written_beside(result.rejections) as writer:
        for item_id, reason in result.rejected:
            writer.write({"id": item_id, "reason": reason})


def _refuse_place(settings: ExportSettings) -> None:
    out, endings = settings.out, ENDINGS[settings.to]
    if out.suffix not in endings or out.is_dir():
        raise AmpError(
            f"'{out}' is no file for {settings.to}",
            hint=f"Give --out a name that ends in {' or '.join(endings)}",
        )
    if out.exists() and not settings.overwrite:
        raise AmpError(f"'{out}' exists", hint="Choose another file with --out, or replace it with --overwrite")
    if out.exists() and Path(settings.source).exists() and out.samefile(settings.source):
        raise AmpError(f"'{out}' is the source itself", hint="Choose another file with --out")
    if settings.to == "llama-factory":
        _factory_entries(out)


def _writer(settings: ExportSettings) -> AbstractContextManager[Writer]:
    if settings.out.suffix == ".parquet":
        return written_parquet(settings.out)
    return written_beside(settings.out, as_list=settings.out.suffix == ".json")


def _records(item: PreferenceItem, settings: ExportSettings) -> list[dict[str, Any]]:
    """Return the item's records; it is written whole or not at all."""
    refuse_image_tokens(item)
    pictures = find_pictures(item, settings.root)
    if settings.to == "amp-authors":
        return [authors_record(item, [str(picture) for picture in pictures])]
    record: Callable[[Pair, Sequence[Any]], dict[str, Any]]
    images: list[Any] = [str(picture) for picture in pictures]
    if settings.to == "trl":
        record = trl_record
        if settings.out.suffix == ".parquet":
            images = [{"bytes": picture.read_bytes(), "path": picture.name} for picture in pictures]
    elif settings.to == "ms-swift":
        record = swift_record
    else:
        record = factory_record
        images = [name_from(settings.out.parent, picture) for picture in pictures]
    return [record(pair, images) for pair in cut_pairs(item, settings.pairs)]


def _describe_to_factory(out: Path) -> None:
    """Add the file's entry to the `dataset_info.json` beside it, where LLaMA-Factory looks names up."""
    entries = _factory_entries(out)
    entries[out.stem] = {
        "file_name": out.name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
    }
    write_json(out.parent / DATASET_INFO, entries)


def _factory_entries(out: Path) -> dict[str, Any]:
    """Return what `dataset_info.json` beside the file holds; refuse to overwrite another file's entry of that name."""
    info = out.parent / DATASET_INFO
    entries = read_json(info) if info.exists() else {}
    if not isinstance(entries, dict):
        raise AmpError(f"'{info}' is no LLaMA-Factory dataset list", hint="Choose another folder with --out")
    entry = entries.get(out.stem)
    if entry is not None and not (isinstance(entry, dict) and entry.get("file_name") == out.name):
        raise AmpError(f"'{info}' has another entry '{out.stem}'", hint="Choose another file name with --out")
    return entries
