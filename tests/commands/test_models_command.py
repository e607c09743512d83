"""`amp models`: what is known by name, said plainly."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amp_cli.disk.templates import template_path
from amp_cli.downloads.zoo import KNOWN, SIZES, cached_bytes, find_model, needed_with
from amp_cli.main import app
from amp_cli.models.shapes import SHAPES
from amp_cli.training.config import load_config


def test_an_alias_and_a_hub_id_mean_one_model() -> None:
    assert len({model.name for model in KNOWN}) == len({model.hub_id for model in KNOWN}) == len(KNOWN)
    assert find_model("7b") is find_model("llava-hf/llava-1.5-7b-hf")
    for alias, hub_id in (
        ("13b", "llava-hf/llava-1.5-13b-hf"),
        ("amp-meg-7b", "mengxizhang/amp_meg_7b"),
        ("amp-13b-base", "mengxizhang/amp-13b-base"),
        ("llava-1.6-34b", "llava-hf/llava-v1.6-34b-hf"),
        ("clip-vit-large-patch14-336", "openai/clip-vit-large-patch14-336"),
    ):
        found = find_model(alias)
        assert found is not None
        assert found.hub_id == hub_id
        assert find_model(hub_id) is found
    assert find_model("amp-meg-8b") is None
    assert find_model("") is None


def test_every_size_has_a_recipe_of_its_name_for_its_own_base_and_the_other_way_round() -> None:
    recipes = {file.stem for file in template_path("recipes").glob("*.yaml")}
    assert {model.name for model in SIZES} == recipes
    for model in SIZES:
        assert load_config(model.name).base == (model.hub_id or "tiny")


def test_what_is_told_of_a_model_without_its_files_is_the_shape_of_its_name() -> None:
    for model in SIZES:
        shape = SHAPES.get(model.hub_id or "")
        assert (shape is None) == (model.name == "tiny")
        assert shape is None or shape.published == model.parameters


def test_what_a_model_cannot_run_without() -> None:
    def names(name: str) -> list[str]:
        model = find_model(name)
        assert model is not None
        return [needed.name for needed in needed_with(model)]

    assert names("amp-ig-13b") == ["amp-13b-base", "clip-vit-large-patch14-336"]
    assert names("amp-7b-base") == ["clip-vit-large-patch14-336"]
    assert names("7b") == names("clip-vit-large-patch14-336") == []


def test_the_list_says_what_cannot_run_and_why() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0, result.output
    models = {record["name"]: record for record in json.loads(result.stdout)["models"]}
    assert models["7b"]["obstacle"] is models["amp-7b-base"]["obstacle"] is None
    assert "transformers does not have" in models["tiny-llava-2b"]["obstacle"]
    assert models["7b"]["licence"] == "llama2"
    assert models["7b"]["download_gb"] == 14.1
    assert models["amp-7b-base"]["licence"] is models["amp-7b-base"]["download_gb"] is None
    assert models["amp-meg-7b"]["needs"] == ["amp-7b-base", "clip-vit-large-patch14-336"]
    assert models["amp-meg-7b"]["base"] == "amp-7b-base"
    assert models["7b"]["run_4bit_gb"] < models["7b"]["train_gb"] < models["7b"]["run_gb"]
    shown = CliRunner().invoke(app, ["models"])
    assert "llava-1.5-7b-hf" in shown.stdout
    assert "own code: cannot run" in shown.stdout
    assert "which transformers does not have" in shown.stderr


def test_a_model_in_the_cache_counts_as_on_disk_once_its_weights_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import scan_cache_dir

    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: scan_cache_dir(tmp_path))
    snapshot = tmp_path / "models--llava-hf--llava-1.5-7b-hf" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert cached_bytes() == {}
    (snapshot / "model.safetensors").write_bytes(b"12345678")
    assert cached_bytes() == {"llava-hf/llava-1.5-7b-hf": 10}
