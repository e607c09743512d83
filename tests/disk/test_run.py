"""A run folder: resumed with the same settings, refused with others."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from amp_cli.disk.run import Run
from amp_cli.disk.settings import free
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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Settings of a made-up command; `beams` came with a later version."""

    words: str
    batch_size: int = free(8)
    beams: int = 1


def test_settings_that_change_only_speed_may_differ(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp eval", settings=Asked(words="Is it?", batch_size=8))
    run = Run.start(tmp_path / "run", command="amp eval", settings=Asked(words="Is it?", batch_size=4))
    assert (run.resumed, run.settings["batch_size"]) == (True, 4)
    with pytest.raises(AmpError, match="words"):
        Run.start(tmp_path / "run", command="amp eval", settings=Asked(words="What?", batch_size=4))


def test_a_setting_that_an_older_run_does_not_name_had_its_default(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", command="amp eval", settings={"words": "Is it?", "batch_size": 8})
    with pytest.raises(AmpError, match=r"beams = 1, not 4"):
        Run.start(tmp_path / "run", command="amp eval", settings=Asked(words="Is it?", beams=4))
    run = Run.start(tmp_path / "run", command="amp eval", settings=Asked(words="Is it?"))
    assert run.settings["beams"] == 1


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
    Run.start(tmp_path / "run", command="train", settings={"beta": 0.1})
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    run = Run.start(tmp_path / "run", command="train", settings={"beta": 0.2}, overwrite=True)
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
    with pytest.raises(AmpError, match="not a run folder"):
        Run.read(tmp_path)
