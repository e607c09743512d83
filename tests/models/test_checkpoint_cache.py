"""`amp --cache-converted` converts an original checkpoint once and keeps the result below AMP_HOME."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from amp_cli.main import app
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.training.merge import MergeSettings, merge_lora
from tests.support.llava_checkpoints import (
    GOLDEN,
    TOWER,
    answers,
    change_config,
    change_weights,
    files_in,
    golden_adapter,
    golden_copy,
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where conversions are kept while the option is on."""
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AMP_CACHE_CONVERTED", "1")
    return tmp_path / "home" / "converted"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


def test_the_option_turns_it_on_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AMP_CACHE_CONVERTED", raising=False)
    load_model(ModelSpec(model=str(GOLDEN / "base")))
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv("AMP_CACHE_CONVERTED", "")  # so that the next line's change is undone
    assert CliRunner().invoke(app, ["--cache-converted", "models"]).exit_code == 0
    assert os.environ["AMP_CACHE_CONVERTED"] == "1"


def test_one_conversion_is_kept_and_used_the_second_time(base: Path, kept: Path) -> None:
    first = answers(load_model(ModelSpec(model=str(base))))
    (folder,) = kept.iterdir()
    torch.testing.assert_close(first, answers(load_model(ModelSpec(model=str(GOLDEN / "base")))), rtol=0, atol=1e-5)
    for file in folder.glob("*.safetensors"):  # a change that only a second use of it can show
        save_file({name: tensor * 1.5 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert (answers(load_model(ModelSpec(model=str(base)))) - first).abs().max() > 0.1
    assert folder in kept.iterdir()


def test_it_is_the_same_model_to_a_run_with_and_without(
    base: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was started without the option goes on with it: what `run.json` compares is equal."""
    cached = [load_model(ModelSpec(model=str(base))) for _ in range(2)][-1]
    monkeypatch.delenv("AMP_CACHE_CONVERTED")
    plain = load_model(ModelSpec(model=str(base)))
    assert cached.identity == plain.identity
    assert cached.chat_template.strip() == plain.chat_template.strip()
    assert (cached.background, cached.vocabulary) == (plain.background, plain.vocabulary)


@pytest.mark.parametrize("what", ["weights", "configuration", "tower", "tokenizer"])
def test_another_checkpoint_is_converted_anew(base: Path, kept: Path, tmp_path: Path, what: str) -> None:
    load_model(ModelSpec(model=str(base)))
    if what == "weights":
        change_weights(base, lambda weights: {**weights, "lm_head.weight": weights["lm_head.weight"] * 2})
    elif what == "configuration":
        change_config(base, rms_norm_eps=1e-6)
    elif what == "tower":
        change_weights(tmp_path / TOWER, lambda weights: {name: tensor * 2 for name, tensor in weights.items()})
    else:
        change_config(base, name="tokenizer_config.json", legacy=True)
    load_model(ModelSpec(model=str(base)))
    assert len(list(kept.iterdir())) == 2


def test_a_conversion_that_was_killed_is_made_again(base: Path, kept: Path) -> None:
    load_model(ModelSpec(model=str(base)))
    (folder,) = kept.iterdir()
    part = folder.with_name(folder.name + ".part")
    shutil.move(folder, part)
    for file in part.glob("*.safetensors"):
        file.write_bytes(b"half")
    load_model(ModelSpec(model=str(base)))
    assert list(kept.iterdir()) == [folder]


def test_what_the_user_should_know_is_said_the_second_time_too(tmp_path: Path, kept: Path) -> None:
    folder = golden_copy(tmp_path, "base_vision_inside")
    changed = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"
    change_weights(folder, lambda weights: {**weights, changed: weights[changed] + 1})
    notes = [load_model(ModelSpec(model=str(folder))).notes for _ in range(2)]
    assert notes[0] == notes[1]
    assert len(notes[0]) == 1


def test_a_merge_from_the_kept_conversion_is_the_same_folder(
    base: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = golden_adapter(tmp_path)
    merge_lora(MergeSettings(adapter=str(adapter), base=str(base), out=tmp_path / "cached"))
    monkeypatch.delenv("AMP_CACHE_CONVERTED")
    merge_lora(MergeSettings(adapter=str(adapter), base=str(base), out=tmp_path / "plain"))
    cached, plain = (files_in(tmp_path / name) for name in ("cached", "plain"))
    for files in (cached, plain):
        files.pop("tokenizer_config.json")  # transformers writes the images' backend into it
    assert cached == plain
