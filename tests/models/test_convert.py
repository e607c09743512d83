"""`amp convert` of whole models: bit for bit there and back, readable by plain transformers, whole or not there."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from amp_cli.models.llava.names import HUB, respell
from amp_cli.models.load import load_model
from amp_cli.models.prompts import encode_prompts, render
from amp_cli.models.spec import ModelSpec
from tests.support.llava_checkpoints import (
    GOLDEN,
    TOWER,
    Tensors,
    all_weights,
    answers,
    change_config,
    change_weights,
    files_in,
    golden_copy,
    image,
    random_checkpoint,
    read_config,
    same_tensors,
    saved_by_transformers,
    shard,
    to_hf,
    to_llava,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint in transformers' layout; not to be changed."""
    return to_hf(GOLDEN / "base", tmp_path_factory.mktemp("converted") / "hf")


def hub_weights(folder: Path) -> Tensors:
    return {str(respell(name, HUB)): tensor for name, tensor in all_weights(folder).items()}


def test_from_the_original_and_back_gives_the_same_tensors_and_configuration(base: Path, tmp_path: Path) -> None:
    back = to_llava(to_hf(base, tmp_path / "hf"), tmp_path / "back")
    assert same_tensors(all_weights(back), all_weights(base))
    assert same_tensors(all_weights(back / TOWER), all_weights(tmp_path / TOWER))
    assert read_config(back) == read_config(base)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        assert (back / name).read_bytes() == (base / name).read_bytes()
    assert not (back / "appended_rows.safetensors").exists()


def test_a_tower_inside_is_a_folder_after_there_and_back(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model")
    back = to_llava(to_hf(folder, tmp_path / "hf"), tmp_path / "back")
    prefix = "model.vision_tower.vision_tower."
    found = {f"{prefix}{name}": tensor for name, tensor in all_weights(back / TOWER).items()}
    assert same_tensors(all_weights(back) | found, all_weights(folder))
    assert torch.equal(
        answers(load_model(ModelSpec(model=str(back)))), answers(load_model(ModelSpec(model=str(folder))))
    )


@pytest.mark.parametrize("parts", ["odd rows", "mean rows"])
def test_from_transformers_and_back_gives_the_same_tensors(converted: Path, tmp_path: Path, parts: str) -> None:
    """The official converter draws the appended rows at random; they are not lost."""
    folder = Path(shutil.copytree(converted, tmp_path / "hf", ignore=shutil.ignore_patterns("original", "run.json")))
    if parts == "odd rows":
        for file in folder.glob("*.safetensors"):
            weights = load_file(file)
            for name in weights:
                if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                    weights[name][1000:] = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)).half()
            save_file(weights, file, {"format": "pt"})
    original = to_llava(folder, tmp_path / "llava")
    assert load_file(original / "model-00001-of-00001.safetensors")["lm_head.weight"].shape == (1000, 64)
    assert (original / "appended_rows.safetensors").exists() == (parts == "odd rows")
    assert same_tensors(all_weights(to_hf(original, tmp_path / "again")), all_weights(folder))


@pytest.mark.parametrize("rows", [1002, 1003, 1024, 1064, 1088])
def test_what_transformers_saved_comes_back_with_as_many_rows_as_it_had(tmp_path: Path, rows: int) -> None:
    folder = saved_by_transformers(tmp_path / "hf", rows=rows)
    again = to_hf(to_llava(folder, tmp_path / "llava"), tmp_path / "again")
    assert same_tensors(hub_weights(again), hub_weights(folder))
    assert read_config(again)["text_config"]["vocab_size"] == rows
    first, second = (load_model(ModelSpec(model=str(place))) for place in (to_llava(folder, tmp_path / "llava"), again))
    torch.testing.assert_close(answers(first), answers(second), rtol=0, atol=1e-5)


def test_a_model_with_tied_embeddings_comes_back_tied(base: Path, tmp_path: Path) -> None:
    change_config(base, tie_word_embeddings=True)
    change_weights(base, lambda weights: {key: value for key, value in weights.items() if key != "lm_head.weight"})
    converted = to_hf(base, tmp_path / "hf")
    back = to_llava(converted, tmp_path / "back")
    assert same_tensors(all_weights(back), all_weights(base))
    logits = [answers(load_model(ModelSpec(model=str(folder)))) for folder in (base, converted, back)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("pickled", [False, True])
def test_shards_are_converted_one_by_one_to_the_same_model(base: Path, tmp_path: Path, pickled: bool) -> None:
    shard(base, pickled=pickled)
    converted = to_hf(base, tmp_path / "hf")
    assert len(list(converted.glob("*.safetensors"))) == 3  # two of the model, one of the tower
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in converted.glob("*.safetensors")}
    assert same_tensors(hub_weights(converted), hub_weights(to_hf(GOLDEN / "base", tmp_path / "whole")))


def test_two_conversions_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    first, second = (to_hf(base, tmp_path / name) for name in ("one", "two"))
    assert files_in(first) == files_in(second)
    assert files_in(to_llava(first, tmp_path / "a")) == files_in(to_llava(first, tmp_path / "b"))


# what others read in it


def test_plain_transformers_reads_the_converted_folder_as_load_model_reads_the_original(converted: Path) -> None:
    ours = load_model(ModelSpec(model=str(GOLDEN / "base")))
    processor = AutoProcessor.from_pretrained(converted, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval()
    text = render(ours, ["What is on the left?"], [], 1)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is on the left?"}]},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == text
    mine = encode_prompts(ours, [(("What is on the left?",), ())], [[image()]])
    theirs = processor(images=image(), text=text, return_tensors="pt")
    assert torch.equal(mine["input_ids"], theirs["input_ids"])
    assert torch.equal(mine["pixel_values"], theirs["pixel_values"])
    with torch.no_grad():
        logits = model(**theirs).logits[0, :, :1000]
    torch.testing.assert_close(logits, answers(ours), rtol=0, atol=1e-5)


def test_load_model_reads_the_converted_folder_as_the_original(converted: Path) -> None:
    first, second = load_model(ModelSpec(model=str(GOLDEN / "base"))), load_model(ModelSpec(model=str(converted)))
    torch.testing.assert_close(answers(second), answers(first), rtol=0, atol=1e-5)
    assert (second.vocabulary, second.background) == (first.vocabulary, first.background)
    assert second.chat_template.strip() == first.chat_template.strip()


def test_no_appended_row_is_ever_the_likeliest_in_plain_transformers(converted: Path) -> None:
    head = hub_weights(converted)["language_model.lm_head.weight"].float()
    states = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    assert (states @ head.T).argmax(dim=1).max() < 1000


def test_the_card_says_where_it_came_from(converted: Path) -> None:
    card = (converted / "README.md").read_text()
    assert f"`{GOLDEN / 'base'}`" in card
    assert "base_model:" not in card  # no hub id
    assert f"`{TOWER}`" in card
