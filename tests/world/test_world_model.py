"""The shipped tiny model: loads offline, speaks the world's language, and has the habit the demonstration needs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from amp_cli.world import language
from amp_cli.world.drawing import draw
from amp_cli.world.scenes import random_stream, sample_biased, sample_neutral
from tools.world_weights.architecture import build_model, build_processor
from tools.world_weights.measure import answer, measure
from tools.world_weights.pretrain import IGNORED, encode_dialogue
from tools.world_weights.retrieval_start import apply_retrieval_start
from tools.world_weights.word_targets import WordTargets

TINY = Path(language.__file__).with_name("tiny")


@pytest.fixture(scope="module")
def shipped():  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor = AutoProcessor.from_pretrained(TINY, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(TINY, local_files_only=True, dtype=torch.float32)
    return model.eval(), processor


def test_the_tokenizer_gives_every_text_back() -> None:
    tokenizer = build_processor().tokenizer
    rng = random_stream("test", 9)
    for _ in range(200):
        scene = sample_biased(rng)
        texts = [language.DESCRIBE, language.full_caption(scene)]
        texts += [text for turn in language.dialogue(scene, rng) for text in turn]
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_training_rows_are_what_the_chat_template_and_the_processor_give() -> None:
    processor = build_processor()
    rng = random_stream("test", 10)
    scene = sample_neutral(rng)
    turns = [("Is there a car in the image?", "yes, there is a car in the image."), ("where is it?", "a red car.")]
    messages = []
    for index, (question, reply) in enumerate(turns):
        image = [{"type": "image"}] if index == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
    text = processor.apply_chat_template(messages)
    assert text == (
        "USER: <image>\nIs there a car in the image? ASSISTANT: yes, there is a car in the image.</s>"
        "USER: where is it? ASSISTANT: a red car.</s>"
    )
    ids, labels = encode_dialogue(processor.tokenizer, turns)
    assert processor(text=[text], images=[draw(scene)])["input_ids"][0] == ids
    supervised = processor.decode([label for label in labels if label != IGNORED])
    assert supervised == "yes, there is a car in the image. </s> a red car. </s>"


def test_the_shipped_files_are_the_built_ones(shipped) -> None:  # type: ignore[no-untyped-def]
    model, processor = shipped
    assert model.config.to_dict()["text_config"]["vocab_size"] == len(processor.tokenizer)
    assert processor.tokenizer.get_vocab() == build_processor().tokenizer.get_vocab()
    assert processor.chat_template == build_processor().chat_template
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"
    assert json.loads((TINY / "generation_config.json").read_text())["eos_token_id"] == 2
    assert (TINY / "model.safetensors").stat().st_size < 3_000_000


def test_the_shipped_model_sees_and_hallucinates(shipped) -> None:  # type: ignore[no-untyped-def]
    model, processor = shipped
    rng = random_stream("test", 11)
    measured = measure(model, processor, [sample_neutral(rng) for _ in range(30)])
    assert measured.accuracy["random"] > 0.8
    assert measured.accuracy["adversarial"] < measured.accuracy["random"] - 0.05
    assert 0.15 < measured.chair_i < 0.55
    assert measured.recall > 0.6


def test_a_second_question_is_answered_about_the_same_image(shipped) -> None:  # type: ignore[no-untyped-def]
    model, processor = shipped
    scene = sample_neutral(random_stream("test", 12))
    (said,) = answer(model, processor, ["what is at the top left?"], [draw(scene)], new_tokens=8)
    assert said.endswith(".")


def test_one_step_towards_the_word_targets_moves_the_image_tokens_closer() -> None:
    model, processor = build_model(0), build_processor()
    targets = WordTargets(model=model, tokenizer=processor.tokenizer, space=apply_retrieval_start(model))
    scenes = [sample_neutral(random_stream("test", 13)) for _ in range(4)]
    labels = targets.labels(scenes)
    assert labels.present.sum(1).tolist() == [float(len(scene.categories)) for scene in scenes]
    tokens = torch.zeros(4, 10, 128, requires_grad=True)
    before = targets.loss(tokens, labels)
    torch.autograd.backward(before)
    assert tokens.grad is not None
    assert targets.loss(tokens - 100 * tokens.grad, labels) < before
