"""The fast step with all that has been added to the loss, against plain arithmetic: one response, one row at a time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from amp_cli.errors import AmpError
from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.records import PreferenceItem
from amp_cli.training.data import EncodedItems, load_items
from amp_cli.training.image_pairs import OtherImages
from amp_cli.training.matching import FedTokens
from amp_cli.training.reference import item_key
from amp_cli.training.session import load_policy
from tests.support.training_items import preference, write_preferences
from tests.training.test_trainer import RAGGED, gradients, metrics, relative_difference, train

ONE_STEP = replace(RAGGED, max_steps=1, save_steps=1, max_grad_norm=1e9, tokens_per_step=150, penalty=0.3)
WEIGHED = replace(
    ONE_STEP,
    image_pairs="other",
    image_weight=0.7,
    sft_weight=0.4,
    gap_weight=0.6,
    length_balance=0.5,
    length_alpha=-0.03,
    round_weight=0.05,
    reference="cache",
)
RANKED = replace(
    ONE_STEP,
    loss_type="plackett-luce",
    image_pairs="crop",
    sft_weight=0.4,
    length_alpha=0.02,
    reduction="mean",
    reference="online",
)


def records() -> list[dict[str, Any]]:
    """Four items: 4 levels; 2 levels of 2 rounds; 3 levels of text alone; 8 levels."""
    made = [
        preference(0, levels=4),
        preference(1, levels=2, rounds=2),
        preference(2, levels=3, image=False),
        preference(3, levels=8),
    ]
    for record in made:
        for place, level in enumerate(record["levels"][1:], start=1):
            level["score"] = 1 - 0.1 * place * place / len(record["levels"])
    return made


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does something, so that rewards are not zero."""
    folder = tmp_path_factory.mktemp("begun") / "adapter"
    model = load_policy(RAGGED, "cpu").model
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=drawn) * 0.05)
    model.save_pretrained(folder)
    return folder


def sum_of(model: Any, response: EncodedResponse, images: dict[str, torch.Tensor], round_weight: float) -> torch.Tensor:
    """One row through the full logits."""
    table = model(input_ids=response.input_ids[None], **images).logits[0].double().log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for place in response.supervised.nonzero()[:, 0].tolist():
        weight = 1 + round_weight * int(response.round[place])
        total = total + weight * table[place - 1, response.input_ids[place]]
    return total


def reward(model: Any, response: EncodedResponse, images: dict[str, torch.Tensor], round_weight: float) -> torch.Tensor:
    policy = sum_of(model, response, images, round_weight)
    with torch.no_grad(), model.disable_adapter():
        reference = sum_of(model, response, images, round_weight)
    return policy - reference


def minus_log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return (1 + (-x).exp()).log()


def tokens_of(response: EncodedResponse, round_weight: float) -> float:
    return sum(1 + round_weight * int(number) for number in response.round if number >= 0)


def plain_weighed(model: Any, items: list[EncodedItem], scored: list[dict[str, Any]]) -> torch.Tensor:
    config, total = WEIGHED, torch.zeros((), dtype=torch.float64)
    pairs = [
        (number, better, worse)
        for number, item in enumerate(items)
        for better in range(len(item.responses))
        for worse in range(better + 1, len(item.responses))
    ]
    quality = [[level.get("score", 1.0) for level in record["levels"]] for record in scored]
    counts = [[int(one.supervised.sum()) for one in item.responses] for item in items]
    gaps = [quality[number][better] - quality[number][worse] for number, better, worse in pairs]
    leans = [counts[number][better] - counts[number][worse] for number, better, worse in pairs]
    shorter, longer = -sum(min(one, 0) for one in leans), sum(max(one, 0) for one in leans)
    assert shorter != longer
    side = -1 if shorter > longer else 1
    for number, item in enumerate(items):
        rewards = [reward(model, one, item.image_inputs, config.round_weight) for one in item.responses]
        lengths = [tokens_of(one, config.round_weight) for one in item.responses]
        for (of, better, worse), gap, lean in zip(pairs, gaps, leans, strict=True):
            if of != number:
                continue
            weight = 1 - config.gap_weight + config.gap_weight * gap / (sum(gaps) / len(gaps))
            if lean * side > 0:
                weight *= (
                    1 - config.length_balance + config.length_balance * min(shorter, longer) / max(shorter, longer)
                )
            strength = config.beta * (rewards[better] - rewards[worse])
            strength = strength + config.length_alpha * (lengths[better] - lengths[worse])
            total = total + weight * minus_log_sigmoid(strength)
            total = total - (config.penalty * rewards[0] if better == 0 else 0.0)
        total = total + beside(model, item, rewards[0], config)
    return total / len(items)


def plain_ranked(model: Any, items: list[EncodedItem], _: list[dict[str, Any]]) -> torch.Tensor:
    config, total, choices = RANKED, torch.zeros((), dtype=torch.float64), 0
    for item in items:
        rewards = [reward(model, one, item.image_inputs, 0.0) for one in item.responses]
        lengths = [tokens_of(one, 0.0) for one in item.responses]
        strength = [
            config.beta * one + config.length_alpha * tokens for one, tokens in zip(rewards, lengths, strict=True)
        ]
        levels = len(rewards)
        for place in range(levels - 1):
            left = torch.stack([one.exp() for one in strength[place:]]).sum()
            total = total - (strength[place].exp() / left).log() - config.penalty * rewards[0]
        total = total + (levels - 1) * beside(model, item, rewards[0], config)
        choices += levels - 1
    return total / choices


def beside(model: Any, item: EncodedItem, best: torch.Tensor, config: Any) -> torch.Tensor:
    response = item.responses[0]
    tokens = tokens_of(response, config.round_weight)
    found = -config.sft_weight * sum_of(model, response, item.image_inputs, config.round_weight) / tokens
    other = item.beside_other_images
    if other is None:
        return found
    worse = reward(model, other.responses[0], other.image_inputs, config.round_weight)
    return found + config.image_weight * minus_log_sigmoid(config.beta * (best - worse))


Plain = Callable[[Any, list[EncodedItem], list[dict[str, Any]]], torch.Tensor]


@pytest.mark.parametrize(("config", "plain"), [(WEIGHED, plain_weighed), (RANKED, plain_ranked)])
def test_loss_and_gradient_are_those_of_plain_arithmetic(
    begun: Path, tmp_path: Path, config: Any, plain: Plain
) -> None:
    config = replace(config, adapter=str(begun))
    with gradients() as seen:
        train(tmp_path, config, records())
    line = metrics(tmp_path)[0]
    assert {"margin_images", "accuracy_images", "best_nll", "margin_distance_7"} <= set(line)

    loaded = load_policy(config, "cpu")
    data = EncodedItems.for_training(loaded, load_items(tmp_path, "mdpo"), config)
    items = [data[number] for number in range(4)]
    assert [item.beside_other_images is None for item in items] == [False, False, True, False]  # text has no images
    loss = plain(loaded.model, items, records())
    loss.backward()
    expected = torch.cat([one.grad.flatten() for one in loaded.model.parameters() if one.grad is not None])
    assert line["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert relative_difference(seen[0], expected) < 1e-5


def image_items(count: int) -> list[PreferenceItem]:
    return [
        PreferenceItem.from_json({**preference(0, levels=2), "id": str(n), "images": [f"{n}"]}) for n in range(count)
    ]


def test_a_crop_is_a_small_part_as_large_as_the_whole_and_always_the_same() -> None:
    stripes = Image.new("RGB", (100, 50))
    for x in range(100):
        stripes.paste((x, x, x), (x, 0, x + 1, 50))
    (item,) = image_items(1)
    crops = []
    for seed in (0, 0, 1):
        choose = OtherImages.among([item], kind="crop", seed=seed)
        assert choose is not None
        (crop,) = choose.of(item, [stripes])
        assert crop.size == stripes.size
        low, high = crop.convert("L").getextrema()
        assert high - low <= 46  # a fifth of the area has .447 of the width; one more for rounding
        crops.append(crop.tobytes())
    assert crops[0] == crops[1] != crops[2]


def test_other_images_are_another_items(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    items = [replace(item, images=(str(tmp_path / f"{item.id}.png"),)) for item in image_items(3)]
    choose = OtherImages.among(items, kind="other", seed=0)
    assert choose is not None
    for item in items:
        (other,) = choose.of(item, [Image.new("RGB", (8, 8))])
        assert other.getpixel((0, 0))[0] != int(item.id)
    with pytest.raises(AmpError, match="another image for each item"):
        OtherImages.among(items[:1], kind="other", seed=0)
    with pytest.raises(AmpError, match="no item has one"):
        OtherImages.among([replace(items[0], images=())], kind="crop", seed=0)


def test_an_image_pair_is_known_to_the_counts_of_tokens_and_to_the_kept_reference(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path / "data", [preference(number, levels=2) for number in range(2)])
    loaded = load_policy(ONE_STEP, "cpu")
    config = replace(ONE_STEP, image_pairs="crop", global_batch_size=2, reference="online")
    plain = FedTokens(replace(config, image_pairs=None), loaded, prefs)
    paired = FedTokens(config, loaded, prefs)
    first = [paired._data[number] for number in range(2)]
    best = sum(len(item.responses[0].input_ids) for item in first)
    assert paired.of(1) - plain.of(1) == 4 * best  # forward and backward, and the reference
    assert item_key(first[0]) != item_key(replace(first[0], beside_other_images=None))
