"""Prompts and supervised tokens: checked on the embedded model and on LLaVA-1.5's own wording."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import Environment
from PIL import Image

from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.prompts import encode_item, encode_prompts, render, square
from amp_cli.models.spec import ModelSpec
from amp_cli.records import Frame

IMAGE = Image.new("RGB", (96, 96), (190, 190, 195))


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model(ModelSpec(model="tiny"))


def words(tiny: LoadedModel, ids: torch.Tensor) -> str:
    return str(tiny.tokenizer.decode(ids))


def test_only_the_answers_and_their_end_tokens_are_supervised(tiny: LoadedModel) -> None:
    item = encode_item(
        tiny,
        ["is there a car in the image?", "what color is the car?"],
        [["yes, there is a car in the image.", "the car is red."], ["no, there is no car in the image.", "blue."]],
        [IMAGE],
    )
    first, second = item.responses
    assert words(tiny, first.input_ids[first.round == 0]) == "yes, there is a car in the image. </s>"
    assert words(tiny, first.input_ids[first.round == 1]) == "the car is red. </s>"
    assert words(tiny, second.input_ids[second.round == 1]) == "blue. </s>"
    assert torch.equal(first.supervised, first.round >= 0)


def test_the_image_is_expanded_once_and_its_pixels_are_held_once(tiny: LoadedModel) -> None:
    item = encode_item(tiny, ["is there a car in the image?"], [["yes."], ["no."], ["no."]], [IMAGE])
    image_token = tiny.model.config.image_token_index
    assert [(response.input_ids == image_token).sum().item() for response in item.responses] == [10, 10, 10]
    assert item.image_inputs["pixel_values"].shape == (1, 3, 96, 96)


def test_training_reads_the_prompt_that_generation_writes(tiny: LoadedModel) -> None:
    question = "describe this image in detail."
    prompt = encode_prompts(tiny, [([question], [])], [[IMAGE]])["input_ids"][0]
    response = encode_item(tiny, [question], [["the image shows a park scene."]], [IMAGE]).responses[0]
    assert torch.equal(response.input_ids[: len(prompt)], prompt)
    assert int(response.supervised.nonzero()[0]) == len(prompt)


def test_text_only_items_have_no_image_inputs(tiny: LoadedModel) -> None:
    item = encode_item(tiny, ["is there a car in the image?"], [["yes."], ["no."]], [])
    assert item.image_inputs == {}
    assert (item.responses[0].input_ids == tiny.model.config.image_token_index).sum() == 0


def test_a_special_token_in_a_text_is_refused(tiny: LoadedModel) -> None:
    for question, answer in [("what is <image> here?", "a car."), ("what is here?", "a car.</s> and more")]:
        with pytest.raises(AmpError, match="special token"):
            encode_item(tiny, [question], [[answer], ["a dog."]], [IMAGE])


def test_prompts_are_padded_on_the_left(tiny: LoadedModel) -> None:
    batch = encode_prompts(
        tiny,
        [(["is there a car in the image?"], []), (["describe this image in detail."], [])],
        [[IMAGE], [IMAGE]],
    )
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][1, 0].item() == 0


def test_a_wide_image_is_centred_on_a_square_of_the_mean_colour(tiny: LoadedModel) -> None:
    padded = square(tiny, Image.new("RGB", (9, 4), (1, 2, 3)))
    assert padded.size == (9, 9)
    assert padded.getpixel((0, 1)) == tiny.background == (127, 127, 127)
    assert padded.getpixel((0, 2)) == padded.getpixel((0, 5)) == (1, 2, 3)
    assert padded.getpixel((0, 6)) == (127, 127, 127)


def template(name: str, messages: list[dict[str, Any]], *, open_turn: bool) -> str:
    text = template_path("chat", f"{name}.jinja").read_text(encoding="utf-8").strip()
    return Environment().from_string(text).render(messages=messages, add_generation_prompt=open_turn)


def messages_of(turns: list[str], images: int) -> list[dict[str, Any]]:
    messages = []
    for number, turn in enumerate(turns):
        content: list[dict[str, str]] = [{"type": "image"}] * (images if number == 0 else 0)
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": [*content, {"type": "text", "text": turn}]})
    return messages


GOLDEN = Path(__file__).parents[1] / "golden" / "llava" / "forward" / "cases.json"


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"], ids=lambda case: case["name"])
def test_llava_s_own_prompts_are_reproduced(case: dict[str, Any]) -> None:
    name = {"v1": "vicuna_v1", "vicuna_v1": "vicuna_v1", "llava_v1": "llava_v1"}[case["conv_mode"]]
    turns = [turn.removeprefix("<image>\n") for turn in case["turns"]]
    messages = messages_of(turns, images=case["prompt"].count("<image>"))
    assert template(name, messages, open_turn=len(turns) % 2 == 1) == case["prompt"]


def test_an_open_dialogue_holds_one_question_more_than_answers(tiny: LoadedModel) -> None:
    text = render(tiny, ["one?", "two?", "three?"], ["a."], 1)
    assert "two?" in text
    assert "three?" not in text
    assert text.endswith("ASSISTANT:")


def test_an_own_system_message_stands_in_place_of_the_template_s() -> None:
    loaded = load_model(ModelSpec(model="tiny"))
    loaded.chat_template = template_path("chat", "vicuna_v1.jinja").read_text(encoding="utf-8").strip()
    assert render(loaded, ["one?"], [], 1).startswith("A chat between a curious user ")
    assert render(loaded, ["one?"], [], 1, Frame(system="Be brief.")) == "Be brief. USER: <image>\none? ASSISTANT:"


@pytest.mark.parametrize(("name", "who"), [("vicuna_v1", "user"), ("llava_v1", "human")])
def test_llava_s_templates_write_a_system_message_where_their_own_sentence_stands(name: str, who: str) -> None:
    asked = messages_of(["What?"], images=1)
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert template(name, asked, open_turn=True) == (
        f"A chat between a curious {who} and an artificial intelligence assistant. The assistant gives helpful, "
        f"detailed, and polite answers to the {who}'s questions. USER: <image>\nWhat? ASSISTANT:"
    )
    assert template(name, [system, *asked], open_turn=True) == "Be brief. USER: <image>\nWhat? ASSISTANT:"


@pytest.mark.parametrize(
    "own",
    [
        "{% for turn in messages if turn.role != 'system' %}{{ turn.content[-1].text }}{% endfor %}",
        "{{ raise_exception('System role not supported') if messages[0].role == 'system' }}",
    ],
)
def test_a_system_message_that_the_template_cannot_render_is_refused(own: str) -> None:
    loaded = load_model(ModelSpec(model="tiny"))
    loaded.chat_template = own
    with pytest.raises(AmpError, match="the chat template cannot render it"):
        render(loaded, ["one?"], [], 0, Frame(system="Be brief."))


def test_an_image_of_the_second_round_is_shown_in_the_second_round(tiny: LoadedModel) -> None:
    text = render(tiny, ["hello.", "what color is it?"], ["hi."], 1, Frame(image_rounds=(1,)))
    assert text.split("USER: ")[1:] == ["hello. ASSISTANT: hi.</s>", "<image>\nwhat color is it? ASSISTANT:"]


def test_answers_around_images_of_two_rounds_are_supervised_to_the_token(tiny: LoadedModel) -> None:
    item = encode_item(
        tiny,
        ["is there a car in the image?", "what color is the car?"],
        [["yes.", "red."], ["yes.", "blue."]],
        [IMAGE, IMAGE],
        Frame(image_rounds=(0, 1)),
    )
    image_token = tiny.model.config.image_token_index
    for response, last in zip(item.responses, ("red. </s>", "blue. </s>"), strict=True):
        assert words(tiny, response.input_ids[response.round == 0]) == "yes. </s>"
        assert words(tiny, response.input_ids[response.round == 1]) == last
        places = (response.input_ids == image_token).nonzero()[:, 0].tolist()
        answered = response.supervised.nonzero()[:, 0].tolist()
        assert [len([place for place in places if place < answered[0]]), len(places)] == [10, 20]
    assert item.image_inputs["pixel_values"].shape == (2, 3, 96, 96)


def test_an_image_after_answers_that_differ_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(AmpError, match="shown in round 2, after answers that differ"):
        encode_item(tiny, ["one?", "two?"], [["a.", "b."], ["c.", "b."]], [IMAGE], Frame(image_rounds=(1,)))
