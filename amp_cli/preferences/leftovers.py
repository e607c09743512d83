"""Counts what could not be used, and lists it in a file, without holding it in memory."""

from pathlib import Path

from amp_cli.core.store import RecordLog, disk_errors_explained
from amp_cli.preferences.reading import Refused

FIRST = 3


class Leftovers:
    """Entries with the reason why they were left out; an older list in `path` is replaced, no list without entries."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.count = 0
        self.first: list[Refused] = []
        self._log: RecordLog | None = None
        if path is not None:
            disk_errors_explained(lambda: path.unlink(missing_ok=True), path)

    def add(self, one: Refused) -> None:
        """Count an entry, and write it to the list where there is one."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(one)
        if self.path is not None:
            self._log = self._log or RecordLog(self.path)
            self._log.append({"id": one.id, "reason": one.reason})
