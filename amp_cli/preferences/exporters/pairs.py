"""Cuts the levels of an item into pairs of a better and a worse response."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

from amp_cli.errors import AmpError
from amp_cli.records import PreferenceItem

PAIRINGS = ("all", "adjacent", "best-vs-rest")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two levels of an item; `better` and `worse` are their places in the quality order, from 0."""

    item: PreferenceItem
    better: int
    worse: int

    def __post_init__(self) -> None:
        if not 0 <= self.better < self.worse < len(self.item.levels):
            raise AmpError(f"there is no pair of levels {self.better} and {self.worse}")

    @property
    def id(self) -> str:
        """The item's id; where it gives more pairs than one, with the two levels behind it."""
        return self.item.id if len(self.item.levels) == 2 else f"{self.item.id}-{self.better}-{self.worse}"

    @property
    def chosen(self) -> tuple[str, ...]:
        return self.item.levels[self.better].answers

    @property
    def rejected(self) -> tuple[str, ...]:
        return self.item.levels[self.worse].answers

    @property
    def shared_rounds(self) -> int:
        """How many rounds from the start have the same answer on both sides; the last round is never counted."""
        count = 0
        while count < len(self.item.questions) - 1 and self.chosen[count] == self.rejected[count]:
            count += 1
        return count


def cut_pairs(item: PreferenceItem, pairing: str) -> Iterator[Pair]:
    """Yield the item's pairs: `all` of them, `adjacent` levels only, or the best level with each other one."""
    numbers = range(len(item.levels))
    places = {
        "all": combinations(numbers, 2),
        "adjacent": pairwise(numbers),
        "best-vs-rest": ((0, worse) for worse in numbers[1:]),
    }[pairing]
    for better, worse in places:
        yield Pair(item=item, better=better, worse=worse)
