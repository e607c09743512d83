"""The command line as a whole: exit statuses, one error line, nothing of the environment leaks."""

import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from amp_cli import __version__, main
from amp_cli.errors import AmpError

COMMANDS = [
    [], ["quickstart"], ["generate-prefs"], ["train"], ["merge-lora"], ["eval"], ["eval", "pope"], ["eval", "chair"],
    ["eval", "amber"], ["eval", "mmhal"], ["eval", "mrhal"], ["eval", "llava-bench"], ["eval", "llava-bench-wild"],
    ["report"], ["compare"], ["push"], ["models"], ["doctor"],
]  # fmt: skip


def run(*words: str) -> subprocess.CompletedProcess[str]:
    code = "from amp_cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_printed_alone() -> None:
    assert run("--version").stdout == f"amp {__version__}\n"


def help_of(command: list[str]) -> str:
    done = CliRunner().invoke(main.app, [*command, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_opens_and_gives_an_example(command: list[str]) -> None:
    page = help_of(command)
    if len(command) == 2 or command not in ([], ["eval"]):
        assert "Example: amp" in page, command


def test_no_default_is_swallowed_by_markup() -> None:
    """Square brackets in a help text are read as markup, and what they hold vanishes."""
    for command in COMMANDS[1:]:
        assert not re.search(r"\w \.(\s|$)", help_of(command)), command


def test_an_error_of_the_user_s_is_two_lines_without_colour_codes(capfd: pytest.CaptureFixture[str]) -> None:
    from amp_cli import ui

    error = AmpError("No image at 'a[b].jpg'", hint="Give --image-root")
    ui.error(error.message, error.hint)
    assert capfd.readouterr().err == "Error: No image at 'a[b].jpg'\nHint: Give --image-root\n"


def test_offline_reaches_the_hub_library_and_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    main._start(offline=True)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.slow
def test_keys_stand_in_no_output(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "sk-this-must-never-be-seen"
    for name in ("OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setattr(sys, "argv", ["amp", "doctor", "--json"])
    with pytest.raises(SystemExit):
        main.main()
    said = capfd.readouterr()
    assert secret not in said.out + said.err
    assert {"OPENAI_API_KEY": True, "HF_TOKEN": True}.items() <= json.loads(said.out)["keys"].items()


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (["prefs", "check", "absent.json", "--json"], 1, "There is no file or folder 'absent.json'"),
        (["report", "absent", "--json"], 1, "There is no folder 'absent'"),
        (["prefs", "check", "--json", "--strange"], 2, "No such option: --strange"),
        (["prefs", "check", "--json"], 2, "Missing argument"),
        (["prefs", "check", "--json", "half \udcff"], 1, "is not valid UTF-8"),
    ],
)
def test_an_error_is_one_object_on_stdout_with_json(
    line: list[str], status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["amp", *line])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == status
    told = capsys.readouterr()
    said = json.loads(told.out)
    assert set(said) == {"error", "hint"}
    assert words in said["error"]
    assert said["hint"]
    assert "Error" in told.err
    assert status == 2 or "Hint: " in told.err


def test_an_error_leaves_stdout_empty_without_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["amp", "prefs", "check", "absent.json"])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().out == ""


def test_what_could_steer_a_terminal_is_printed_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    from amp_cli import ui

    ui.error("'\x1b[2J\x07' is damaged", "Write it again")
    assert capfd.readouterr().err == "Error: '\\x1b[2J\\x07' is damaged\nHint: Write it again\n"
