"""A run folder: resumed with the same settings, refused with others."""

from pathlib import Path

import pytest

from amp_cli.disk.run import Run
from amp_cli.errors import AmpError


def test_the_same_settings_resume_and_keep_the_first_start(tmp_path: Path) -> None:
    first = Run.start(tmp_path / "run", command="amp train", settings={"beta": 0.1, "out": tmp_path}, seed=3)
    again = Run.start(tmp_path / "run", command="amp train", settings={"beta": 0.1, "out": tmp_path}, seed=3)
    assert not first.resumed
    assert again.resumed
    assert again.facts["started"] == first.facts["started"]


def test_other_settings_are_refused_by_the_setting_s_name(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp train", settings={"beta": 0.1, "lora_r": 8})
    with pytest.raises(AmpError, match=r"beta = 0\.1, not 0\.2"):
        Run.start(tmp_path / "run", command="amp train", settings={"beta": 0.2, "lora_r": 8})


def test_other_data_are_refused(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp train", settings={}, identity={"prefs": "abc"})
    with pytest.raises(AmpError, match="prefs"):
        Run.start(tmp_path / "run", command="amp train", settings={}, identity={"prefs": "def"})


def test_settings_that_change_only_speed_may_differ(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp eval", settings={"batch_size": 8}, free=["batch_size"])
    run = Run.start(tmp_path / "run", command="amp eval", settings={"batch_size": 4}, free=["batch_size"])
    assert run.settings == {"batch_size": 4}


def test_another_command_s_folder_is_refused(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp train", settings={})
    with pytest.raises(AmpError, match="holds a run of `amp train`"):
        Run.start(tmp_path / "run", command="amp eval pope", settings={})


def test_a_folder_with_other_files_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(AmpError, match="not empty"):
            Run.start(tmp_path, command="amp train", settings={}, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_starts_afresh(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp train", settings={"beta": 0.1})
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    run = Run.start(tmp_path / "run", command="amp train", settings={"beta": 0.2}, overwrite=True)
    assert not run.resumed
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_how_a_run_ended_stands_in_its_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run.start(tmp_path / "a", command="amp train", settings={}):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), Run.start(tmp_path / "b", command="amp train", settings={}):
        raise ZeroDivisionError
    with Run.start(tmp_path / "c", command="amp train", settings={}) as run:
        run.finish(steps=3)
    assert Run.read(tmp_path / "a").facts["state"] == "interrupted"
    assert Run.read(tmp_path / "b").facts["state"] == "failed"
    assert Run.read(tmp_path / "c").facts["state"] == "done"
    assert Run.read(tmp_path / "c").facts["steps"] == 3


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="no run folder"):
        Run.read(tmp_path)
