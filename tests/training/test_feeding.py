"""How items reach a trainer: the same updates for any number of processes, light to send, and the bad ones left out."""

import json
import pickle
import resource
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.utils.data import RandomSampler

from amp_cli.disk.left_out import LeftOut
from amp_cli.training.data import EncodedItems, load_items, prepare_items
from amp_cli.training.feeding import EpochShares, Share, ShareLoader, unpacked
from amp_cli.training.session import load_policy
from amp_cli.training.sft import sft_batch
from amp_cli.training.worker import allow_many_files
from tests.support.training_items import preference, write_preferences
from tests.training.test_trainer import RAGGED, metrics, train


def shares(items: int, *, processes: int, at_once: int, epoch: int = 0) -> list[list[list[int]]]:
    """Return, for each turn, what each process takes."""
    each = [EpochShares(items, seed=3, process=one, processes=processes, at_once=at_once) for one in range(processes)]
    for one in each:
        one.set_epoch(epoch)
    assert len({len(one) for one in each}) == 1
    return [list(turn) for turn in zip(*each, strict=True)]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("items", [1, 3, 8, 10, 11])
def test_an_update_has_the_same_items_however_many_processes_share_it(items: int, processes: int) -> None:
    alone = [turn[0] for turn in shares(items, processes=1, at_once=4)]
    together = shares(items, processes=processes, at_once=4 // processes)
    assert [sorted(chain.from_iterable(turn)) for turn in together] == [sorted(one) for one in alone]
    last = [len(one) for one in together[-1]]
    assert max(last) - min(last) <= 1  # the last update's few items are dealt out evenly


def test_every_epoch_has_its_own_order_which_is_that_of_earlier_versions() -> None:
    for epoch in range(3):
        drawn = torch.Generator().manual_seed(3 + epoch)
        before = list(RandomSampler(range(10), generator=drawn))
        turns = shares(10, processes=1, at_once=4, epoch=epoch)
        assert list(chain.from_iterable(turn[0] for turn in turns)) == before


@pytest.fixture
def data(tmp_path: Path) -> EncodedItems:
    prefs = write_preferences(tmp_path / "data", [preference(number, levels=4) for number in range(6)])
    prepare_items(prefs, tmp_path, image_root=None, method="mdpo")
    return EncodedItems(load_policy(RAGGED, "cpu"), load_items(tmp_path, "mdpo"), method="mdpo")


def assert_same_items(data: EncodedItems, found: list[Share], order: list[list[int]]) -> None:
    for share, numbers in zip(found, order, strict=True):
        assert share.items == len(share.batch) == len(numbers)
        for item, number in zip(share.batch, numbers, strict=True):
            assert torch.equal(item.image_inputs["pixel_values"], data[number].image_inputs["pixel_values"])
            for one, other in zip(item.responses, data[number].responses, strict=True):
                assert torch.equal(one.input_ids, other.input_ids)


def test_data_workers_send_bytes_and_no_tensors(data: EncodedItems) -> None:
    order = [[3, 1, 2], [], [0]]
    loader = ShareLoader(data, order, list, at_once=3, workers=2)
    arrived = list(loader)
    assert all(isinstance(one, bytes) for one in arrived)  # pickled tensors would be files
    assert_same_items(data, [unpacked(one) for one in arrived], order)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_data_workers_need_not_be_forked(data: EncodedItems, method: str) -> None:
    loader = ShareLoader(data, [[0, 1]], list, at_once=2, workers=1)
    loader.multiprocessing_context = method
    assert_same_items(data, [unpacked(one) for one in loader], [[0, 1]])


def test_what_a_data_worker_is_sent_holds_no_weights(data: EncodedItems) -> None:
    sent = pickle.dumps(data)
    weights = sum(weight.nbytes for weight in data.loaded.model.parameters())
    assert len(sent) < weights / 2
    copy = pickle.loads(sent)
    assert torch.equal(copy[0].responses[0].input_ids, data[0].responses[0].input_ids)
    batch = pickle.loads(pickle.dumps(partial(sft_batch, pad_id=0, fill=data[1])))([])
    assert batch["input_ids"].shape[0] == 4  # levels


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("method", ["mdpo", "sft"])
def test_an_image_that_breaks_after_the_start_leaves_its_item_out_and_the_training_goes_on(
    tmp_path: Path, method: str, workers: int
) -> None:
    config = replace(RAGGED, method=method, epochs=1.0, max_steps=None, global_batch_size=2, data_workers=workers)
    records = [preference(number, levels=2) for number in range(4)]
    prefs = write_preferences(tmp_path / "data", records)
    prepare_items(prefs, tmp_path, image_root=None, method=method)
    (tmp_path / "encodable.json").write_text(json.dumps({"numbers": [0, 1, 2, 3], "max_length": 4096}))
    (tmp_path / "data" / "2.png").write_bytes(b"no image")
    result = train(tmp_path, config, records)
    assert (result["steps"], result["items"]) == (2, 3)
    (line,) = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "item-2"
    assert len(metrics(tmp_path)) == 2


def test_the_limit_of_open_files_is_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_unusable_item_arrives_as_the_reason(data: EncodedItems) -> None:
    short = EncodedItems(data.loaded, data.items, method="mdpo", max_length=10)
    (share,) = ShareLoader(short, [[4]], list, at_once=1, workers=0)
    assert share.items == 0
    (one,) = share.left_out
    assert isinstance(one, LeftOut)
    assert (one.id, one.reason.partition("; ")[2]) == ("item-4", "max_length is 10")
