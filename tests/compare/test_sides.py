"""How the sides of a comparison are written: models, adapters, training runs, endpoints, and names of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from amp_cli.compare.comparing import asked_in_turn
from amp_cli.compare.sides import read_sides
from amp_cli.errors import AmpError
from amp_cli.preferences.experts import Expert


def adapter(folder: Path, base: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    save_file({"a.lora_A.weight": np.zeros((1, 4), dtype=np.float32)}, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A training run on `7b`; the adapter itself names another spelling of it."""
    adapter(tmp_path / "mdpo" / "adapter", "llava-hf/llava-1.5-7b-hf")
    (tmp_path / "mdpo" / "run.json").write_text(json.dumps({"command": "train", "settings": {"base": "7b"}}))
    return str(tmp_path / "mdpo")


def test_a_run_means_its_base_with_its_adapter_and_alone_it_stands_beside_that_base(run: str) -> None:
    both = (Expert(name="7b", model="7b"), Expert(name="mdpo", model="7b", adapter=run))
    assert read_sides(["7b", run]) == both
    assert read_sides([run]) == both


def test_an_adapter_in_a_run_is_called_after_the_run(run: str) -> None:
    place = f"{run}/adapter"
    assert read_sides(["13b", place])[1] == Expert(name="mdpo", model="7b", adapter=place)


def test_sides_may_have_names_adapters_and_addresses(run: str) -> None:
    assert read_sides(["before=7b", f"after=7b+{run}", "http://127.0.0.1:8000/v1#llava"]) == (
        Expert(name="before", model="7b"),
        Expert(name="after", model="7b", adapter=run),
        Expert(name="llava", model="http://127.0.0.1:8000/v1#llava"),
    )


def test_two_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for place in ("a/merged", "b/merged"):
        (tmp_path / place).mkdir(parents=True)
    names = [side.name for side in read_sides([str(tmp_path / "a/merged"), str(tmp_path / "b/merged")])]
    assert names == [str(tmp_path / "a/merged"), str(tmp_path / "b/merged")]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["7b"], "There is only one model"), (["7b", "7b"], "'7b' is given twice"), (["7b", "after="], "names no")],
)
def test_what_is_no_comparison_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(AmpError, match=message):
        read_sides(words)


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="does not name its base model"):
        read_sides(["7b", str(adapter(tmp_path / "lost"))])


def test_an_adapter_is_asked_right_after_its_base() -> None:
    adapted, other, base = (
        Expert(name="a", model="tiny", adapter="x"),
        Expert(name="o", model="7b"),
        Expert(name="b", model="tiny"),
    )
    assert [one.name for one in asked_in_turn([adapted, other, base])] == ["o", "b", "a"]
