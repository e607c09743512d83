"""A small part of the torture, the same moments every time; `python tests/bench/torture.py` is the whole."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import torture


@pytest.mark.slow
def test_commands_that_are_stopped_at_random_end_with_the_same_files(capsys: pytest.CaptureFixture[str]) -> None:
    status = torture.main(["--kills", "4", "--only", "prefs mix", "--seed", "1"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "| prefs mix |" in said


def test_a_file_that_differs_is_seen_and_times_are_not(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"state": "done", "started": "now", "result": {"seconds": 1.5, "steps": 4}}')
    (tmp_path / "items.jsonl").write_text('{"id": "a"}\n')
    (tmp_path / "train.log").write_text("a word")
    before = torture.contents(tmp_path)
    assert before.keys() == {"run.json", "items.jsonl"}
    (tmp_path / "run.json").write_text('{"state": "done", "started": "then", "result": {"seconds": 2.5, "steps": 4}}')
    assert torture.contents(tmp_path) == before
    (tmp_path / "run.json").write_text('{"state": "done", "started": "then", "result": {"seconds": 2.5, "steps": 5}}')
    assert torture.contents(tmp_path) != before
