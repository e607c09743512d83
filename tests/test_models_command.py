"""`amp models`: what is known by name, said plainly."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amp_cli.core.hub import ALIASES
from amp_cli.core.zoo import KNOWN, SIZES, cached_bytes
from amp_cli.main import app


def test_every_alias_is_known_and_means_the_same_as_in_the_loader() -> None:
    known = {model.name: model for model in KNOWN}
    assert len(known) == len(KNOWN)
    for alias, hub_id in ALIASES.items():
        assert known[alias].hub_id == hub_id
    assert [model.name for model in SIZES] == ["tiny", "7b", "13b"]


def test_the_list_says_what_cannot_run_and_why() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0, result.output
    models = {record["name"]: record for record in json.loads(result.stdout)["models"]}
    assert models["7b"]["obstacle"] is None
    assert "layout" in models["mengxizhang/amp-7b-base"]["obstacle"]
    assert models["mengxizhang/amp_meg_7b"]["base"] == "mengxizhang/amp-7b-base"
    assert models["7b"]["run_4bit_gb"] < models["7b"]["train_gb"] < models["7b"]["run_gb"]
    assert "llava-1.5-7b-hf" in CliRunner().invoke(app, ["models"]).stdout.replace("\n", "")


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
