"""Names of the zoo: `amp-meg-7b` means base and adapter, found in the hub's cache without a network."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models.load import load_model
from amp_cli.models.resolve import model_and_adapter, model_place
from amp_cli.models.spec import ModelSpec
from amp_cli.training.config import load_config
from tests.support.llava_golden import GOLDEN, golden_model

TOWER = "openai/clip-vit-tiny-patch14-56"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The golden checkpoint, adapter and tower as the hub's cache holds the authors' repositories: pickles alone."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for repo, folder in (
        ("mengxizhang/amp-7b-base", GOLDEN / "model" / "base"),
        ("mengxizhang/amp_meg_7b", GOLDEN / "model" / "adapter"),
        (TOWER, GOLDEN / "model" / TOWER),
    ):
        place = tmp_path / f"models--{repo.replace('/', '--')}"
        snapshot = shutil.copytree(folder, place / "snapshots" / "c0ffee")
        if (snapshot / "pytorch_model.bin").is_file() or (snapshot / "adapter_model.bin").is_file():
            for file in snapshot.glob("*.safetensors"):
                file.unlink()
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("c0ffee")
    return tmp_path


def test_a_name_for_base_and_adapter_loads_both(cache: Path) -> None:
    loaded = load_model(ModelSpec(model="amp-meg-7b"))
    theirs = golden_model(with_adapter=True)
    ours, expected = loaded.model.state_dict(), theirs.model.state_dict()
    assert ours.keys() == expected.keys()
    assert all(bool((value == expected[name]).all()) for name, value in ours.items())
    assert loaded.identity["model"] == {"name": "amp-meg-7b", "revision": "c0ffee"}
    assert loaded.identity["adapter"] == {"name": "mengxizhang/amp_meg_7b", "revision": "c0ffee"}
    assert loaded.identity["vision_tower"]["name"] == TOWER


def test_without_its_tower_the_tower_is_named(cache: Path) -> None:
    shutil.rmtree(cache / f"models--{TOWER.replace('/', '--')}")
    with pytest.raises(AmpError, match=f"vision tower '{TOWER}' is neither in the checkpoint nor beside it"):
        load_model(ModelSpec(model="amp-meg-7b"))


def test_training_from_such_a_name_goes_on_with_its_adapter(cache: Path) -> None:
    config = load_config("7b", base="amp-meg-7b")
    assert (config.base, config.adapter) == ("amp-7b-base", "mengxizhang/amp_meg_7b")
    assert (config.lora_r, config.lora_alpha) == (8, 16)


def test_names_mean_repositories_and_folders_win() -> None:
    assert model_place("7b") == "llava-hf/llava-1.5-7b-hf"
    assert model_place("amp-13b-base") == "mengxizhang/amp-13b-base"
    assert model_place("somebody/else") == "somebody/else"
    assert model_and_adapter("amp-ig-13b", None) == ("amp-13b-base", "mengxizhang/amp_ig_13b")
    assert model_and_adapter("13b", "mine") == ("13b", "mine")
    with pytest.raises(AmpError, match="is itself an adapter"):
        model_and_adapter("amp-ig-13b", "mine")


def test_a_folder_of_the_same_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "amp-meg-7b").mkdir()
    assert model_place("amp-meg-7b") == "amp-meg-7b"
    assert model_and_adapter("amp-meg-7b", None) == ("amp-meg-7b", None)


def test_an_adapter_in_place_of_a_model_is_said_to_be_one() -> None:
    with pytest.raises(AmpError, match="is a LoRA adapter, not a model"):
        load_model(ModelSpec(model=str(GOLDEN / "model" / "adapter")))


def test_eval_takes_the_downloaded_benchmark_when_no_data_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    pope = Path(__file__).parents[1] / "golden" / "pope" / "full_3x300"
    arguments = ["eval", "pope", "--answers", str(pope / "answers.jsonl"), "--out", str(tmp_path / "run"), "--json"]
    missing = CliRunner().invoke(app, arguments)
    assert isinstance(missing.exception, AmpError)
    assert "amp download pope" in str(missing.exception.hint)
    shutil.copytree(pope, tmp_path / "home" / "benchmarks" / "pope")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["overall"]["n"] == 900
