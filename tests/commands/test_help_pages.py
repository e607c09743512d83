"""Two help pages of each command: the short one is short and enough for its example, the long one is whole."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from amp_cli.commands.command_line import ESSENTIAL, FEW, flag_of, is_essential
from amp_cli.main import app


def all_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in getattr(command, "commands", {}).items():
        yield from all_commands(one, (*path, name))
    if path and not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(all_commands(get_command(app)))


def flags(command: Any, *, essential: bool) -> set[str]:
    options = [one for one in command.params if one.param_type_name == "option"]
    return {f"--{flag_of(one)}" for one in options if not essential or is_essential(one)}


def page(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_needs_nothing_that_the_short_page_hides(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    example = (command.help or "").partition("Example: ")[2]
    assert example.startswith("amp "), path
    used = set(re.findall(r"--[a-z][a-z-]*", example))
    assert used <= flags(command, essential=len(command.params) > FEW)


@pytest.mark.parametrize("path", [path for path, one in COMMANDS.items() if len(one.params) > FEW], ids=" ".join)
def test_a_long_command_shows_few_options_first(path: tuple[str, ...]) -> None:
    assert 4 <= len(flags(COMMANDS[path], essential=True)) <= 18


def test_the_short_page_says_how_many_more_there_are_and_the_long_one_shows_them() -> None:
    short, long = page("eval", "mmhal", "--help"), page("eval", "mmhal", "--help-all")
    hidden = flags(COMMANDS["eval", "mmhal"], essential=False) - flags(COMMANDS["eval", "mmhal"], essential=True)
    assert f"{len(hidden)} more options: amp eval mmhal --help-all" in " ".join(short.split()).replace("root", "amp")
    for flag in hidden:
        assert f" {flag} " not in short
        assert f" {flag} " in long
    assert "more options" not in long


def test_a_short_command_has_one_page() -> None:
    assert "more options" not in page("doctor", "--help")
    assert "--network" in page("doctor", "--help")


def test_every_command_has_both_pages() -> None:
    for path in [(), ("eval",), ("prefs",), *COMMANDS]:
        assert "--help-all" in page(*path, "--help"), path


def test_every_essential_option_is_somewhere() -> None:
    known = {flag for command in COMMANDS.values() for flag in flags(command, essential=False)}
    assert {f"--{name}" for name in ESSENTIAL} <= known
