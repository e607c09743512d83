"""Finds the one JSON list in a folder whose records have certain fields, and numbers records of the same name."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amp_cli.core.store import content_hash
from amp_cli.errors import AmpError

_LARGEST = 64 << 20
"""Bytes. Larger JSON files are no benchmark's questions."""


def find_list(data: Path, is_one: Callable[[Mapping[str, Any]], bool], what: str, hint: str) -> Path | None:
    """Return the JSON list at or below `data` whose first record `is_one`; None where there is none.

    Raises:
        AmpError: `data` is not there, or holds several such files that differ.
    """
    if data.is_file():
        return data if data.suffix != ".zip" else None
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint=hint)
    found = [file for file in sorted(data.rglob("*.json")) if file.is_file() and _first_fits(file, is_one)]
    if len({content_hash(file) for file in found}) > 1:
        listed = ", ".join(f"'{file.relative_to(data)}'" for file in found)
        raise AmpError(f"{len(found)} files below '{data}' hold {what}: {listed}", hint="Give one of them with --data")
    return found[0] if found else None


def _first_fits(file: Path, is_one: Callable[[Mapping[str, Any]], bool]) -> bool:
    if file.stat().st_size > _LARGEST:
        return False
    try:
        records = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # some other program's file
        return False
    return isinstance(records, list) and bool(records) and isinstance(records[0], dict) and is_one(records[0])


def numbered(names: Iterable[str]) -> list[str]:
    """Return the names, the second of the same name with `-2` behind it, and so on."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def text_field(record: Mapping[str, Any], name: str, where: str) -> str:
    """Return a text of a record, or refuse the record by the field's name."""
    value = record.get(name)
    if not isinstance(value, str):
        raise AmpError(f"{where} has no text '{name}'")
    return value


def text_list(record: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Return a list of texts of a record, or refuse the record by the field's name."""
    value = record.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise AmpError(f"{where} has no list of texts '{name}'")
    return tuple(value)


def spoken(text: str) -> str:
    """Return a question as it is said: without picture tags and white space around it."""
    return text.replace("<image>", "").strip()
