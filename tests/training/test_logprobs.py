"""Log-probabilities of responses against the model's own full logits, one response at a time."""

from dataclasses import replace

import pytest
import torch

from amp_cli.models.prompts import EncodedItem
from amp_cli.records import PreferenceItem
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import EncodedItems, load_items, prepare_items
from amp_cli.training.reference import compute_reference
from amp_cli.training.rows.forward import LAYOUTS, ROWS, SHARED, ForwardPass
from amp_cli.training.rows.layout import Batch, Segment, lay_out_shared
from amp_cli.training.rows.logprobs import weigh_rounds
from amp_cli.training.rows.selftest import choose_forward, describe
from amp_cli.training.session import load_policy
from tests.support.training_items import preference, write_preferences


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedItems:
    folder = tmp_path_factory.mktemp("logprobs")
    records = [
        preference(0, levels=3),
        preference(1, levels=2, rounds=2),
        preference(2, levels=2, image=False),
        preference(3, levels=4),
    ]
    prepare_items(write_preferences(folder / "data", records), folder, image_root=None, method="mdpo")
    loaded = load_policy(TrainConfig(base="tiny", max_steps=1, lora_r=4), "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # an adapter that does something
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return EncodedItems(loaded, load_items(folder, "mdpo"), method="mdpo")


def way_of(data: EncodedItems, layout: str = SHARED, *, image_once: bool = True) -> ForwardPass:
    way = ForwardPass(network=data.loaded.model.get_base_model(), pad_id=0, layout=layout, image_once=image_once)
    way.use()
    return way


def batch_of(data: EncodedItems, way: ForwardPass, *numbers: int) -> Batch:
    return way.lay_out([data[number] for number in numbers])


def logps(data: EncodedItems, way: ForwardPass, batch: Batch, round_weight: float = 0.0) -> torch.Tensor:
    model = data.loaded.model
    return weigh_rounds(way.round_logps(model, batch, way.show_images(model, batch)), round_weight)


@torch.no_grad()
def naive(data: EncodedItems, number: int, round_weight: float = 0.0) -> list[float]:
    """Each response alone, without padding, through the full logits, in plain Python sums."""
    sums = []
    for response in data[number].responses:
        logits = data.loaded.model(input_ids=response.input_ids[None], **data[number].image_inputs).logits[0]
        table = logits.double().log_softmax(-1)
        total = 0.0
        for place in range(1, len(response.input_ids)):
            if response.supervised[place]:
                weight = 1 + round_weight * int(response.round[place])
                total += weight * float(table[place - 1, response.input_ids[place]])
        sums.append(total)
    return sums


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_equal_those_of_full_logits_one_response_at_a_time(data: EncodedItems, layout: str) -> None:
    way = way_of(data, layout)
    for round_weight in (0.0, 0.05):
        ours = logps(data, way, batch_of(data, way, 0, 1, 2, 3), round_weight)
        way_of(data, ROWS)  # the model's own attention again
        expected = [value for number in range(4) for value in naive(data, number, round_weight)]
        way.use()
        assert ours.dtype == torch.float64
        assert ours.tolist() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_encoded_once_give_what_images_in_every_pass_give(data: EncodedItems, layout: str) -> None:
    sums = []
    for image_once in (True, False):
        way = way_of(data, layout, image_once=image_once)
        sums.append(logps(data, way, batch_of(data, way, 0, 1, 2, 3)).tolist())
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_image_matters_and_each_item_gets_its_own(data: EncodedItems, layout: str) -> None:
    way = way_of(data, layout)
    batch = batch_of(data, way, 0, 3)
    swapped = replace(batch, image_inputs=batch.image_inputs[::-1])
    assert (logps(data, way, swapped) - logps(data, way, batch)).abs().min() > 1e-3


def test_the_tower_runs_once_for_each_item_and_without_gradients(data: EncodedItems) -> None:
    seen: list[tuple[int, bool]] = []
    tower = data.loaded.model.get_base_model().model.vision_tower
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            (len(kwargs.get("pixel_values", args[0] if args else ())), torch.is_grad_enabled())
        ),
        with_kwargs=True,
    )
    for layout in LAYOUTS:
        way = way_of(data, layout)
        logps(data, way, batch_of(data, way, 0, 1, 3)).sum().backward()
    hook.remove()
    assert seen == [(3, False)] * len(LAYOUTS)  # one call with three images, not nine


def test_the_head_runs_at_supervised_places_alone(data: EncodedItems) -> None:
    rows: list[int] = []
    head = data.loaded.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, args, output: rows.append(output.shape[:-1].numel()))
    way = way_of(data)
    batch = batch_of(data, way, 0, 1)
    logps(data, way, batch).sum().backward()
    hook.remove()
    assert rows == [len(batch.targets)]  # and not again in the backward pass


def test_the_vocabulary_in_chunks_gives_the_same_sums_and_gradients(
    data: EncodedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = way_of(data)
    outcomes = []
    for most in (2**24, 1):  # all at once, and token by token
        monkeypatch.setattr("amp_cli.training.rows.logprobs.MOST_LOGITS", most)
        data.loaded.model.zero_grad()
        sums = logps(data, way, batch_of(data, way, 0, 1))
        sums[0].backward()
        gradient = [parameter.grad for parameter in data.loaded.model.parameters() if parameter.grad is not None]
        outcomes.append((sums.detach(), torch.cat([one.flatten() for one in gradient])))
    torch.testing.assert_close(outcomes[1][0], outcomes[0][0], rtol=1e-6, atol=1e-6)
    assert float((outcomes[1][1] - outcomes[0][1]).norm() / outcomes[0][1].norm()) < 1e-5


def test_a_text_only_batch_needs_no_tower(data: EncodedItems) -> None:
    way = way_of(data, ROWS)
    batch = batch_of(data, way, 2)
    assert way.show_images(data.loaded.model, batch) == {}
    assert logps(data, way, batch).tolist() == pytest.approx(naive(data, 2), rel=2e-5)


def test_the_start_up_test_takes_the_shared_prefix_for_llava_and_says_how_close_it_is(data: EncodedItems) -> None:
    way, test = choose_forward(data.loaded.model, [data[0], data[2]], pad_id=0, max_length=512)
    assert (way.layout, way.image_once, test.refused) == (SHARED, True, ())
    assert 0 < test.difference.largest < 1e-4
    assert describe(test) is None


def test_the_start_up_test_refuses_a_head_whose_logits_are_changed_afterwards(data: EncodedItems) -> None:
    network = data.loaded.model.get_base_model()
    taught = network.forward

    def capped(*args: object, **kwargs: object) -> object:
        output = taught(*args, **kwargs)
        if hasattr(output, "logits"):
            output.logits = 5.0 * torch.tanh(output.logits / 5.0)
        return output

    network.forward = capped
    try:
        with pytest.raises(ValueError, match="do not match its own logits"):
            choose_forward(data.loaded.model, [data[0]], pad_id=0, max_length=512)
    finally:
        network.forward = taught


def test_a_model_that_takes_no_encoded_images_gets_pixels_and_that_is_said(
    data: EncodedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amp_cli.training.rows.selftest.takes_features", lambda network: False)
    way, test = choose_forward(data.loaded.model, [data[0]], pad_id=0, max_length=512)
    assert (way.layout, way.image_once) == (SHARED, False)
    assert "Images are encoded again in every pass" in str(describe(test))


def test_branches_that_lose_their_prompt_are_found_out_and_rows_are_taken(
    data: EncodedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(items: list[EncodedItem], **settings: object) -> Batch:
        batch = lay_out_shared(items)
        assert batch.sharing is not None
        alone = tuple(Segment(start, length, start, 0) for start, length, _, _ in batch.sharing.segments)
        return replace(batch, sharing=replace(batch.sharing, segments=alone))

    monkeypatch.setattr("amp_cli.training.rows.forward.lay_out_shared", forgetful)
    way, test = choose_forward(data.loaded.model, [data[0], data[3]], pad_id=0, max_length=512)
    assert way.layout == ROWS
    assert [how for how, _ in test.refused] == [
        "shared-prefix",
        "shared-prefix, images with every pass",
        "shared-prefix-dense-mask",
        "shared-prefix-dense-mask, images with every pass",
    ]
    assert "differ by" in test.refused[0][1]
    assert "Each level has a row of its own" in str(describe(test))


@pytest.mark.parametrize("tokens_per_step", [4096, 1])
def test_the_reference_is_the_base_whatever_the_adapter_says(data: EncodedItems, tokens_per_step: int) -> None:
    way = way_of(data)
    items = [data[number] for number in range(4)]
    found = compute_reference(data.loaded.model, way, items, tokens_per_step=tokens_per_step)
    way_of(data, ROWS)
    with data.loaded.model.disable_adapter():
        expected = [naive(data, number) for number in range(4)]
    assert [sums.sum(dim=1).tolist() for sums in found] == [pytest.approx(sums, rel=2e-5) for sums in expected]
    assert [tuple(sums.shape) for sums in found] == [(3, 1), (2, 2), (2, 1), (4, 1)]  # (levels, rounds)


def test_items_keep_their_type(data: EncodedItems) -> None:
    assert all(isinstance(item, PreferenceItem) for item in data.items)
