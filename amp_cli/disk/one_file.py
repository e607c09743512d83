"""A result that is one file: it replaces only what amp wrote there before, and nothing that is read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_cli.disk.lock import alone_at
from amp_cli.disk.parsing import UnreadableError, parse_json
from amp_cli.errors import AmpError

PAGE_MARK = b'<meta name="generator" content="amp">'
_HEAD = 4096
_LINE = 1 << 20


@contextmanager
def alone_writing(
    out: Path, *, command: str, is_ours: Callable[[Path], bool], inputs: Iterable[Path | None]
) -> Iterator[None]:
    """Hold the place of a result file for a block that writes it.

    Args:
        is_ours: tells an earlier result of ours, which may be replaced, from anybody else's file.
        inputs: all files that are read, and all folders of such.

    Raises:
        AmpError: somebody else's file is there, or an input.
        OccupiedError: another process writes there.
    """
    with alone_at(out, command):
        refuse_foreign_file(out, is_ours=is_ours, inputs=inputs)
        yield


def refuse_foreign_file(out: Path, *, is_ours: Callable[[Path], bool], inputs: Iterable[Path | None] = ()) -> None:
    """Refuse a place where a file stands that amp did not write, or that is read; nothing there is fine.

    Raises:
        AmpError: naming it.
    """
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir():
        raise AmpError(f"'{out}' is a folder", hint="Give the name of a file")
    if any(given is not None and given.exists() and out.exists() and out.samefile(given) for given in inputs):
        raise AmpError(f"'{out}' is read, so it is not replaced", hint="Choose another file name")
    if out.is_symlink() or not out.is_file() or not is_ours(out):
        raise AmpError(
            f"'{out}' exists, and it is not an earlier result of amp", hint="Choose another file name, or move it away"
        )


def is_page(file: Path) -> bool:
    """Tell a page that amp wrote: its head says so."""
    with file.open("rb") as stream:
        return PAGE_MARK in stream.read(_HEAD)


def is_rejected_list(file: Path) -> bool:
    """Tell a list of what was left out, as ours: lines of id and reason."""
    record = first_record(file)
    return record is not None and {*record} in ({"id", "reason"}, {"id", "reason", "source"})


def first_record(file: Path) -> dict[str, object] | None:
    """Return the object in the first line of a file, or in the second of a list that begins with a line of its own."""
    with file.open("rb") as stream:
        line = stream.readline(_LINE)
        if line.strip() == b"[":
            line = stream.readline(_LINE).rstrip().removesuffix(b",")
    try:
        record = parse_json(line)
    except UnreadableError:
        return None
    return record if isinstance(record, dict) else None
