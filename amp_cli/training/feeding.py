"""How items reach a trainer: whose turn it is in which process, and packed for the way.

Ten items in updates of four. What is in an update does not depend on how many processes share it:

    one process     a b c d    e f g h    i j
    two processes   a b        e f        i         and in the other    c d    g h    j
    three (of 3)    a          d          g   j     ...  b e h  and  c f i: the others have nothing in the last update
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.models.prompts import EncodedItem
from amp_cli.training.data import EncodedItems

Arrived = EncodedItem | LeftOut
AHEAD = 64
"""Items that data workers prepare ahead, all together: about 90 MB of 336-pixel images."""


class EpochShares(Sampler[list[int]]):
    """The numbers of the items that one process takes at once, one share after the other, in the order of an epoch.

    Shares of an epoch's last update may be smaller in some processes than in others, or empty; all have as many.

    Args:
        items: how many there are. at_once: how many of them a process takes at once.
    """

    def __init__(self, items: int, *, seed: int, process: int, processes: int, at_once: int) -> None:
        self._items = items
        self._seed = seed
        self._process = process
        self._processes = processes
        self._at_once = at_once
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: each epoch has its own."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._items // (self._processes * self._at_once))

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._items, generator=drawn).tolist()
        together = self._processes * self._at_once
        for start in range(0, self._items, together):
            numbers = order[start : start + together]
            if len(numbers) == together:
                yield numbers[self._process * self._at_once :][: self._at_once]
            else:
                yield numbers[self._process :: self._processes]


def shares_in_turn(items: int, *, process: int, processes: int, at_once: int) -> list[list[int]]:
    """Return the numbers of the items that one process takes at once, in order, each item once.

    Shares may be smaller in some processes than in others, or empty; all have as many.
    """
    own = list(range(process, items, processes))
    shares = -(-items // (processes * at_once))
    return [own[share * at_once : (share + 1) * at_once] for share in range(shares)]


class Arrivals(Dataset[Arrived]):
    """Items by number; one that turns out to be unusable comes as the reason why, and the training goes on."""

    def __init__(self, data: EncodedItems) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Arrived:
        try:
            return self.data[number]
        except AmpError as error:
            return LeftOut(id=self.data.items[number].id, reason=error.message)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process takes at once: `batch` as its trainer reads it, of how many items, and what was left out."""

    batch: Any
    items: int
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True)
class Collate:
    """Makes a share of what has arrived.

    A data worker sends it as one run of bytes through its pipe: tensors would each take a file descriptor and shared
    memory, of which a process has 1,024 and a container 64 MB.

    Attributes:
        build: makes the batch of usable items, of which there may be none. packs: whether a data worker is at work.
    """

    build: Callable[[list[EncodedItem]], Any]
    packs: bool

    def __call__(self, arrived: Sequence[Arrived]) -> Share | bytes:
        items = [one for one in arrived if isinstance(one, EncodedItem)]
        left_out = tuple(one for one in arrived if isinstance(one, LeftOut))
        share = Share(batch=self.build(items), items=len(items), left_out=left_out)
        return pickle.dumps(share) if self.packs else share


def unpacked(arrived: Share | bytes) -> Share:
    """Return what came from `Collate`, wherever it was made."""
    share: Share = pickle.loads(arrived) if isinstance(arrived, bytes) else arrived  # from our own data worker
    return share


class ShareLoader(DataLoader[Arrived]):
    """Loads shares one after the other, in data workers where there are any."""

    def __init__(
        self,
        data: EncodedItems,
        shares: EpochShares | Sequence[list[int]],
        build: Callable[[list[EncodedItem]], Any],
        *,
        at_once: int,
        workers: int,
    ) -> None:
        super().__init__(
            Arrivals(data),
            batch_sampler=shares,
            collate_fn=Collate(build=build, packs=workers > 0),
            num_workers=workers,
            prefetch_factor=max(1, AHEAD // (workers * at_once)) if workers else None,
        )
        self._shares = shares

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; the trainer calls it."""
        if isinstance(self._shares, EpochShares):
            self._shares.set_epoch(epoch)
