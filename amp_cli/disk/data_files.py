"""Opens files of records: plain or gzip; what is neither JSON nor text in UTF-8 is named and refused."""

import gzip
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from amp_cli.errors import AmpError

GZIP = b"\x1f\x8b"
OTHERS = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"PAR1": "Parquet",
    b"\xff\xfe\x00\x00": "text in UTF-32",
    b"\x00\x00\xfe\xff": "text in UTF-32",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
"""How files begin that cannot be read as they are; of two that fit, the longer stands first."""
TABLES = {".csv": "a CSV table", ".tsv": "a TSV table", ".xlsx": "an Excel table"}
_TAR = slice(257, 262)


def refuse_special_file(path: Path) -> None:
    """Refuse what is not a file of bytes with an end: a folder, a pipe (reading it may wait for ever), a device.

    Raises:
        AmpError: it is one of these, or is not there.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise AmpError(f"Cannot read '{path}': it is {kind}, not a file", hint="Give the path of a file")


def unreadable(path: Path, error: Exception) -> AmpError:
    """Return what is said of a file that the system does not let us read."""
    reason = getattr(error, "strerror", None) or error
    return AmpError(f"Cannot read '{path}': {reason}", hint="Check the path, and that you may read the file")


@contextmanager
def open_records(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yield a file's bytes, unpacked where it is gzip, and the file itself, whose position says how far it is read.

    Raises:
        AmpError: it cannot be read, or is something else than JSON in UTF-8.
    """
    refuse_special_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            _refuse_other_kinds(path, head)
            if not head.startswith(GZIP):
                yield file, file
                return
            with gzip.GzipFile(fileobj=file) as unpacked:
                if unpacked.read(512)[_TAR] == b"ustar":
                    raise _refusal(path, "a TAR archive")
                unpacked.seek(0)
                yield cast(BinaryIO, unpacked), file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise AmpError(f"'{path}' is a damaged gzip file: {error}", hint="Fetch it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    kind = TABLES.get(path.suffix.lower())
    kind = kind or next((name for start, name in OTHERS.items() if head.startswith(start)), None)
    if kind is None and head[_TAR] == b"ustar":
        kind = "a TAR archive"
    if kind is None and head[:1] != b"\x00" and head[1:4:2] == b"\x00\x00":  # every second byte of plain letters
        kind = "text in UTF-16"
    if kind is not None:
        raise _refusal(path, kind)


def _refusal(path: Path, kind: str) -> AmpError:
    if kind.startswith("text in"):
        hint = f"Save it as UTF-8: iconv -f {kind.removeprefix('text in ')} -t UTF-8"
    elif "archive" in kind or "compressed" in kind:
        hint = "Unpack it first; of compressed files, gzip is read as it is"
    elif kind == "Parquet":
        hint = "Give it a name that ends in .parquet"
    else:
        hint = "Save it as JSON lines, one record a line; pandas does it with `to_json(orient='records', lines=True)`"
    return AmpError(f"'{path}' is {kind}; JSON, JSON lines and Parquet are read", hint=hint)
