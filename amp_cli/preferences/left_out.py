"""The list of items that a preference run left out."""

from collections.abc import Iterable
from pathlib import Path

from amp_cli.disk.jsonl import RecordLog, write_records


class RejectedItems:
    """`rejected.jsonl`: `{"id", "reason"}`, with `"source"` where it was an expert that could not answer.

    Faults of the data are found anew by every start, so they are written anew; what experts refused is kept, so that
    a rerun need not load the model to hear it again.
    """

    def __init__(self, path: Path, *, found: Iterable[tuple[str, str]], known_ids: Iterable[str]) -> None:
        """`found`: id and reason of faults in the data; `known_ids`: the items that can be asked."""
        usable = set(known_ids)
        kept = [record for record in RecordLog(path).read() if "source" in record and record["id"] in usable]
        records = [{"id": item_id, "reason": reason} for item_id, reason in found] + kept
        write_records(path, records)
        self._log = RecordLog(path)
        self._by_expert: dict[str, set[str]] = {}
        for record in kept:
            self._by_expert.setdefault(record["source"], set()).add(record["id"])
        self.count = len(records)

    def add(self, item_id: str, reason: str, source: str) -> bool:
        """Note that the expert `source` could not answer an item; False when that is known already."""
        ids = self._by_expert.setdefault(source, set())
        if item_id in ids:
            return False
        ids.add(item_id)
        self._log.append({"id": item_id, "reason": f"{source}: {reason}", "source": source})
        self.count += 1
        return True

    def by_expert(self, source: str) -> set[str]:
        """Return the ids that an expert could not answer."""
        return set(self._by_expert.get(source, ()))
