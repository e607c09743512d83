"""Preference items against the released training code: ids, labels, weights, log-probabilities, losses, gradients."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import EncodedItem, encode_item
from amp_cli.records import PreferenceItem
from amp_cli.training.config import load_config
from amp_cli.training.loss import mdpo_loss
from amp_cli.training.rows.forward import LAYOUTS, ForwardPass
from amp_cli.training.rows.layout import by_level, level_mask
from amp_cli.training.rows.logprobs import weigh_rounds
from amp_cli.training.session import load_policy
from tests.support.llava_golden import ADAPTER, GOLDEN, expanded

FOLDER = GOLDEN / "preference"
SETS = ("k2", "k3", "k4", "k5", "k2_quirks")
FAULTY = {
    "role_tag_in_second_answer": "holds the role tag 'ASSISTANT:'",
    "unk_text_in_answer": "holds the special token '<unk>'",
    "empty_answer": "empty answer in round 1",
}
"""Items that the released code masks as a whole ("tokenization mismatch") and trains on token 0; why we refuse them."""


@cache
def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@cache
def policy(*, padded: bool) -> LoadedModel:
    """The golden base with its adapter, trainable, under the settings of the released code."""
    config = load_config(
        "7b",
        recipe="released",
        base=str(GOLDEN / "model" / "base"),
        adapter=ADAPTER,
        overrides=["quantization=none", "dtype=float32", f"pad_to_square={'none' if padded else 'false'}"],
    )
    assert (config.lora_r, config.lora_alpha) == (8, 16)  # the adapter's own, not the recipe's
    return load_policy(config, "cpu")


def policy_for(name: str) -> LoadedModel:
    return policy(padded=read(f"{name}.expected.json")["image_aspect_ratio"] == "pad")


def turns_of(level: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """Questions and answers; the released code takes the image's mark out of a question and strips what is left."""
    texts = [turn["value"] for turn in level]
    questions = [text.replace("<image>", "").strip() if "<image>" in text else text for text in texts[::2]]
    return questions, texts[1::2]


def encoded(name: str, number: int) -> EncodedItem:
    """An item of the training file, its levels encoded one by one: in the odd items their questions differ."""
    record = read(f"{name}.json")[number]
    levels = [record[key] for key in sorted(record) if key.startswith("output_")]
    with_image = "<image>" in json.dumps(levels)
    images = [open_image(GOLDEN / record["image"])] if with_image else []
    items = []
    for level in levels:
        questions, answers = turns_of(level)
        items.append(encode_item(policy_for(name), questions, [answers], images))
    responses = tuple(item.responses[0] for item in items)
    return EncodedItem(responses=responses, image_inputs=items[0].image_inputs)


def items_of(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, expected in enumerate(read(f"{name}.expected.json")["items"]):
        if expected["id"] not in FAULTY:
            yield number, expected


ITEMS = [(name, number, expected) for name in SETS for number, expected in items_of(name)]


@pytest.mark.parametrize(("name", "number", "expected"), ITEMS, ids=[expected["id"] for _, _, expected in ITEMS])
def test_ids_labels_and_round_weights_are_those_of_the_released_code(
    name: str, number: int, expected: dict[str, Any]
) -> None:
    patches = 16
    for response, level in zip(encoded(name, number).responses, expected["levels"], strict=True):
        assert response.input_ids.tolist() == expanded(level["input_ids"], image_token=1000, patches=patches)
        shift = patches - 1 if -200 in level["input_ids"] else 0
        place = level["input_ids"].index(-200) if shift else 0
        labels = level["labels"][:place] + [-100] * shift + level["labels"][place:]
        assert response.supervised.tolist() == [label != -100 for label in labels]
        turbo = level["loss_turbo"][:place] + [0.0] * shift + level["loss_turbo"][place:]
        weights = 0.05 * response.round.clamp(min=0)
        torch.testing.assert_close(weights, torch.tensor(turbo), rtol=0, atol=1e-4)  # theirs are float16


BATCHES = [
    (name, batch)
    for name in SETS
    for batch in read(f"{name}.expected.json")["batches"]
    if not set(batch["item_ids"]) & FAULTY.keys()
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "batch"), BATCHES, ids=[f"{name}-{batch['item_ids']}" for name, batch in BATCHES])
def test_log_probabilities_losses_and_gradients_are_those_of_the_released_code(
    name: str, batch: dict[str, Any], layout: str
) -> None:
    model = policy_for(name).model
    model.train()
    model.zero_grad()
    way = ForwardPass(network=model.get_base_model(), pad_id=0, layout=layout)
    way.use()
    rows = way.lay_out([encoded(name, number) for number in batch["item_indices"]])
    shown = way.show_images(model, rows)
    mask = level_mask(rows.levels)
    with torch.no_grad(), model.disable_adapter():
        reference = by_level(weigh_rounds(way.round_logps(model, rows, shown), 0.05), mask)
    policy_logps = by_level(weigh_rounds(way.round_logps(model, rows, shown), 0.05), mask)
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(reference, torch.tensor(batch["logps_reference"]).double().T, **close)
    torch.testing.assert_close(policy_logps, torch.tensor(batch["logps_policy"]).double().T, **close)
    result = mdpo_loss(policy_logps, reference, mask=mask, beta=0.1, penalty=1.0, reduction="mean")
    assert result.loss.item() == pytest.approx(batch["loss"], rel=1e-4, abs=1e-3)
    result.loss.backward()
    norms = {
        key: float(value.grad.double().norm()) for key, value in model.named_parameters() if value.grad is not None
    }
    theirs = {
        key.replace("model.model.layers", "model.model.language_model.layers"): value
        for key, value in batch["grad_norms"].items()
    }
    assert norms.keys() == theirs.keys()
    for key, value in theirs.items():
        assert norms[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    assert total == pytest.approx(batch["grad_norm_total"], rel=1e-4)


@pytest.mark.parametrize("item_id", FAULTY)
def test_items_that_the_released_code_trains_on_by_mistake_are_refused_with_the_reason(item_id: str) -> None:
    with pytest.raises(AmpError, match=FAULTY[item_id]):
        as_item(next(record for record in read("k2_quirks.json") if record["id"] == item_id))


def as_item(record: dict[str, Any]) -> EncodedItem:
    """Read a record of the released code's format as an item of ours and encode it."""
    levels = [turns_of(record[key]) for key in ("output_1", "output_2")]
    item = PreferenceItem.from_json(
        {
            "id": record["id"],
            "images": [record["image"]],
            "questions": levels[0][0],
            "levels": [{"answers": answers, "source": "golden"} for _, answers in levels],
        }
    )
    return encode_item(policy(padded=True), item.questions, [level.answers for level in item.levels], [])


def test_images_are_prepared_as_the_released_training_code_does() -> None:
    stored = load_file(FOLDER / "pixels.safetensors")
    for name, padded in (("k4", False), ("k5", True)):
        pixels = encoded(name, 0).image_inputs["pixel_values"][0]
        image = read(f"{name}.json")[0]["image"]
        assert torch.equal(pixels, stored[f"{image}|{'pad' if padded else 'square'}"])
