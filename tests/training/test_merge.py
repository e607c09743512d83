"""Merging: equal to base plus adapter, the right base, once and not twice."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.load import load_model
from amp_cli.models.resolve import TINY, identity_of
from amp_cli.models.spec import ModelSpec
from amp_cli.training import merge
from amp_cli.training.merge import MergeSettings, merge_lora
from tests.support.llava_checkpoints import files_in
from tests.support.training_items import write_preferences
from tests.training.test_trainer import RAGGED, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run with its run.json."""
    folder = tmp_path_factory.mktemp("merge") / "run"
    Run.start(
        folder,
        command="train",
        settings=RAGGED.to_json(),
        identity={"model": identity_of("tiny", TINY)},
    )
    write_preferences(folder / "data")
    train(folder, replace(RAGGED, max_steps=4))
    return folder


def settings(run: Path, out: Path, base: str | None = None, *, overwrite: bool = False) -> MergeSettings:
    return MergeSettings(adapter=str(run), out=out, base=base, overwrite=overwrite)


@pytest.mark.slow
def test_the_merged_folder_answers_as_base_plus_adapter(run: Path, tmp_path: Path) -> None:
    result = merge_lora(settings(run, tmp_path / "merged"))
    both = load_model(ModelSpec(model="tiny", adapter=str(run)))
    merged = load_model(ModelSpec(model=str(tmp_path / "merged")))
    base = load_model(ModelSpec(model="tiny"))
    expected = merge._logits(both)
    torch.testing.assert_close(merge._logits(merged), expected, rtol=0, atol=0.02)
    assert (merge._logits(base) - expected).abs().max() > 0.5  # the adapter does something
    assert result.base == "tiny"
    assert 0 < result.max_logit_difference < 0.05


def test_the_merged_folder_is_plain_and_in_the_bases_precision(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    merge_lora(settings(run, out))
    weights = load_file(out / "model.safetensors")
    original = load_file(TINY / "model.safetensors")
    assert set(weights) == set(original)
    assert all(value.dtype == original[name].dtype for name, value in weights.items())
    changed = {name for name, value in weights.items() if not torch.equal(value, original[name])}
    assert changed
    assert all("language_model" in name and "_proj" in name for name in changed)
    assert {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json"} <= {
        file.name for file in out.iterdir()
    }
    assert not (tmp_path / "merged.part").exists()


def test_merging_twice_is_merging_once(run: Path, tmp_path: Path) -> None:
    first = merge_lora(settings(run, tmp_path / "merged"))
    written = (tmp_path / "merged" / "model.safetensors").stat().st_mtime_ns
    assert merge_lora(settings(run, tmp_path / "merged")) == first
    assert (tmp_path / "merged" / "model.safetensors").stat().st_mtime_ns == written


def test_an_interrupted_merge_starts_again(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "merged.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")
    with pytest.raises(AmpError, match="is in the way"):
        merge_lora(settings(run, tmp_path / "merged"))  # without run.json it is somebody else's
    begun = {"amp_version": "0", "command": "merge-lora", "settings": {}, "state": "running"}
    (part / "run.json").write_text(json.dumps(begun))
    merge_lora(settings(run, tmp_path / "merged"))
    assert (tmp_path / "merged" / "config.json").exists()
    assert not part.exists()


def test_another_folders_files_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(AmpError, match="is not empty"):
            merge_lora(settings(run, out, overwrite=overwrite))
    assert (out / "chapter1.tex").exists()


def test_the_base_comes_from_the_run_or_else_from_the_adapter(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "adapter"
    shutil.copytree(run / "adapter", alone)
    assert merge_lora(settings(alone, tmp_path / "one")).base == "tiny"
    config = json.loads((alone / "adapter_config.json").read_text())
    (alone / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(AmpError, match="does not name its base"):
        merge_lora(settings(alone, tmp_path / "two"))
    assert merge_lora(settings(alone, tmp_path / "two", base="tiny")).base == "tiny"


def test_a_base_of_another_name_is_refused_unless_its_files_are_the_same(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(TINY, copy)
    merge_lora(settings(run, tmp_path / "merged", base=str(copy)))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "other": 1}))
    with pytest.raises(AmpError, match="was trained on 'tiny', not on"):
        merge_lora(settings(run, tmp_path / "other", base=str(copy)))


def test_a_base_that_is_somebody_elses_folder_is_taken_at_the_user_s_word_and_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Path(shutil.copytree(run / "adapter", tmp_path / "adapter"))
    config = json.loads((alone / "adapter_config.json").read_text())
    (alone / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/home/ann/llava"}))
    assert merge_lora(settings(alone, tmp_path / "merged", base="tiny")).base == "tiny"
    assert "'/home/ann/llava', which is not on this disk" in capsys.readouterr().err


def test_a_folder_named_like_the_hubs_repository_is_that_model(tmp_path: Path) -> None:
    local = tmp_path / "llava-1.5-7b-hf"
    local.mkdir()
    assert merge._same_name("7b", str(local))
    assert merge._same_name("llava-hf/llava-1.5-7b-hf", "7b")
    assert not merge._same_name("7b", "13b")
    for place in ("a", "b"):
        (tmp_path / place / "base").mkdir(parents=True)
    assert not merge._same_name(str(tmp_path / "a" / "base"), str(tmp_path / "b" / "base"))
    assert merge._same_name("somebody's/disk/base", str(tmp_path / "b" / "base"))  # not on this disk


def test_an_adapter_whose_names_do_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(run / "adapter", adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("language_model.", "other_model."): value for name, value in weights.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(AmpError, match="does not fit this base"):
        merge_lora(settings(adapter, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_a_layer_that_is_merged_wrongly_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft.tuners.lora.Linear.merge", lambda self: None)
    with pytest.raises(AmpError, match="differs from base plus adapter: on random numbers 'model"):
        merge_lora(settings(run, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_answers_differently_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a right layer lands under a wrong name."""
    unmerged = merge.unload_unmerged
    monkeypatch.setattr(merge, "unload_unmerged", lambda model: (unmerged(model)[0], {}))
    with pytest.raises(AmpError, match="differs from base plus adapter: a logit"):
        merge_lora(settings(run, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_whole_models_are_compared_where_there_is_room_or_when_asked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(merge, "free_memory", lambda: merge.ROOM_TO_COMPUTE)
    result = merge_lora(settings(run, tmp_path / "small"))
    assert result.max_logit_difference is None
    assert result.max_layer_difference is not None
    assert 0 < result.max_layer_difference < 1e-5
    assert "--verify compares them all the same" in capsys.readouterr().err
    asked = merge_lora(replace(settings(run, tmp_path / "asked"), verify=True))
    assert asked.max_logit_difference is not None
    monkeypatch.undo()
    assert merge_lora(replace(settings(run, tmp_path / "not"), verify=False)).max_logit_difference is None


@pytest.mark.parametrize("dtype", ["stored", "float32", "bfloat16"])
def test_by_layer_and_as_a_whole_the_same_folder_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = replace(settings(run, tmp_path / "by_layer"), dtype=dtype)
    merge_lora(given)
    monkeypatch.setattr(merge, "needs_whole_model", lambda _: "the test asks for it")
    assert merge_lora(replace(given, out=tmp_path / "whole")).max_layer_difference is None
    assert "The whole model is loaded to merge it: the test asks for it" in capsys.readouterr().err
    by_layer, whole = (files_in(tmp_path / name) for name in ("by_layer", "whole"))
    assert by_layer.keys() == whole.keys()
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("by_layer", "whole")]
    for name, tensor in weights[1].items():  # rounded once, or twice
        assert tensor.dtype == weights[0][name].dtype
        torch.testing.assert_close(weights[0][name], tensor, rtol=2**-6, atol=1e-3)
    for name in by_layer.keys() - {"model.safetensors", "run.json"}:
        assert by_layer[name] == whole[name], name


def test_many_weights_are_split_into_files_with_an_index(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_lora(settings(run, tmp_path / "one"))
    monkeypatch.setattr(merge, "MOST_IN_A_FILE", "500KB")
    merge_lora(settings(run, tmp_path / "several"))
    files = sorted((tmp_path / "several").glob("model-*.safetensors"))
    assert len(files) > 2
    several = {name: tensor for file in files for name, tensor in load_file(file).items()}
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert several.keys() == one.keys()
    assert all(torch.equal(tensor, one[name]) for name, tensor in several.items())


WATCHED = """
import sys
from pathlib import Path
from amp_cli.models.machine import held_memory, memory_peak
from amp_cli.training.merge import MergeSettings, merge_lora
small, large, few, many, out = sys.argv[1:]
merge_lora(MergeSettings(adapter=few, base=small, out=Path(out, "small"), verify=False))
before = held_memory()
with memory_peak() as memory:
    merge_lora(MergeSettings(adapter=many, base=large, out=Path(out, "large"), verify=False))
print(memory.megabytes() - before / 2**20)
"""


def larger(folder: Path, layers: int) -> Path:
    """The embedded model with MLPs of width 8,000, 6 MB a layer, and more layers."""
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"intermediate_size": 8000, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    layer = "language_model.model.layers.0."
    weights = load_file(folder / "model.safetensors")
    first = {name.removeprefix(layer): tensor for name, tensor in weights.items() if name.startswith(layer)}
    wide = {"gate_proj": (8000, 128), "up_proj": (8000, 128), "down_proj": (128, 8000)}
    first |= {f"mlp.{name}.weight": torch.randn(shape).mul_(0.02).half() for name, shape in wide.items()}
    for number in range(layers):
        weights |= {layer.replace("0", str(number)) + name: tensor.clone() for name, tensor in first.items()}
    save_file(
        {name: tensor for name, tensor in weights.items() if in_range(name, layers)}, folder / "model.safetensors"
    )
    return folder


def in_range(name: str, layers: int) -> bool:
    found = re.match(r"language_model\.model\.layers\.(\d+)\.", name)
    return found is None or int(found[1]) < layers


def on_every_mlp(folder: Path, layers: int) -> Path:
    """A LoRA of rank 4 for `larger`."""
    folder.mkdir()
    wide = {"gate_proj": (8000, 128), "up_proj": (8000, 128), "down_proj": (128, 8000)}
    weights = {}
    for number in range(layers):
        for module, (rows, columns) in wide.items():
            name = f"base_model.model.model.language_model.layers.{number}.mlp.{module}"
            weights[f"{name}.lora_A.weight"] = torch.randn(4, columns)
            weights[f"{name}.lora_B.weight"] = torch.randn(rows, 4)
    save_file(weights, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": list(wide)}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mapped files cannot be told from held memory")
def test_a_merge_never_holds_the_whole_model(tmp_path: Path) -> None:
    """Of 2 layers, and of 30 that take 180 MB, every one with an adapter: the second holds 80 MB more at most."""
    torch.manual_seed(0)
    bases = larger(tmp_path / "two", 2), larger(tmp_path / "thirty", 30)
    adapters = on_every_mlp(tmp_path / "few", 2), on_every_mlp(tmp_path / "many", 30)
    command = [sys.executable, "-c", WATCHED, *map(str, (*bases, *adapters, tmp_path))]
    held = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors")) > 180_000_000
    assert held < 80
