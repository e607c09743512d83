"""Files that survive a kill: append-only JSONL, atomic writes, hashes."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from amp_cli import ui
from amp_cli.disk.data_files import refuse_special_file
from amp_cli.disk.parsing import UnreadableError, parse_json, wrong_field
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
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)

    disk_errors_explained(write, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it over."""
    write_lines(path, (content,))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSONL file, atomically and record by record; where they fail, `path` stays as it was."""
    write_lines(path, (f"{_one_line(record)}\n".encode() for record in records))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines, each with its end, beside `path` and rename the file over."""
    beside = path.with_name(path.name + ".part")

    def begin() -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        return beside.open("wb")

    with disk_errors_explained(begin, path) as stream:
        try:
            for line in lines:
                disk_errors_explained(partial(stream.write, line), path)
            disk_errors_explained(stream.flush, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    disk_errors_explained(lambda: beside.replace(path), path)


def _one_line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


class RecordLog:
    """An append-only JSONL file of our own: a line is on disk before the next item starts.

    Reading leaves the file as it is. A last line that a kill left without its end is passed over by readers, and cut
    off by whoever appends next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_whole = False

    def read(self) -> list[dict[str, Any]]:
        """Return all records in the order they were written.

        Raises:
            AmpError: a line is not a record; the message names it.
        """
        return self.read_as(dict)

    def read_as(self, build: Callable[[dict[str, Any]], Result]) -> list[Result]:
        """Return what `build` makes of each record.

        Raises:
            AmpError: a line is not a record, or `build` finds it to lack a field or to hold something else there.
        """
        return [built for _, built in self.scan(build)]

    def scan(self, build: Callable[[dict[str, Any]], Result]) -> Iterator[tuple[int, Result]]:
        """Yield what `build` makes of each record, with the place of its line in the file, for `lines_at`.

        Raises:
            AmpError: as `read_as` does.
        """
        if not self.path.exists():
            return
        refuse_special_file(self.path)
        start = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip() and line.endswith(b"\n"):
                    yield start, self._built(number, line, build)
                start += len(line)

    def _built(self, number: int, line: bytes, build: Callable[[dict[str, Any]], Result]) -> Result:
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise UnreadableError("is not a JSON object")
            built = build(record)
            wrong = wrong_field(built)
            if wrong is None:
                return built
            reason = f"holds something else in '{wrong}' than amp writes"
        except UnreadableError as error:
            reason = str(error)
        except AmpError as error:
            reason = f"cannot be used: {error.message}"
        except KeyError as error:
            reason = f"lacks the field {error}"
        except (TypeError, ValueError, AttributeError) as error:
            reason = f"holds a value of another kind than amp writes ({error})"
        raise AmpError(
            f"'{self.path}' is damaged: line {number} {reason}",
            hint="Remove that line and run the same command again, or start afresh with --overwrite",
        )

    def lines_at(self, starts: Iterable[int]) -> Iterator[bytes]:
        """Yield the lines that begin at these places, in their order."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            for start in starts:
                stream.seek(start)
                yield stream.readline()

    def ids(self) -> set[str]:
        """Return the ids that are done."""
        return set(self.read_as(lambda record: str(record["id"])))

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and flush it."""
        import jsonlines

        def write() -> None:
            self._make_whole()
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                jsonlines.Writer(stream, dumps=_one_line, flush=True).write(record)

        disk_errors_explained(write, self.path)

    def _make_whole(self) -> None:
        """Make the folder, and cut a last line that a kill left without its end."""
        if self._is_whole:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _cut_torn_line(self.path)
        self._is_whole = True


def _cut_torn_line(path: Path) -> None:
    """Cut a file after its last line break; it is read block by block, from its end."""
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        size = end
        while end:
            start = max(0, end - (1 << 16))
            stream.seek(start)
            if (place := stream.read(end - start).rfind(b"\n")) >= 0:
                end = start + place + 1
                break
            end = start
    if end < size:
        os.truncate(path, end)


def content_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of a folder's files by name and content.

    Raises:
        AmpError: it is neither.
    """
    with ui.busy(f"Taking the digest of '{path}'"):
        return _content_hash(path)


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    if not path.is_dir():
        refuse_special_file(path)
        _add_file(digest, path)
        return digest.hexdigest()
    files = (file for file in path.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: file.relative_to(path).parts):  # Windows would sort without the case
        digest.update(file.relative_to(path).as_posix().encode())
        _add_file(digest, file)
    return digest.hexdigest()


def _add_file(digest: Any, path: Path) -> None:
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
