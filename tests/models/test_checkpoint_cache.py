"""`amp --cache-converted` converts an original checkpoint once and keeps the result below AMP_HOME."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from amp_cli.downloads.places import clear_conversions, kept_conversions
from amp_cli.errors import AmpError
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


KILLED = """
import os, sys
from amp_cli.models.llava import source
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
write = source.write_hf
source.write_hf = lambda *all: (write(*all), os.kill(os.getpid(), 9))
load_model(ModelSpec(model=sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_nothing_that_looks_whole_and_the_next_clears_it(
    base: Path, kept: Path, tmp_path: Path
) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(base)], check=False).returncode == -9
    assert [one.is_finished for one in kept_conversions()] == [False]
    other = golden_copy(tmp_path / "other")
    change_config(other, rms_norm_eps=1e-6)
    load_model(ModelSpec(model=str(other)))  # of another checkpoint
    assert [one.model for one in kept_conversions()] == [str(other)]
    assert [file for file in kept.iterdir() if file.name.endswith(".part")] == []


TOGETHER = """
import sys, time
from pathlib import Path
from amp_cli.models.llava import source
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
write = source.write_hf
def slowly(*all):
    Path(sys.argv[2], "written").open("a").write("once ")
    time.sleep(2)
    return write(*all)
source.write_hf = slowly
load_model(ModelSpec(model=sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_make_one_conversion_and_the_second_says_for_whom_it_waits(
    base: Path, kept: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", TOGETHER, str(base), str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (tmp_path / "written").read_text() == "once "
    assert [one.is_finished for one in kept_conversions()] == [True]
    waited = [number for number, text in enumerate(said) if "Waiting: " in text]
    assert len(waited) == 1
    assert f"in use by process {both[1 - waited[0]].pid} on " in said[waited[0]]
    assert "Converting" not in said[waited[0]]


def test_conversions_are_listed_and_cleared(base: Path, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_model(ModelSpec(model=str(base)))
    assert "in '" + str(next(kept.iterdir())) in capsys.readouterr().err
    (listed,) = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)["conversions"]
    size = sum(file.stat().st_size for file in Path(listed["folder"]).rglob("*") if file.is_file())
    assert listed == {"model": str(base), "folder": listed["folder"], "bytes": size, "is_finished": True}
    cleared = json.loads(CliRunner().invoke(app, ["models", "--clear-conversions", "--json"]).stdout)
    assert cleared == {"freed_bytes": size, "conversions": []}
    assert list(kept.iterdir()) == []


def test_what_another_process_makes_is_not_cleared(base: Path, kept: Path) -> None:
    load_model(ModelSpec(model=str(base)))
    (folder,) = kept.iterdir()
    holds = "import sys, time; from amp_cli.disk.lock import alone_at; from pathlib import Path\n"
    holds += f"with alone_at(Path({str(folder)!r}), 'eval'):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert clear_conversions() == 0
        process.kill()
    assert folder.is_dir()
    assert clear_conversions() > 0


def test_a_conversion_that_has_no_room_is_refused_with_the_bytes(
    base: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(AmpError, match=r"needs \d+\.\d kB, but only 5\.0 kB are free") as caught:
        load_model(ModelSpec(model=str(base)))
    assert "--clear-conversions" in caught.value.hint
    assert not list(kept.glob("*.part"))


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
