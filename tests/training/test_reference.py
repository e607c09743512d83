"""The reference's log-probabilities on disk: the same training, once computed, known by content."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amp_cli.errors import AmpError
from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training import reference
from amp_cli.training.reference import ReferenceCache, cache_identity, check_cache, choose_reference, item_key
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.sharding import InStep
from tests.training.test_trainer import RAGGED, adapter, metrics, train

CACHED = replace(RAGGED, reference="cache")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many items each call of the reference's computation was asked for."""
    seen: list[int] = []
    compute = reference.compute_reference

    def counted(model: object, forward: object, items: list[EncodedItem], **settings: int) -> list[torch.Tensor]:
        seen.append(len(items))
        found: list[torch.Tensor] = compute(model, forward, items, **settings)  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(reference, "compute_reference", counted)
    return seen


def files(home: Path) -> list[Path]:
    return sorted(home.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_cached_reference_trains_as_one_that_is_computed_in_every_step(tmp_path: Path) -> None:
    online, cached = tmp_path / "online", tmp_path / "cached"
    config = replace(RAGGED, max_steps=4, round_weight=0.05)
    assert train(online, replace(config, reference="online"))["reference"] == "online"
    assert train(cached, replace(config, reference="cache"))["reference"] == "cache"
    for one, other in zip(metrics(online), metrics(cached), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["margin"] == pytest.approx(one["margin"], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_another_run_on_the_same_items_computes_nothing_again(tmp_path: Path, home: Path, passes: list[int]) -> None:
    train(tmp_path / "first", CACHED)
    assert sum(passes) == 8
    passes.clear()
    train(tmp_path / "second", replace(CACHED, beta=0.2, penalty=0.0, lora_r=2, seed=1, round_weight=0.05))
    assert passes == [1, 0]  # one to see that the numbers still hold
    assert len(files(home)) == 1


@pytest.mark.slow
def test_a_killed_computation_goes_on_with_what_is_missing(
    tmp_path: Path, home: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "ITEMS_PER_FILE", 3)
    train(tmp_path / "first", CACHED)
    written = files(home)
    assert len(written) == 3  # 3 + 3 + 2 items
    lost = len(load_file(written[0]))
    written[0].unlink()  # as a kill before it was written leaves it
    passes.clear()
    train(tmp_path / "second", CACHED)
    assert sum(passes) in (lost, lost + 1)  # and one to see that the others still hold


@pytest.mark.slow
def test_a_damaged_file_is_computed_again(tmp_path: Path, home: Path, passes: list[int]) -> None:
    train(tmp_path / "first", CACHED)
    (path,) = files(home)
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"\0" * 8)
    passes.clear()
    train(tmp_path / "second", CACHED)
    assert sum(passes) == 8
    assert [file.read_bytes() for file in files(home)] == [content]
    assert all(
        torch.equal(value, adapter(tmp_path / "first")[name]) for name, value in adapter(tmp_path / "second").items()
    )


@pytest.mark.slow
def test_kept_numbers_that_are_no_longer_computed_are_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "first", CACHED)
    lookup = ReferenceCache.round_logps
    # as if they came from a library that computed otherwise: half a nat more for each answer
    monkeypatch.setattr(ReferenceCache, "round_logps", lambda self, items: lookup(self, items) + 0.5)
    with pytest.raises(AmpError, match="differs by") as caught:
        train(tmp_path / "second", CACHED)
    assert "--reference online" in str(caught.value.hint)


def response(ids: list[int], rounds: list[int]) -> EncodedResponse:
    marks = torch.tensor(rounds)
    return EncodedResponse(input_ids=torch.tensor(ids), supervised=marks >= 0, round=marks)


def test_an_item_is_known_by_everything_that_the_model_reads_of_it() -> None:
    item = EncodedItem(responses=(response([1, 2, 3], [-1, 0, 0]),), image_inputs={"pixel_values": torch.zeros(1, 3)})
    others = [
        replace(item, image_inputs={"pixel_values": torch.ones(1, 3)}),
        replace(item, image_inputs={}),
        replace(item, responses=(response([1, 2, 4], [-1, 0, 0]),)),
        replace(item, responses=(response([1, 2, 3], [-1, -1, 0]),)),
        replace(item, responses=(response([1, 2, 3], [-1, 0, 1]),)),
        replace(item, responses=item.responses * 2),
    ]
    assert item_key(item) == item_key(replace(item))
    assert len({item_key(item), *map(item_key, others)}) == 7


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> tuple[ReferenceCache, EncodedItem]:
    """A cache with an item of two answer tokens, whose log-probabilities are now 0.12 nats higher in all."""
    item = EncodedItem(responses=(response([1, 2, 3], [-1, 0, 0]),), image_inputs={})
    cache = ReferenceCache({})
    cache.add(item, torch.tensor([[-2.0]]))
    monkeypatch.setattr(
        reference, "compute_reference", lambda _, __, items, **___: [torch.tensor([[-1.88]]) for _ in items]
    )
    return cache, item


def check(cache: ReferenceCache, items: list[EncodedItem], tolerance: float, in_step: InStep | None = None) -> bool:
    return check_cache(cache, None, ForwardPass(network=None, pad_id=0), items, tolerance=tolerance, in_step=in_step)


def test_kept_numbers_may_be_off_by_a_twentieth_of_a_nat_a_token_at_most(
    kept: tuple[ReferenceCache, EncodedItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, item = kept
    with pytest.raises(AmpError, match=r"differs by 0\.06 nats a token"):
        check(cache, [item], tolerance=0.3)  # as coarse as the self-test may be in bfloat16
    monkeypatch.setattr(reference, "MOST_OFF", 0.1)
    assert check(cache, [item], tolerance=0.3)
    with pytest.raises(AmpError, match=r"differs by 0\.06 nats a token"):
        check(cache, [item], tolerance=0.001)


class InStepWithOther(InStep):
    """As if another process always had something to compute."""

    def any_process(self, says: bool) -> bool:
        return True


def test_what_another_process_has_checked_is_good_for_all_that_share_the_model(
    kept: tuple[ReferenceCache, EncodedItem],
) -> None:
    cache, item = kept
    unknown = replace(item, responses=item.responses * 2)
    forward = ForwardPass(network=None, pad_id=0)
    in_step = InStepWithOther(forward=forward, fill=item, shares_model=True, device=torch.device("cpu"))
    assert not check(cache, [unknown], tolerance=0.3)
    assert check(cache, [unknown], tolerance=0.3, in_step=in_step)  # or this process would go on asking alone


def test_another_model_precision_or_quantization_has_another_cache() -> None:
    identity = {"model": {"hash": "a"}, "dtype": "float32", "quantization": None, "template": "vicuna_v1"}
    folders = {
        ReferenceCache(cache_identity({**identity, **change})).folder
        for change in ({}, {"model": {"hash": "b"}}, {"dtype": "bfloat16"}, {"quantization": "nf4"})
    }
    assert len(folders) == 4
    # the reference is the base alone, whatever adapter is being trained on
    with_adapter = cache_identity({**identity, "adapter": {"hash": "c"}})
    assert ReferenceCache(with_adapter).folder in folders


def test_the_index_says_what_the_folder_belongs_to(home: Path) -> None:
    cache = ReferenceCache({"model": {"hash": "a"}})
    assert json.loads((cache.folder / "index.json").read_text())["identity"] == {"model": {"hash": "a"}}


def test_items_with_other_numbers_of_rounds_are_put_side_by_side() -> None:
    cache = ReferenceCache({})
    one = EncodedItem(responses=(response([1, 2], [-1, 0]),), image_inputs={})
    two = EncodedItem(responses=(response([1, 3, 4], [-1, 0, 1]),), image_inputs={})
    cache.add(one, torch.tensor([[-1.5]]))
    cache.add(two, torch.tensor([[-2.0, -3.0]]))
    assert cache.round_logps([one, two]).tolist() == [[-1.5, 0.0], [-2.0, -3.0]]


def test_what_another_process_has_used_is_known_and_what_nobody_has_is_refused() -> None:
    one = EncodedItem(responses=(response([1, 2], [-1, 0]),), image_inputs={})
    two = EncodedItem(responses=(response([1, 3], [-1, 0]),), image_inputs={})
    first, second = ReferenceCache({"first": 1}), ReferenceCache({"second": 1})
    first.add(one, torch.tensor([[-1.5]]))
    second.learn(first.used)
    assert second.round_logps([one]).tolist() == [[-1.5]]
    with pytest.raises(AmpError, match="reference of an item is missing"):
        second.round_logps([one, two])


def test_the_choice_is_by_how_often_an_item_is_seen() -> None:
    assert choose_reference("auto", items=100, visits=400) == (
        True,
        "Reference: computed once to disk, since each item is seen 4.0 times",
    )
    assert choose_reference("auto", items=100, visits=100)[0] is False
    assert choose_reference("cache", items=100, visits=50)[0] is True
    assert choose_reference("online", items=100, visits=400)[0] is False
