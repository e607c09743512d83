"""Holds items out by their pictures: what shares a picture, whatever its file is called, stays on one side."""

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from amp_cli import ui
from amp_cli.core.store import content_hash


def hold_out(pictures: Sequence[Sequence[Path]], share: float, seed: int) -> set[int]:
    """Return the numbers of the items that are held out: at most `share` of them, in whole groups.

    Items belong to one group if they share a picture's content, directly or through other items. Groups are taken in
    random order as long as they fit; an item without a picture is a group of its own.

    Args:
        pictures: the files of each item's pictures.
        share: of the items, between 0 and 1.
    """
    from scipy.cluster.hierarchy import DisjointSet

    contents = _contents({path for paths in pictures for path in paths})
    sets = DisjointSet(range(len(pictures)))
    first_with: dict[str, int] = {}
    for number, paths in enumerate(pictures):
        for path in paths:
            sets.merge(number, first_with.setdefault(contents[path], number))
    groups: dict[int, list[int]] = {}
    for number in range(len(pictures)):
        groups.setdefault(sets[number], []).append(number)
    inorder = list(groups.values())
    random.Random(f"{seed} held out").shuffle(inorder)
    wanted = round(share * len(pictures))
    held: set[int] = set()
    for group in inorder:
        if len(held) + len(group) <= wanted:
            held.update(group)
    return held


def _contents(paths: set[Path]) -> dict[Path, str]:
    """Return the hash of each file, read in parallel."""
    ordered = sorted(paths)
    with (
        ui.progress("Reading pictures", len(ordered), unit="pictures") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        contents = {}
        for path, content in zip(ordered, pool.map(content_hash, ordered), strict=True):
            contents[path] = content
            advance()
    return contents
