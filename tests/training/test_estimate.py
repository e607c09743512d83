"""The estimate of a training step's memory: against real tensors, against the kernel, and what follows from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import EncodedItem
from amp_cli.training import memory, session
from amp_cli.training.config import COPIES, FSDP, ZERO_2, ZERO_3, TrainConfig
from amp_cli.training.data import EncodedItems, load_items, prepare_items
from amp_cli.training.memory import (
    BaseShare,
    LiveBytes,
    MemoryEstimate,
    choose_checkpointing,
    estimate_memory,
    shown_bytes,
    spread_sample,
    weight_bytes,
)
from amp_cli.training.rows.forward import ROWS, SHARED, SHARED_DENSE, ForwardPass
from amp_cli.training.session import load_policy
from tests.support.training_items import preference, write_preferences
from tests.training.test_trainer import RAGGED, train

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(base="tiny", max_steps=1, lora_r=4, global_batch_size=1)
ESTIMATE = MemoryEstimate(
    tokens=100, weights=1000, adapter=160, head=40, activations=500, activations_checkpointed=90, images=30
)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    loaded = load_policy(CONFIG, "cpu")
    loaded.model.train()
    return loaded


@pytest.fixture(scope="module")
def items(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[EncodedItem]:
    folder = tmp_path_factory.mktemp("items")
    records = [preference(0, levels=4), preference(1, levels=2, image=False)]
    prepare_items(write_preferences(folder / "data", records), folder, image_root=None, method="mdpo")
    data = EncodedItems(loaded, load_items(folder, "mdpo"), method="mdpo")
    return [data[number] for number in range(2)]


def estimate_of(loaded: LoadedModel, items: list[EncodedItem], config: TrainConfig, **changes: Any) -> MemoryEstimate:
    given = {"precision": "float32", "on_gpu": False, "processes": 1, "layout": SHARED} | changes
    return estimate_memory(loaded.model.get_base_model(), config, items, **given)


@pytest.fixture(scope="module")
def estimates(loaded: LoadedModel, items: list[EncodedItem]) -> dict[str, MemoryEstimate]:
    """Of a pass of one item, by layout."""
    return {layout: estimate_of(loaded, items, CONFIG, layout=layout) for layout in (SHARED, SHARED_DENSE, ROWS)}


def real_peak(loaded: LoadedModel, items: list[EncodedItem], *, layout: str, checkpointing: bool) -> int:
    """Return the most bytes that the tensors of a real forward and backward pass took at once."""
    network = loaded.model.get_base_model()
    forward = ForwardPass(network=network, pad_id=0, layout=layout)
    forward.use()

    def step() -> None:
        batch = forward.lay_out(items)
        forward.round_logps(loaded.model, batch, forward.show_images(loaded.model, batch)).sum().backward()

    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    step()  # gradients are there from now on
    gradients = [weight.grad for weight in loaded.model.parameters() if weight.grad is not None]
    with LiveBytes([*loaded.model.parameters(), *loaded.model.buffers(), *gradients]) as counter:
        step()
    network.gradient_checkpointing_disable()
    return counter.peak


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layout", [SHARED, SHARED_DENSE, ROWS])
def test_a_step_without_numbers_takes_what_a_real_one_takes(
    loaded: LoadedModel,
    items: list[EncodedItem],
    estimates: dict[str, MemoryEstimate],
    layout: str,
    checkpointing: bool,
) -> None:
    expected = real_peak(loaded, items[:1], layout=layout, checkpointing=checkpointing)
    assert estimates[layout].of_pass(checkpointing=checkpointing) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_memory_grows_with_the_tokens_of_a_pass(
    loaded: LoadedModel, items: list[EncodedItem], estimates: dict[str, MemoryEstimate]
) -> None:
    one = estimates[SHARED]
    three = estimate_of(loaded, items, replace(CONFIG, global_batch_size=3))
    assert three.tokens == 3 * one.tokens
    for is_on in (False, True):
        expected = real_peak(loaded, [items[0]] * 3, layout=SHARED, checkpointing=is_on)
        assert three.of_pass(checkpointing=is_on) == pytest.approx(expected, rel=0.1)
    limited = estimate_of(loaded, items, replace(CONFIG, global_batch_size=3, tokens_per_step=1))
    assert limited == one  # an item longer than the budget goes alone


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_weights_are_counted_as_they_are_stored(loaded: LoadedModel, quantization: str | None) -> None:
    if quantization is not None:
        pytest.importorskip("bitsandbytes")
    real = load_policy(replace(CONFIG, quantization=quantization), "cpu").model
    stored = 0
    for name, weight in real.named_parameters():
        if "lora_" in name:
            continue
        stored += weight.numel() * weight.element_size()
        if quantization == "nf4" and (state := vars(weight).get("quant_state")) is not None:
            stored += state.absmax.nbytes + state.state2.absmax.nbytes
        if quantization == "int8" and (scales := vars(weight).get("SCB")) is not None:
            stored += scales.nbytes
    assert weight_bytes(loaded.model.get_base_model(), quantization) == pytest.approx(stored, rel=1e-3)


@pytest.mark.slow
def test_an_adapter_takes_sixteen_bytes_a_weight_and_four_more_among_several(
    loaded: LoadedModel, items: list[EncodedItem], estimates: dict[str, MemoryEstimate]
) -> None:
    trainable = sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad)
    assert estimates[SHARED].adapter == 16 * trainable
    assert estimate_of(loaded, items, replace(CONFIG, global_batch_size=2), processes=2).adapter == 20 * trainable


@pytest.mark.slow
def test_half_precision_takes_less_of_all_but_the_adapter(
    loaded: LoadedModel, items: list[EncodedItem], estimates: dict[str, MemoryEstimate]
) -> None:
    whole = estimates[SHARED]
    half = estimate_of(loaded, items, CONFIG, precision="bfloat16", on_gpu=True)
    assert half.weights * 2 == whole.weights
    assert half.adapter == whole.adapter
    assert 0.4 * whole.activations < half.activations < 0.9 * whole.activations


def test_checkpointing_is_off_where_memory_does_and_on_where_it_does_not() -> None:
    assert (ESTIMATE.total(checkpointing=False), ESTIMATE.total(checkpointing=True)) == (1700, 1290)
    assert choose_checkpointing(None, ESTIMATE, 1700)[0] is False
    assert choose_checkpointing(None, ESTIMATE, 1699)[0] is True
    assert choose_checkpointing(True, ESTIMATE, 10**9) == (True, "Gradient checkpointing: on, as asked for")
    assert choose_checkpointing(False, ESTIMATE, 0) == (False, "Gradient checkpointing: off, as asked for")


def test_the_tower_counts_where_it_takes_more_than_the_pass() -> None:
    assert ESTIMATE.of_pass(checkpointing=True) == 130
    large = MemoryEstimate(**{**vars(ESTIMATE), "images": 200})
    assert large.of_pass(checkpointing=True) == 200
    assert large.of_pass(checkpointing=False) == 540


@pytest.mark.slow
@pytest.mark.parametrize(("room", "expected"), [(10**12, False), (0, True)])
def test_a_session_follows_the_estimate_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, expected: bool
) -> None:
    monkeypatch.setattr(session, "room_on", lambda *_, **__: room)
    seen = []
    arguments = session.Session._arguments

    def spy(self: session.Session, loaded: LoadedModel, checkpointing: bool) -> dict[str, Any]:
        seen.append(checkpointing)
        return arguments(self, loaded, checkpointing)

    monkeypatch.setattr(session.Session, "_arguments", spy)
    config = replace(RAGGED, max_steps=1, save_steps=1, gradient_checkpointing=None)
    result = train(tmp_path, config, [preference(0, levels=2)])
    assert (seen, result["gradient_checkpointing"]) == ([expected], expected)
    assert result["estimate"]["total"] > result["estimate"]["total_checkpointed"] > result["estimate"]["weights"] > 5e6


def test_a_sample_is_spread_over_all() -> None:
    assert spread_sample(3, 5) == [0, 1, 2]
    assert spread_sample(10, 4) == [0, 2, 5, 7]


def test_bytes_are_shown_for_people() -> None:
    assert (shown_bytes(14_430_000_000), shown_bytes(1_250_000)) == ("14.4 GB", "1.2 MB")


@pytest.mark.slow
def test_the_real_model_is_left_as_it_is(loaded: LoadedModel, items: list[EncodedItem]) -> None:
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    estimate_of(loaded, items, CONFIG)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


class Layered(torch.nn.Module):
    """Three layers of 400 bytes and a head of 2,000."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(10, 10, bias=False) for _ in range(3))
        self.head = torch.nn.Linear(10, 50, bias=False)

    def get_decoder(self) -> torch.nn.Module:
        return self


@pytest.mark.parametrize(
    ("sharing", "processes", "expected"),
    [
        (COPIES, 8, BaseShare(weights=3200)),
        (ZERO_2, 8, BaseShare(weights=3200)),
        # two layers and the head beside a share, which holds a part of them; the head twice on its way
        (FSDP, 8, BaseShare(weights=400, gathered=2800, loading=4400, main_memory=3200)),
        (FSDP, 2, BaseShare(weights=1600, gathered=1600, loading=5600, main_memory=3200)),
        (ZERO_3, 8, BaseShare(weights=400, gathered=2800, loading=3200)),
    ],
)
def test_a_device_holds_its_share_and_what_a_pass_puts_together(
    sharing: str, processes: int, expected: BaseShare
) -> None:
    assert memory._shares(Layered(), None, sharing, processes) == expected


def test_a_base_in_four_bits_is_whole_on_every_device_while_it_is_loaded() -> None:
    found = memory._shares(Layered(), "nf4", FSDP, 2)
    whole = weight_bytes(Layered(), "nf4")
    assert (found.loading, found.main_memory) == (whole + found.weights, 0)


def test_loading_counts_where_it_takes_more_than_training() -> None:
    assert ESTIMATE.total(checkpointing=False) == 1700
    assert replace(ESTIMATE, gathered=200, loading=1500).total(checkpointing=False) == 1900
    assert replace(ESTIMATE, gathered=200, loading=2500).total(checkpointing=False) == 2500


@pytest.mark.parametrize(("sharing", "bytes_each"), [(COPIES, 20), (FSDP, 4), (ZERO_2, 14), (ZERO_3, 4)])
def test_an_adapter_is_shared_with_the_model_or_its_moments_are(sharing: str, bytes_each: int) -> None:
    assert memory._adapter_bytes(sharing, 4) == bytes_each
