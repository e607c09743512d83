"""What was left out and why: a line an item in `rejected.jsonl`, counted once however often it is said."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from amp_cli.disk.jsonl import RecordLog, disk_errors_explained, write_records

FIRST = 3


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An entry that gives no item, or an item that could not be done; `source` is the expert that could not do it."""

    id: str
    reason: str
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        record = {"id": self.id, "reason": self.reason}
        return record if self.source is None else {**record, "source": self.source}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(id=record["id"], reason=record["reason"], source=record.get("source"))


class LeftOutLog:
    """The list. `count` is how many are left out, `first` the first few of them.

    `open` goes on with the list that is there; `begin` starts one, and holds nothing but the count in memory, so that
    a file may have millions of bad entries.
    """

    def __init__(self, path: Path | None, *, remembers: bool) -> None:
        self.path = path
        self.count = 0
        self.first: list[LeftOut] = []
        self._reasons: dict[tuple[str, str | None], str] | None = {} if remembers else None
        self._log: RecordLog | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on with the list in `path`."""
        log = cls(path, remembers=True)
        for one in RecordLog(path).read_as(LeftOut.from_json):
            log._take(one)
        return log

    @classmethod
    def replace(cls, path: Path, entries: Iterable[LeftOut]) -> Self:
        """Write the list anew with these entries, to be gone on with."""
        log = cls(path, remembers=True)
        entries = list(entries)
        write_records(path, (one.to_json() for one in entries))
        for one in entries:
            log._take(one)
        log.count = len(entries)  # two records of one id are two entries
        return log

    @classmethod
    def begin(cls, path: Path | None = None) -> Self:
        """Start a list; an older one in `path` is removed, and without an entry there is none. None keeps no list."""
        if path is not None:
            disk_errors_explained(lambda: path.unlink(missing_ok=True), path)
        return cls(path, remembers=False)

    def add(self, one: LeftOut) -> bool:
        """Note what was left out; False when that is known already."""
        if not self._take(one):
            return False
        if self.path is not None:
            self._log = self._log or RecordLog(self.path)
            self._log.append(one.to_json())
        return True

    def note(self, item_id: str, reason: str) -> None:
        """Note an item that was left out, as those who ask and judge report it."""
        self.add(LeftOut(id=item_id, reason=reason))

    def _take(self, one: LeftOut) -> bool:
        if self._reasons is not None:
            key = (one.id, one.source)
            known = self._reasons.get(key)
            self._reasons[key] = one.reason
            if known is not None:
                return known != one.reason and one.source is None  # said in other words: written, but counted once
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(one)
        return True

    def sort(self, key: Callable[[LeftOut], Any]) -> None:
        """Put the list in order; what is alike by the key stays as it stands."""
        if self.path is None:
            return
        entries = RecordLog(self.path).read_as(LeftOut.from_json)
        in_order = sorted(entries, key=key)
        if in_order != entries:
            write_records(self.path, (one.to_json() for one in in_order))

    def reasons(self) -> dict[str, str]:
        """Return id -> reason, the last one said."""
        return {item_id: reason for (item_id, _), reason in (self._reasons or {}).items()}

    def by_source(self, source: str) -> set[str]:
        """Return the ids that an expert could not do."""
        return {item_id for item_id, said_of in self._reasons or {} if said_of == source}
