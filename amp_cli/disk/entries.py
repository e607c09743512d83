"""Reads JSON lists, JSON lines, and JSON objects of named entries one record at a time, whatever the file's length.

Each record is cut out of the file before it is parsed. So one that cannot be read is left out with the reason, in a
list as in lines, and the next one is read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from amp_cli.disk.data_files import open_records
from amp_cli.disk.parsing import DEEPEST, TOO_DEEP, UnreadableError, parse_json
from amp_cli.errors import AmpError

Entry = tuple[int, dict[str, Any] | None, str]
"""Number from 1, the record, and where there is none the reason."""
MARK = b"\xef\xbb\xbf"
LONGEST = 64 << 20
"""Bytes of a record. An image in base64 fits; what is longer is no record, and would fill the memory."""
_BLOCK = 1 << 20
_UP_TO_COMMA = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_UP_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_UP_TO_QUOTE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the records of a JSON list or of JSON lines, plain or gzip, in the file's order.

    What is not an object (a torn line, a bare number) is yielded with the reason. A byte-order mark, CRLF and empty
    lines are tolerated.

    Raises:
        AmpError: the file cannot be read, is empty, or is one JSON value that is not a list.
    """
    with open_records(path) as (stream, _):
        yield from entries_of(path, stream)


def entries_of(path: Path, stream: BinaryIO, *, key: str | None = None) -> Iterator[Entry]:
    """Yield the records of an opened file.

    Args:
        key: the field that takes an entry's name where the file is one object of named objects; None reads no such.

    Raises:
        AmpError: it is empty, or one JSON value that is neither a list nor such an object.
    """
    start = len(MARK) if stream.read(len(MARK)) == MARK else 0
    stream.seek(start)
    first = _first_character(stream)
    stream.seek(start)
    if not first:
        raise AmpError(f"'{path}' is empty", hint="Write or fetch it again")
    if first == b"[":
        return _entries_of_list(stream, start)
    if first == b"{" and _is_one_object(stream, start, key):
        if key is None:
            raise _neither_list_nor_lines(path)
        return _entries_of_object(path, stream, start, key)
    stream.seek(start)
    return _entries_of_lines(stream)


def _first_character(stream: BinaryIO) -> bytes:
    while block := stream.read(_BLOCK):
        if block := block.lstrip():
            return block[:1]
    return b""


def _is_one_object(stream: BinaryIO, start: int, key: str | None) -> bool:
    """Say whether the file is one object over several lines, or one of objects; leaves the stream at the start."""
    line = b""
    while not line:  # the first character is known to exist
        line = stream.readline(LONGEST).strip()
    has_more = bool(_first_character(stream))
    stream.seek(start)
    if has_more or key is None:
        return line == b"{"
    try:
        value = parse_json(line)
    except UnreadableError:
        return False
    return bool(value) and all(isinstance(entry, dict) for entry in value.values())


def _neither_list_nor_lines(path: Path) -> AmpError:
    return AmpError(
        f"'{path}' is neither a JSON list nor JSON lines",
        hint="Put the items in a list: [{...}, {...}], or one object on each line",
    )


def _entries_of_list(stream: BinaryIO, start: int) -> Iterator[Entry]:
    for number, content, reason in _cut_out(stream, start, "list"):
        yield (number, None, reason) if content is None else (number, *_record_of(content, f"entry {number}"))


def _entries_of_object(path: Path, stream: BinaryIO, start: int, key: str) -> Iterator[Entry]:
    for number, content, reason in _cut_out(stream, start, "file"):
        if content is None:
            yield number, None, reason
            continue
        named, reason = _record_of(b"{" + content + b"}", f"entry {number}")
        name, record = next(iter(named.items())) if named else ("", None)
        if isinstance(record, dict):
            yield number, {**record, key: name}, ""
        elif number == 1 and named:
            raise _neither_list_nor_lines(path)
        else:
            yield number, None, reason or f"entry {name!r:.80} is not a JSON object"


def _entries_of_lines(stream: BinaryIO) -> Iterator[Entry]:
    number = 0
    while line := stream.readline(LONGEST):
        number += 1
        if len(line) == LONGEST and not line.endswith(b"\n"):
            while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield number, None, f"line {number} is longer than {LONGEST >> 20} MB"
        elif line.strip():
            yield number, *_record_of(line, f"line {number}")


def _record_of(content: bytes, place: str) -> tuple[dict[str, Any] | None, str]:
    try:
        record = parse_json(content)
    except UnreadableError as error:
        return None, f"{place} {error}"
    return (record, "") if isinstance(record, dict) else (None, f"{place} is not a JSON object")


def _cut_out(stream: BinaryIO, start: int, whole: str) -> Iterator[tuple[int, bytes | None, str]]:
    """Yield number and bytes of each element of the list or object that the stream begins with, without its commas.

    Only strings and brackets are looked at. What is nested too deeply or too long is passed over, and yielded as None
    with the reason; so is an end that is missing, and what stands behind the end.
    """
    cutter = _Cutter()
    number, position = 0, start
    while block := stream.read(_BLOCK):
        for content, reason in cutter.feed(block):
            number += 1
            yield number, content, reason and f"entry {number} {reason}"
        position += len(block)
        if cutter.has_ended:
            rest = cutter.rest.strip() or stream.read(_BLOCK).strip()
            if rest:
                yield number + 1, None, f"the {whole} cannot be read on from entry {number + 1}: it has ended already"
            return
    reason = f"it {cutter.fault}" if cutter.fault else f"it breaks off after {position:,} bytes"
    yield number + 1, None, f"the {whole} cannot be read on from entry {number + 1}: {reason}"


class _Cutter:
    """Follows strings and brackets block by block, and hands out the elements of the outermost list or object."""

    def __init__(self) -> None:
        self.has_ended = False
        self.rest = b""
        self._depth = 0
        self._is_in_string = False
        self._carried = b""  # a backslash whose second half is in the next block
        self._parts: list[bytes] = []
        self._size = 0
        self.fault = ""
        self._count = 0

    def feed(self, block: bytes) -> Iterator[tuple[bytes | None, str]]:
        block = self._carried + block
        self._carried = b""
        place = begin = 0
        while place < len(block):
            pattern = _UP_TO_QUOTE if self._is_in_string else _UP_TO_COMMA if self._depth == 1 else _UP_TO_BRACKET
            found = pattern.match(block, place)
            assert found is not None  # it matches the empty text too
            place = found.end()
            if place == len(block):
                break
            character = block[place : place + 1]
            if character == b"\\":
                self._carried = block[place:]
                break
            place += 1
            if character == b'"':
                self._is_in_string = not self._is_in_string
            elif character in b"[{":
                self._depth += 1
                begin = place if self._depth == 1 else begin
                self.fault = self.fault or (TOO_DEEP if self._depth > DEEPEST else "")
            elif character in b"]}":
                self._depth -= 1
            if character == b"," or self._depth == 0:
                self._keep(block[begin : place - 1])
                begin = place
                yield from self._element(is_last=self._depth == 0)
            if self._depth == 0:
                self.has_ended, self.rest = True, block[place:]
                return
        self._keep(block[begin : len(block) - len(self._carried)])

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LONGEST:
            self.fault = f"is longer than {LONGEST >> 20} MB"
        if self.fault:
            self._parts = []
        else:
            self._parts.append(part)

    def _element(self, *, is_last: bool) -> Iterator[tuple[bytes | None, str]]:
        content, fault = b"".join(self._parts), self.fault
        self._parts, self._size, self.fault = [], 0, ""
        is_empty_list = is_last and not self._count and not content.strip() and not fault
        if not is_empty_list:
            self._count += 1
            yield (None, fault) if fault else (content, "")
