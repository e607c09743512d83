"""Verifies a downloaded file: its size, its checksum, and where none is published, its content."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.entries import read_entries
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError

BLOCK = 1 << 20
FETCH_AGAIN = "Fetch it again with `amp download`; if it stays so, its publisher has changed it"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a file turned out to be. `how` says what was compared."""

    sha256: str
    how: str


def verify(path: Path, size: int | None, expected: str | None, check: Callable[[Path], str] | None = None) -> Verified:
    """Compare a file with what is known of it.

    Args:
        expected: "sha256:...", "md5:..." or "git:..." (a git blob id).
        check: looks at the content, returns what it found, raises AmpError.

    Raises:
        AmpError: the file is something else; the message says how.
    """
    actual = path.stat().st_size
    if size is not None and actual != size:
        raise AmpError(f"'{path.name}' has {actual:,} bytes; {size:,} were expected", hint=FETCH_AGAIN)
    kind, _, value = (expected or "").partition(":")
    sha256, other = _digests(path, actual, kind)
    if kind and value != (sha256 if kind == "sha256" else other):
        raise AmpError(
            f"'{path.name}' has the {_NAMES[kind]} {sha256 if kind == 'sha256' else other}, not {value}",
            hint=FETCH_AGAIN,
        )
    found = check(path) if check else ""
    how = _NAMES[kind] if kind else "no published checksum" + (f"; {found}" if found else "")
    return Verified(sha256=sha256, how=how)


_NAMES = {"sha256": "sha256", "md5": "md5", "git": "git blob id"}


def _digests(path: Path, size: int, kind: str) -> tuple[str, str]:
    """Return the SHA-256, and the other checksum that is asked for, in one reading."""
    sha256 = hashlib.sha256()
    other = hashlib.md5(usedforsecurity=False) if kind == "md5" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":
        other.update(b"blob %d\0" % size)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            sha256.update(block)
            if kind in ("md5", "git"):
                other.update(block)
    return sha256.hexdigest(), other.hexdigest()


def record_check(counts: tuple[int, ...], fields: tuple[str, ...], unit: str = "records") -> Callable[[Path], str]:
    """Return a check that a JSON list or JSONL file has one of `counts` records, each with `fields`."""

    def check(path: Path) -> str:
        number = 0
        for line, record, reason in read_entries(path):
            if record is None:
                raise AmpError(f"'{path.name}': {reason}", hint=FETCH_AGAIN)
            lacking = [field for field in fields if field not in record]
            if lacking:
                raise AmpError(f"'{path.name}', record {line}, lacks {', '.join(lacking)}", hint=FETCH_AGAIN)
            number += 1
        if number not in counts:
            wanted = " or ".join(f"{count:,}" for count in counts)
            raise AmpError(f"'{path.name}' has {number:,} {unit}; {wanted} were expected", hint=FETCH_AGAIN)
        return f"{number:,} {unit}"

    return check


def key_check(*keys: str) -> Callable[[Path], str]:
    """Return a check that a file is one JSON object with all of `keys` (any object where none are given)."""

    def check(path: Path) -> str:
        value: Any = read_json(path)
        lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
        if lacking or not isinstance(value, dict):
            raise AmpError(
                f"'{path.name}' is not the expected file: it lacks {', '.join(lacking) or 'everything'}",
                hint=FETCH_AGAIN,
            )
        return "JSON object"

    return check


def text_check(path: Path) -> str:
    """Check that a file is text that is no web page (what a proxy sends instead)."""
    head = path.read_bytes()[:4096]
    if not head or b"\0" in head or head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise AmpError(f"'{path.name}' is not the expected text file", hint=FETCH_AGAIN)
    return "text"
