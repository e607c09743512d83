"""Writes a file piece by piece beside its place and renames it over when it is whole."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from amp_cli.core.store import disk_errors_explained


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
    stream = disk_errors_explained(lambda: beside.open("w", encoding="utf-8"), path)
    try:
        with stream:
            writer = RecordWriter(stream, path, as_list=as_list)
            yield writer
            writer.close_list()
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    disk_errors_explained(lambda: beside.replace(path), path)
