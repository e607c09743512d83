"""Looks at the pictures of items in parallel, each file once, and gives the items back in their order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from amp_cli.core.images import check_image, find_image
from amp_cli.errors import AmpError
from amp_cli.preferences.checking.leakage import BenchmarkPictures, Match
from amp_cli.preferences.checking.looks import look_at
from amp_cli.preferences.reading import Refused
from amp_cli.records import PreferenceItem

AHEAD = 256
"""Items that are under way at once."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of an item: why it cannot be used, or the benchmark's picture that it copies."""

    name: str
    problem: str | None = None
    match: Match | None = None


Seen = tuple[PreferenceItem | Refused, tuple[Picture, ...]]


def with_pictures(
    items: Iterable[PreferenceItem | Refused], root: Path, benchmark: BenchmarkPictures | None
) -> Iterator[Seen]:
    """Yield each entry with what its pictures are like."""
    known: dict[str, Picture | Future[Picture]] = {}
    waiting: deque[PreferenceItem | Refused] = deque()

    def finished(item: PreferenceItem | Refused) -> Seen:
        names = () if isinstance(item, Refused) else item.images
        for name in names:
            picture = known[name]
            if isinstance(picture, Future):
                known[name] = picture.result()
        return item, tuple(picture for name in names if isinstance(picture := known[name], Picture))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            for name in () if isinstance(item, Refused) else item.images:
                if name not in known:
                    known[name] = pool.submit(_examine, name, root, benchmark)
            waiting.append(item)
            if len(waiting) >= AHEAD:
                yield finished(waiting.popleft())
        while waiting:
            yield finished(waiting.popleft())


def _examine(name: str, root: Path, benchmark: BenchmarkPictures | None) -> Picture:
    try:
        path = find_image(name, root)
        if benchmark is None:
            check_image(path)
            return Picture(name=name)
        return Picture(name=name, match=benchmark.match(look_at(path)))
    except AmpError as error:
        return Picture(name=name, problem=error.message)
