"""Shows how far the reading of a preference file is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_cli import ui


@contextmanager
def reading_progress(label: str, source: Path) -> Iterator[Callable[[], None]]:
    """Show a bar where the number of entries is known: the lines of a JSONL file; yields what advances it."""
    if source.suffix != ".jsonl" or not source.is_file():
        yield lambda: None
        return
    with source.open("rb") as stream:
        lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    with ui.progress(label, lines) as advance:
        yield advance
