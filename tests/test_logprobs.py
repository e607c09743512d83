"""Log-probabilities of responses against the model's own full logits, one response at a time."""

import pytest
import torch
from training_items import preference, write_preferences

from amp_cli.records import PreferenceItem
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import load_items, prepare_items
from amp_cli.training.dataset import EncodedItems
from amp_cli.training.layout import Batch, lay_out
from amp_cli.training.logprobs import check_log_probabilities, picture_inputs, response_logps
from amp_cli.training.session import load_policy


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


def batch_of(data: EncodedItems, *numbers: int, round_weight: float = 0.0) -> Batch:
    return lay_out([data[number] for number in numbers], round_weight=round_weight)


def logps(data: EncodedItems, batch: Batch, *, image_once: bool = True) -> torch.Tensor:
    model = data.loaded.model
    return response_logps(model, batch, picture_inputs(model, batch, image_once=image_once))


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


def test_sums_equal_those_of_full_logits_one_response_at_a_time(data: EncodedItems) -> None:
    for round_weight in (0.0, 0.05):
        expected = [value for number in range(4) for value in naive(data, number, round_weight)]
        ours = logps(data, batch_of(data, 0, 1, 2, 3, round_weight=round_weight))
        assert ours.dtype == torch.float64
        assert ours.tolist() == pytest.approx(expected, rel=2e-5)


def test_pictures_encoded_once_give_what_pictures_in_every_row_give(data: EncodedItems) -> None:
    batch = batch_of(data, 0, 1, 2, 3)
    assert logps(data, batch).tolist() == pytest.approx(logps(data, batch, image_once=False).tolist(), rel=1e-5)


def test_a_picture_matters_and_each_item_gets_its_own(data: EncodedItems) -> None:
    batch = batch_of(data, 0, 3)
    before = logps(data, batch)
    batch["image_inputs"] = list(reversed(batch["image_inputs"]))
    assert (logps(data, batch) - before).abs().min() > 1e-3


def test_the_tower_runs_once_for_each_item_and_without_gradients(data: EncodedItems) -> None:
    seen: list[tuple[int, bool]] = []
    tower = data.loaded.model.get_base_model().model.vision_tower
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            (len(kwargs.get("pixel_values", args[0] if args else ())), torch.is_grad_enabled())
        ),
        with_kwargs=True,
    )
    logps(data, batch_of(data, 0, 1, 3)).sum().backward()
    hook.remove()
    assert seen == [(3, False)]  # one call with three pictures, not nine


def test_the_head_runs_at_supervised_places_alone(data: EncodedItems) -> None:
    rows: list[int] = []
    head = data.loaded.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, args, output: rows.append(output.shape[:-1].numel()))
    batch = batch_of(data, 0, 1)
    logps(data, batch)
    hook.remove()
    assert rows == [len(batch["targets"])]


def test_a_text_only_batch_needs_no_tower(data: EncodedItems) -> None:
    batch = batch_of(data, 2)
    assert picture_inputs(data.loaded.model, batch, image_once=True) == {}
    assert logps(data, batch).tolist() == pytest.approx(naive(data, 2), rel=2e-5)


def test_the_start_up_check_accepts_llava_and_encodes_its_pictures_once(data: EncodedItems) -> None:
    assert check_log_probabilities(data.loaded.model, batch_of(data, 0)) == (True, "")


def test_the_start_up_check_refuses_a_head_whose_logits_are_changed_afterwards(data: EncodedItems) -> None:
    network = data.loaded.model.get_base_model()
    taught = network.forward

    def capped(*args: object, **kwargs: object) -> object:
        output = taught(*args, **kwargs)
        if hasattr(output, "logits"):
            output.logits = 5.0 * torch.tanh(output.logits / 5.0)
        return output

    network.forward = capped
    try:
        with pytest.raises(ValueError, match="not those of the model's own logits"):
            check_log_probabilities(data.loaded.model, batch_of(data, 0))
    finally:
        network.forward = taught


def test_a_model_that_takes_no_encoded_pictures_gets_pixels_and_that_is_said(
    data: EncodedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amp_cli.training.logprobs.takes_features", lambda network: False)
    once, why = check_log_probabilities(data.loaded.model, batch_of(data, 0))
    assert not once
    assert why == "LlavaForConditionalGeneration takes no pictures that are encoded already"


def test_items_keep_their_type(data: EncodedItems) -> None:
    assert all(isinstance(item, PreferenceItem) for item in data.items)
