"""`amp convert` of whole models: bit for bit there and back, readable by plain transformers, whole or not there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_checkpoints import (
    GOLDEN,
    TOWER,
    Tensors,
    all_weights,
    answers,
    change_config,
    change_weights,
    golden_copy,
    picture,
    random_checkpoint,
    read_config,
    same_tensors,
    shard,
    to_hf,
    to_llava,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

from amp_cli.core.checkpoints.convert import ConvertSettings, convert
from amp_cli.core.checkpoints.names import HUB, respell
from amp_cli.core.hub import TINY
from amp_cli.core.models import load_model
from amp_cli.core.prompts import encode_prompts, render
from amp_cli.errors import AmpError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint in transformers' layout; not to be changed."""
    return to_hf(GOLDEN / "base", tmp_path_factory.mktemp("converted") / "hf")


def hub_weights(folder: Path) -> Tensors:
    return {str(respell(name, HUB)): tensor for name, tensor in all_weights(folder).items()}


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file but `run.json`, which holds the time, by its name."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "run.json"
    }


def from_config(folder: Path, *, rows: int, bare_tokenizer: bool = True) -> Path:
    """A random LLaVA that transformers itself saved, with the tokenizer.model that the original layout needs."""
    config = read_config(GOLDEN / "base")
    text = {key: config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")}
    vision = json.loads((GOLDEN / TOWER / "config.json").read_text())
    torch.manual_seed(1)
    network = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={"model_type": "llama", "num_attention_heads": 4, "vocab_size": rows, **text},
            vision_config=vision,
            image_token_index=1000,
        )
    )
    network.half().save_pretrained(folder)
    shutil.copyfile(GOLDEN / "base" / "tokenizer.model", folder / "tokenizer.model")
    return folder


# there and back


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
    assert torch.equal(answers(load_model(str(back))), answers(load_model(str(folder))))


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
    folder = from_config(tmp_path / "hf", rows=rows)
    again = to_hf(to_llava(folder, tmp_path / "llava"), tmp_path / "again")
    assert same_tensors(hub_weights(again), hub_weights(folder))
    assert read_config(again)["text_config"]["vocab_size"] == rows
    first, second = (load_model(str(place)) for place in (to_llava(folder, tmp_path / "llava"), again))
    torch.testing.assert_close(answers(first), answers(second), rtol=0, atol=1e-5)


def test_a_model_with_tied_embeddings_comes_back_tied(base: Path, tmp_path: Path) -> None:
    change_config(base, tie_word_embeddings=True)
    change_weights(base, lambda weights: {key: value for key, value in weights.items() if key != "lm_head.weight"})
    converted = to_hf(base, tmp_path / "hf")
    back = to_llava(converted, tmp_path / "back")
    assert same_tensors(all_weights(back), all_weights(base))
    logits = [answers(load_model(str(folder))) for folder in (base, converted, back)]
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
    ours = load_model(str(GOLDEN / "base"))
    processor = AutoProcessor.from_pretrained(converted, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval()
    text = render(ours, ["What is on the left?"], [], 1)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is on the left?"}]},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == text
    mine = encode_prompts(ours, [(("What is on the left?",), ())], [[picture()]])
    theirs = processor(images=picture(), text=text, return_tensors="pt")
    assert torch.equal(mine["input_ids"], theirs["input_ids"])
    assert torch.equal(mine["pixel_values"], theirs["pixel_values"])
    with torch.no_grad():
        logits = model(**theirs).logits[0, :, :1000]
    torch.testing.assert_close(logits, answers(ours), rtol=0, atol=1e-5)


def test_load_model_reads_the_converted_folder_as_the_original(converted: Path) -> None:
    first, second = load_model(str(GOLDEN / "base")), load_model(str(converted))
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


# whole or not there


def test_a_killed_conversion_starts_again(base: Path, tmp_path: Path) -> None:
    part = tmp_path / "hf.part"
    part.mkdir()
    (part / "part-00001.safetensors").write_bytes(b"half")
    (part / "run.json").write_text(json.dumps({"command": "convert", "state": "running"}))
    out = to_hf(base, tmp_path / "hf")
    assert not part.exists()
    assert files_in(out) == files_in(to_hf(base, tmp_path / "undisturbed"))


def test_the_same_command_again_does_nothing(base: Path, tmp_path: Path) -> None:
    out = to_hf(base, tmp_path / "hf")
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    settings = ConvertSettings(model=str(base), out=out, to="hf")
    assert convert(settings).tensors == 80
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == times


def test_a_folder_that_is_not_ours_or_of_another_model_is_left_alone(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(AmpError, match="is not empty and holds no result of this `amp convert`"):
            convert(ConvertSettings(model=str(base), out=out, to="hf", overwrite=overwrite))
    assert [file.name for file in out.iterdir()] == ["chapter1.tex"]
    made = to_hf(base, tmp_path / "hf")
    change_config(base, rms_norm_eps=1e-6)
    with pytest.raises(AmpError, match="is not empty"):
        to_hf(base, made)
    assert read_config(made)["text_config"]["rms_norm_eps"] == 1e-5
    convert(ConvertSettings(model=str(base), out=made, to="hf", overwrite=True))
    assert read_config(made)["text_config"]["rms_norm_eps"] == 1e-6


LIMITED = """
import resource, shutil, sys
from pathlib import Path
from amp_cli.core.checkpoints.convert import ConvertSettings, convert
from amp_cli.errors import AmpError
out = Path(sys.argv.pop())
for source, to in zip(sys.argv[1::2], sys.argv[2::2]):
    for allowed in (10, 1500, 20_000, 60_000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))
        try:
            convert(ConvertSettings(model=source, out=out, to=to))
            print("whole", source, allowed)
        except AmpError as error:
            print(error.message.replace(str(out), "OUT"))
        print("there" if out.exists() else "not there")
"""


def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing_under_the_name(
    base: Path, converted: Path, tmp_path: Path
) -> None:
    """Files that may not grow beyond a few bytes fail as they do on a full disk, at ever later places."""
    adapter = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "adapter", adapter)
    torch.save({"mm_projector.0.weight": torch.zeros(400, 400)}, adapter / "non_lora_trainables.bin")
    cases = [str(base), "hf", str(converted), "llava", str(adapter), "hf"]
    command = [sys.executable, "-c", LIMITED, *cases, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 5 * 3
    assert all(line.startswith("Cannot write 'OUT") for line in lines[0::2]), lines
    assert set(lines[1::2]) == {"not there"}


# refusals


@pytest.mark.parametrize("to", ["hf", "llava"])
def test_a_model_that_is_in_that_layout_already_is_told_so(
    base: Path, converted: Path, tmp_path: Path, to: str
) -> None:
    model = converted if to == "hf" else base
    with pytest.raises(AmpError, match=f"is in the {to} layout already"):
        convert(ConvertSettings(model=str(model), out=tmp_path / "out", to=to))
    assert not (tmp_path / "out").exists()


def test_models_that_the_original_layout_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"has no tokenizer\.model"):
        to_llava(TINY, tmp_path / "out")
    other = from_config(tmp_path / "other", rows=1024)
    change_config(other, model_type="llava_next")
    with pytest.raises(AmpError, match=r"holds LLaVA-1\.5 alone"):
        to_llava(other, tmp_path / "out")
    early = from_config(tmp_path / "early", rows=1024)
    change_config(early, image_token_index=500)
    with pytest.raises(AmpError, match=r"has its image token \(500\) among the 1,000 tokens"):
        to_llava(early, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [{"projector_hidden_act": "relu"}, {"vision_feature_layer": [-2, -3]}], ids=["activation", "layers"]
)
def test_settings_that_the_original_layout_cannot_say_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = from_config(tmp_path / "hf", rows=1024)
    change_config(folder, **changes)
    with pytest.raises(AmpError, match=next(iter(changes))):
        to_llava(folder, tmp_path / "out")


def test_weights_that_a_transformers_folder_lacks_are_named_before_any_is_written(tmp_path: Path) -> None:
    folder = from_config(tmp_path / "hf", rows=1024)
    lost = "layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: {key: value for key, value in weights.items() if not key.endswith(lost)})
    with pytest.raises(AmpError, match=f"lacks 1 of the weights .*{lost}"):
        to_llava(folder, tmp_path / "out")


def test_a_tower_that_was_named_by_a_folder_elsewhere_moves_into_the_result(base: Path, tmp_path: Path) -> None:
    for number, name in enumerate((str(tmp_path / TOWER), f"../{tmp_path.name}/{TOWER}", None)):
        change_config(base, mm_vision_tower=name)
        settings = ConvertSettings(
            model=str(base), out=tmp_path / f"hf{number}", to="hf", vision_tower=str(tmp_path / TOWER)
        )
        back = to_llava(convert(settings).out, tmp_path / f"back{number}")
        assert read_config(back) == {**read_config(base), "mm_vision_tower": "vision_tower"}
        assert torch.equal(answers(load_model(str(back))), answers(load_model(str(GOLDEN / "base"))))


def test_a_tower_is_given_with_original_models_alone(converted: Path, tmp_path: Path) -> None:
    settings = ConvertSettings(model=str(converted), out=tmp_path / "out", to="llava", vision_tower=str(GOLDEN / TOWER))
    with pytest.raises(AmpError, match="--vision-tower is for a model in the original layout"):
        convert(settings)


def test_verify_compares_both_layouts(base: Path, tmp_path: Path) -> None:
    result = convert(ConvertSettings(model=str(base), out=tmp_path / "hf", to="hf", verify=True))
    assert len(result.differences) == 6
    assert result.max_logit_difference is not None
    assert result.max_logit_difference < 1e-5
    assert result.to_json()["from"] == "llava"


def test_verify_sees_a_result_that_was_changed(base: Path, tmp_path: Path) -> None:
    settings = ConvertSettings(model=str(base), out=tmp_path / "hf", to="hf", verify=True)
    convert(settings)
    for file in settings.out.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: tensor * 1.5 for name, tensor in weights.items()}, file, {"format": "pt"})
    again = convert(settings)
    assert again.max_logit_difference is not None
    assert again.max_logit_difference > 0.1
