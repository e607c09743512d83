"""Reads JSON lists, JSONL, and JSON objects of named entries one record at a time, whatever the file's length."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import KEY

Entry = tuple[int, dict[str, Any] | None, str]
"""Number from 1, the record, and where there is none the reason."""
MARK = b"\xef\xbb\xbf"
LONGEST_LINE = 64 << 20
"""Bytes. An image in base64 fits; what is longer is no line, and reading it whole would fill the memory."""


def json_entries(path: Path, stream: BinaryIO) -> Iterator[Entry]:
    """Yield the records of a file in its order.

    A byte-order mark, CRLF and empty lines are tolerated. A list that breaks off gives what stands before that point,
    and the reason.

    Raises:
        AmpError: it is empty, or one JSON value that is neither a list nor an object of objects.
    """
    start = len(MARK) if stream.read(len(MARK)) == MARK else 0
    stream.seek(start)
    first = _first_character(stream)
    stream.seek(start)
    if not first:
        raise AmpError(f"'{path}' is empty")
    if first == b"[":
        return _entries_of_list(stream)
    if first == b"{" and _is_one_object(stream, start):
        return _entries_of_object(path, stream)
    stream.seek(start)
    return _entries_of_lines(stream)


def _first_character(stream: BinaryIO) -> bytes:
    while block := stream.read(4096):
        if block := block.lstrip():
            return block[:1]
    return b""


def _is_one_object(stream: BinaryIO, start: int) -> bool:
    """Say whether the file is one object of objects, not lines; leaves the stream at the start."""
    line = stream.readline(LONGEST_LINE).strip()
    while not line:  # the first character is known to exist
        line = stream.readline(LONGEST_LINE).strip()
    has_more = bool(_first_character(stream))
    stream.seek(start)
    if has_more:
        return line == b"{"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return bool(value) and all(isinstance(entry, dict) for entry in value.values())


def _entries_of_list(stream: BinaryIO) -> Iterator[Entry]:
    import ijson

    number = 0
    try:
        for number, record in enumerate(ijson.items(stream, "item", use_float=True), start=1):
            if isinstance(record, dict):
                yield number, record, ""
            else:
                yield number, None, f"entry {number} is not a JSON object"
    except (ijson.JSONError, ValueError) as error:  # ValueError: a number too long, or invalid UTF-8
        yield number + 1, None, f"the list cannot be read on from entry {number + 1}: {_in_one_line(error)}"


def _entries_of_object(path: Path, stream: BinaryIO) -> Iterator[Entry]:
    import ijson

    number = 0
    try:
        for number, (key, record) in enumerate(ijson.kvitems(stream, "", use_float=True), start=1):
            if isinstance(record, dict):
                yield number, {**record, KEY: key}, ""
            elif number == 1:
                raise AmpError(
                    f"'{path}' is neither a JSON list nor JSON lines",
                    hint="Put the items in a list: [{...}, {...}], or one object on each line",
                )
            else:
                yield number, None, f"entry {key!r:.80} is not a JSON object"
    except (ijson.JSONError, ValueError) as error:
        yield number + 1, None, f"the file cannot be read on from entry {number + 1}: {_in_one_line(error)}"


def _in_one_line(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not valid UTF-8"
    return " ".join(str(part) for part in error.args).split("\n")[0].strip()[:120]


def _entries_of_lines(stream: BinaryIO) -> Iterator[Entry]:
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            yield number, None, f"line {number} is longer than {LONGEST_LINE >> 20} MB"
        elif line.strip():
            yield number, *_record_of_line(line, number)


def _record_of_line(line: bytes, number: int) -> tuple[dict[str, Any] | None, str]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return None, f"line {number} is not valid UTF-8"
    except json.JSONDecodeError as error:
        return None, f"line {number} is not valid JSON ({error.msg})"
    except ValueError:  # Python refuses whole numbers of thousands of digits
        return None, f"line {number} holds a number that is too long"
    except RecursionError:
        return None, f"line {number} is nested too deeply"
    return (record, "") if isinstance(record, dict) else (None, f"line {number} is not a JSON object")
