"""What is said of work that takes time: nothing is silent for long, and no log file is filled with bars."""

import time

import pytest

from amp_cli import ui


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second stands for three, and a fifth for a minute."""
    monkeypatch.setattr(ui, "SILENCE", 0.1)
    monkeypatch.setattr(ui, "AGAIN", 0.2)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


def test_what_takes_long_says_what_it_is_doing_and_says_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.busy("Loading 'large'"):
        time.sleep(0.6)
    lines = said(capsys)
    assert lines[0] == "Loading 'large'"
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("Loading 'large'") for line in lines)


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(50):
        with ui.busy("Loading 'small'"):
            pass
    time.sleep(0.25)  # nor does it speak when it is over
    assert said(capsys) == []


def test_the_innermost_speaks_and_who_has_spoken_is_not_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.busy("outer"):
        with ui.busy("inner"):
            time.sleep(0.18)
        for _ in range(4):
            ui.note("a word")
            time.sleep(0.05)
    assert said(capsys) == ["inner", *["a word"] * 4]


def test_after_another_process_has_spoken_the_own_remark_waits_again(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.busy("outer"):
        for _ in range(3):
            with ui.left_to_another():
                time.sleep(0.15)
            time.sleep(0.02)
    assert said(capsys) == []


def test_within_a_loop_neither_a_hint_nor_the_remark_on_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.command_within_a_loop():
        ui.hint("amp report run", "Name other runs too.")
        ui.note("a word")
    assert said(capsys) == ["a word"]
    ui.hint("amp report run", "Name other runs too.")
    assert said(capsys) == ["Next: amp report run", "Name other runs too."]


def test_of_the_processes_of_a_machine_only_the_first_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with ui.busy("Loading 'large'"):
        time.sleep(0.2)
    assert said(capsys) == []


def test_a_log_file_gets_a_line_now_and_then_of_a_thousand_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.progress("Answering", 1000) as advance:
        for _ in range(1000):
            advance()
            time.sleep(0.0005)
    lines = said(capsys)
    assert 2 <= len(lines) <= 9
    assert lines[-1] == "Answering: 1,000 of 1,000 items, about 0 s left"


def test_a_step_that_hangs_is_told_of_too(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.progress("Answering", 10):
        time.sleep(0.15)
    assert said(capsys)[0] == "Answering: 0 of 10 items"


def test_what_was_there_before_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.progress("Training", 160, done=12, unit="steps"):
        pass
    with ui.progress("answering pope", 1000, done=1000):
        pass
    with ui.byte_progress("model.safetensors", 14_100_000_000, 3_000_000_000):
        pass
    assert said(capsys) == [
        "Training: going on at 12 of 160 steps",
        "answering pope: all 1,000 are there",
        "model.safetensors: going on at 3,000 of 14,100 MB",
    ]


def test_bytes_of_unknown_length_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.byte_progress("file", None, 0) as more:
        more(2_000_000)
        time.sleep(0.15)
    assert said(capsys)[0] == "file: 2 MB"


def test_a_command_to_paste_is_quoted_and_lacks_what_was_not_given() -> None:
    line = ui.command_line(
        *("amp", "train"), prefs="my data/it's.jsonl", base=None, trust_remote_code=True, json=False, set=["a=1", "b=2"]
    )
    assert line == """amp train --prefs 'my data/it'"'"'s.jsonl' --trust-remote-code --set a=1 --set b=2"""


def test_a_table_has_a_head_where_its_columns_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    ui.table("", ["name", "value"], [("a", 1)])
    ui.table("", ["", ""], [("a", 1)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["┃", "name", "┃", "value", "┃"]
    assert [line.split() for line in lines[5:]][1] == ["│", "a", "│", "1", "│"]
    assert len(lines) == 5 + 3
