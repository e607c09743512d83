"""What a long step reports while it runs; the command hands in a bar, tests and Python callers nothing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Opens a count of `total` items and yields the function that advances it by one (`amp_cli.ui.progress`)."""

    def __call__(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Callable[[], None]]: ...


@contextmanager
def silent(label: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Report nothing."""
    yield lambda: None
