"""Which items `--limit` asks for: the same for everybody, in proportion, and whole where they belong together.

Items stand in one fixed order, of which a limit takes the beginning; a higher limit keeps all that a lower one asked:

    stratum yes   a b c d      places 1/8 3/8 5/8 7/8         order  a p b c q d
    stratum no    p q          places 1/4     3/4             limit 3 asks a p b: 2 of 4, 1 of 2

Within a stratum the order is that of SHA-256.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from amp_cli.records import BenchmarkItem


class HasId(Protocol):
    """Anything that can be drawn."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=HasId)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a benchmark is sampled.

    Attributes:
        whole: a key that items have in common which are asked together or not at all.
        strata: of an item, what is kept in proportion, the most important first.
        unit: what `--limit` counts where that is not the benchmark's items but what is asked as a whole.
    """

    whole: Callable[[Any], str] = lambda item: str(item.id)
    strata: Callable[[Any], tuple[str, ...]] = lambda item: ()
    unit: str = ""


def about_images(item: BenchmarkItem) -> str:
    """Return what the questions about the same images have in common."""
    return "\n".join(item.images)


BY_ITEM = Sampling()
"""Every item for itself."""


@dataclass(frozen=True, kw_only=True)
class _Unit:
    key: str
    strata: tuple[str, ...]
    size: int


def take(items: Sequence[Item], sampling: Sampling, limit: int, seed: int) -> tuple[Item, ...]:
    """Return at most `limit` items, or so many units where those are counted, in their order; at least one unit."""
    together: dict[str, list[Item]] = {}
    for item in items:
        together.setdefault(sampling.whole(item), []).append(item)
    units = [_Unit(key=key, strata=sampling.strata(of[0]), size=len(of)) for key, of in together.items()]
    taken: set[str] = set()
    size = 0
    for unit in _in_order(units, 0, seed):
        size += 1 if sampling.unit else unit.size
        if taken and size > limit:
            break
        taken.add(unit.key)
    return tuple(item for item in items if sampling.whole(item) in taken)


def _in_order(units: Sequence[_Unit], depth: int, seed: int) -> list[_Unit]:
    """Return the units by hash, or the strata, each in its order, woven together in proportion to their sizes."""
    strata: dict[str, list[_Unit]] = {}
    for unit in units:
        strata.setdefault(unit.strata[depth] if depth < len(unit.strata) else "", []).append(unit)
    if len(strata) == 1 and all(depth >= len(unit.strata) for unit in units):
        return sorted(units, key=lambda unit: place_of(unit.key, seed))
    placed = [
        ((place + 0.5) / len(members), number, unit)
        for number, (_, members) in enumerate(sorted(strata.items()))
        for place, unit in enumerate(_in_order(members, depth + 1, seed))
    ]
    return [unit for _, _, unit in sorted(placed, key=lambda one: one[:2])]


def place_of(key: str, seed: int) -> bytes:
    """Return where a key stands in the order of a seed; 0 is the order of earlier versions, which had no other."""
    return hashlib.sha256((key if seed == 0 else f"{seed}\n{key}").encode()).digest()


def sample_text(scores: Mapping[str, Any]) -> str:
    """Return `500 of 9,000 questions, seed 0`; "" where everything was asked.

    Raises:
        LookupError, TypeError, ValueError: the scores are damaged.
    """
    sample = scores.get("limit")
    if sample is None:
        return ""
    return f"{sample['asked']:,} of {sample['of']:,} {sample['items']}, seed {sample['seed']}"
