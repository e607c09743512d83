"""Another family than LLaVA-1.5: LLaVA-NeXT, built tiny from a config, with its image tiling and GQA."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from amp_cli.asking.answerer import Request
from amp_cli.asking.local import answer_requests
from amp_cli.models.load import load_model
from amp_cli.models.prompts import encode_item, text_length
from amp_cli.models.resolve import TINY
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import PLAIN
from amp_cli.training.config import load_config
from amp_cli.training.looking import ImageTokens
from amp_cli.training.rows.forward import SHARED
from amp_cli.training.rows.selftest import choose_forward
from amp_cli.training.session import load_policy

GRID = [[32, 64], [64, 32], [64, 64]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-NeXT with the embedded world's tokenizer and template."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=3, image_grid_pinpoints=GRID, vision_feature_layer=-1
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=GRID
        ),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(TINY / "chat_template.jinja").read_text(),
    )
    model = LlavaNextForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    folder = tmp_path_factory.mktemp("llava_next")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_images_of_other_shapes_share_a_batch(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelSpec(model=str(folder)))
    assert loaded.background is None  # only LLaVA-1.5 was trained on padded squares
    requests = []
    for number, size in enumerate([(70, 40), (40, 70), (64, 64)]):
        Image.new("RGB", size, (200, 30 * number, 30)).save(tmp_path / f"{number}.png")
        question = "is there a car in the image?"
        requests.append(Request(id=str(number), images=(tmp_path / f"{number}.png",), questions=(question,)))
    texts: dict[int, dict[str, tuple[str, ...]]] = {1: {}, 3: {}}
    for batch_size, kept in texts.items():
        answer_requests(
            loaded,
            requests,
            Decoding(max_new_tokens=5),
            batch_size=batch_size,
            seed=0,
            done=set(),
            on_answer=lambda answer, kept=kept: kept.update({answer.id: answer.answers}),  # type: ignore[misc]
            on_reject=lambda item, reason: pytest.fail(f"{item}: {reason}"),
        )
    assert len(texts[1]) == 3
    assert texts[1] == texts[3]


def test_log_probabilities_are_the_model_s_own_with_levels_in_a_row_and_images_encoded_once(folder: Path) -> None:
    config = load_config("tiny", base=str(folder), overrides=["lora_r=4"])
    loaded = load_policy(config, "cpu")
    loaded.model.train()
    question = ["is there a car in the image?"]
    levels = [["yes, there is a car in the image."], ["no."], ["yes."]]
    items = [
        encode_item(loaded, question, levels, [Image.new("RGB", size, (9, 99, 9))]) for size in [(70, 40), (64, 64)]
    ]
    assert items[0].image_inputs["pixel_values"].shape[1:] == (5, 3, 32, 32)  # the overview and four tiles
    way, test = choose_forward(loaded.model, items, pad_id=0, max_length=512)
    assert (way.layout, way.image_once) == (SHARED, True)
    assert test.difference.largest < 1e-4


def test_the_tokens_of_an_image_are_known_from_its_size(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelSpec(model=str(folder)))
    tokens = ImageTokens(loaded)
    found = set()
    for size in [(70, 40), (40, 70), (64, 64), (500, 31)]:
        Image.new("RGB", size).save(tmp_path / "image.png")
        found.add(tokens.of(tmp_path / "image.png"))
        item = encode_item(loaded, ["?"], [["yes."]], [Image.new("RGB", size)])
        texts = text_length(loaded, ["?"], ["yes."], 1, PLAIN) - 1
        assert len(item.responses[0].input_ids) == tokens.of(tmp_path / "image.png") + texts
    assert len(found) > 1  # tiles differ by shape
