"""Files that survive a kill: append-only JSONL, atomic writes, hashes, and reading other people's JSON."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from amp_cli.disk.data_files import open_records
from amp_cli.errors import AmpError

Result = TypeVar("Result")


def disk_errors_explained(action: Callable[[], Result], path: Path) -> Result:
    """Run a file operation; a full disk or a read-only folder becomes a sentence that names `path`."""
    try:
        return action()
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from error
    except Exception as error:
        if isinstance(error, AmpError) or "(os error " not in str(error):  # as libraries written in Rust say it
            raise
        raise _cannot_write(path, str(error)) from error


@contextmanager
def full_disk_told(path: Path | None = None) -> Iterator[None]:
    """Turn what a full or broken disk does to any writer, a library's too, into a sentence; a name too long as well.

    For the outermost places, which name no path, and for streams: what was written may fail when they are closed.
    """
    try:
        yield
    except AmpError:
        raise
    except Exception as error:
        found = next((one for one in _chain(error) if _is_of_disk(one)), None)
        if found is None:
            raise
        file = getattr(found, "filename", None)
        if isinstance(found, OSError) and found.errno == errno.ENAMETOOLONG:
            name = f"'{file:.60}...'" if isinstance(file, str) else "of a file"
            raise AmpError(f"The name {name} is too long for this disk", hint="Give a shorter one") from error
        raise _cannot_write(
            path or (file and Path(str(file))), getattr(found, "strerror", None) or str(found)
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it: a library closes its file on the way out, and fails anew."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_disk(error: BaseException) -> bool:
    """Whether a disk is full, over its quota, read-only or broken."""
    if isinstance(error, OSError):
        return error.errno in DISK
    return any(f"(os error {number})" in str(error) for number in DISK) or "inline_container.cc" in str(error)


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENAMETOOLONG)
"""Libraries written in Rust say the number in their text; torch's writer of archives says where it failed."""


def _cannot_write(path: Path | None, reason: str) -> AmpError:
    return AmpError(
        f"Cannot write '{path}': {reason}" if path else f"Cannot write: {reason}",
        hint="Make room or choose another folder with --out; what is finished is kept, the same command goes on",
    )


def write_text(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename it over, so that a reader never sees half a file."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)

    disk_errors_explained(write, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSONL file, atomically."""
    write_text(path, "".join(f"{_one_line(record)}\n" for record in records))


def read_json(path: Path) -> Any:
    """Read one JSON file of any shape.

    Raises:
        AmpError: missing, unreadable, not UTF-8, or no JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AmpError(f"Cannot read '{path}': {error.strerror or error}") from error
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AmpError(f"'{path}' is not UTF-8: byte {error.start} cannot be read", hint="Save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise AmpError(f"'{path}' is not valid JSON: {error.msg} in line {error.lineno}") from error


def read_json_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Yield the objects of a JSON list or a JSONL file as `(number, record, "")`, numbered from 1.

    What is not an object (a torn line, a bare number) is yielded as `(number, None, reason)`. A byte-order
    mark and CRLF are tolerated, empty lines skipped. JSONL is read line by line.

    Raises:
        AmpError: the file cannot be read, is empty, or is one JSON value that is no list.
    """
    with open_records(path) as (stream, _):
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not head:
            raise AmpError(f"'{path}' is empty")
        stream.seek(0)
        if head.startswith(b"["):
            yield from _records_of_list(path, stream.read())
        else:
            yield from _records_of_lines(path, stream)


def _records_of_list(path: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    for number, record in enumerate(_parsed(path, content), start=1):
        if isinstance(record, dict):
            yield number, record, ""
        else:
            yield number, None, f"entry {number} is not a JSON object"


def _records_of_lines(path: Path, stream: Any) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    for number, raw in enumerate(stream, start=1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield number, None, f"line {number} is not valid UTF-8"
        except json.JSONDecodeError as error:
            if number == 1 and line.strip() in (b"{", b"{}"):
                raise AmpError(
                    f"'{path}' is neither a JSON list nor JSON lines",
                    hint="Put the items in a list: [{...}, {...}], or one object on each line",
                ) from error
            yield number, None, f"line {number} is not valid JSON ({error.msg})"
        except RecursionError:
            yield number, None, f"line {number} is nested too deeply"
        else:
            if isinstance(record, dict):
                yield number, record, ""
            else:
                yield number, None, f"line {number} is not a JSON object"


def _one_line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


class RecordLog:
    """An append-only JSONL file of our own: a line is on disk before the next item starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        disk_errors_explained(lambda: path.parent.mkdir(parents=True, exist_ok=True), path)
        self._mend()

    def _mend(self) -> None:
        """Cut a last line that a kill left without its end."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            keep = content.rfind(b"\n") + 1
            disk_errors_explained(lambda: os.truncate(self.path, keep), self.path)

    def read(self) -> list[dict[str, Any]]:
        """Return all records in the order they were written."""
        if not self.path.exists():
            return []
        import jsonlines

        with jsonlines.open(self.path) as reader:
            return list(reader.iter(type=dict))

    def ids(self) -> set[str]:
        """Return the ids that are done."""
        return {record["id"] for record in self.read()}

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and flush it."""
        import jsonlines

        def write() -> None:
            with jsonlines.open(self.path, mode="a", dumps=_one_line, flush=True) as writer:
                writer.write(record)

        disk_errors_explained(write, self.path)


def content_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of a folder's files by name and content."""
    digest = hashlib.sha256()
    if path.is_file():
        _add_file(digest, path)
        return digest.hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(file.relative_to(path).as_posix().encode())
        _add_file(digest, file)
    return digest.hexdigest()


def _add_file(digest: Any, path: Path) -> None:
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
