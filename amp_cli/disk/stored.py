"""Sequences whose records lie on the disk and are read one by one: memory grows by a few bytes a record."""

import json
import os
import sys
import tempfile
import threading
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from amp_cli.disk.jsonl import disk_errors_explained

Record = TypeVar("Record")
Base = TypeVar("Base")


if sys.platform == "win32":
    _turn = threading.Lock()

    def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
        with _turn:  # there is one place in the file for all threads
            file.seek(start)
            return file.read(size)
else:

    def _read_at(file: IO[bytes], start: int, size: int) -> bytes:
        return os.pread(file.fileno(), size, start)


class _Lazy(Sequence[Record]):
    """A sequence that makes its elements when they are asked for."""

    @abstractmethod
    def _one(self, number: int) -> Record:
        """Make the element at a place from 0 on."""

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            return [self._one(number) for number in range(*place.indices(len(self)))]
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(place)
        return self._one(number)


class Stored(_Lazy[Record]):
    """Records on the disk as JSON lines; 8 bytes of memory each. Any thread may read it.

    Args:
        build: makes a record of what a line holds.
    """

    def __init__(self, file: IO[bytes], build: Callable[[dict[str, Any]], Record]) -> None:
        self._file = file
        self._build = build
        self._starts = array("Q", [0])

    @classmethod
    def set_aside(cls, build: Callable[[dict[str, Any]], Record]) -> "Stored[Record]":
        """Return a sequence to be filled, in a file without a name (below TMPDIR) that goes when the sequence goes."""
        return cls(tempfile.TemporaryFile(), build)

    @classmethod
    def of_file(cls, path: Path, build: Callable[[dict[str, Any]], Record]) -> "Stored[Record]":
        """Return the lines of a file that amp wrote whole."""
        stored = cls(path.open("rb"), build)
        for line in stored._file:
            stored._starts.append(stored._starts[-1] + len(line))
        return stored

    def add(self, record: Mapping[str, Any]) -> None:
        """Write one more record."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        disk_errors_explained(partial(self._file.write, line), Path(tempfile.gettempdir()))
        self._starts.append(self._starts[-1] + len(line))

    def close_for_writing(self) -> None:
        """Hand everything to the system; only then is it read."""
        disk_errors_explained(self._file.flush, Path(tempfile.gettempdir()))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _one(self, number: int) -> Record:
        start, end = self._starts[number], self._starts[number + 1]
        return self._build(json.loads(_read_at(self._file, start, end - start)))


class Chosen(_Lazy[Record], Generic[Base, Record]):
    """Some elements of another sequence, each made into something when it is asked for; 4 bytes of memory each.

    Args:
        places: which of them, in which order; all when None.
    """

    def __init__(
        self, base: Sequence[Base], make: Callable[[Base], Record], places: Iterable[int] | None = None
    ) -> None:
        self._base = base
        self._make = make
        self._places: Sequence[int] = range(len(base)) if places is None else array("I", places)

    def __len__(self) -> int:
        return len(self._places)

    def _one(self, number: int) -> Record:
        return self._make(self._base[self._places[number]])
