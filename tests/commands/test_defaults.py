"""amp.toml and AMP_* variables: what is typed goes before them, and whatever does not fit is refused by its place."""

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from amp_cli import main
from amp_cli.commands.command_line import CommandLine
from amp_cli.commands.defaults import (
    PREFIX,
    apply_config,
    forget_defaults,
    found_config,
    read_config,
    settings_in_order,
    without_defaults,
)
from amp_cli.errors import AmpError
from tests.test_architecture import ROOT

HEARD: dict[str, Any] = {}
TEXT = Annotated[str, typer.Option("--text")]


def a_command_line() -> CommandLine:
    """A command line of two commands and a group, which note what reaches them."""
    app = CommandLine(context_settings={"auto_envvar_prefix": PREFIX})
    group = CommandLine()

    @app.callback()
    def start(
        config: Annotated[
            Path | None, typer.Option("--config", is_eager=True, callback=apply_config, expose_value=False)
        ] = None,
    ) -> None: ...

    @app.command("make-it")
    def make_it(
        context: typer.Context,
        text: TEXT = "plain",
        how_many: Annotated[int, typer.Option("--how-many", min=1, max=9)] = 1,
        share: Annotated[float | None, typer.Option("--share")] = None,
        file: Annotated[Path | None, typer.Option("--file")] = None,
        changes: Annotated[list[str] | None, typer.Option("--set")] = None,
        trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
        json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        settings = settings_in_order(context, "changes", {"share": share})
        HEARD.update(text=text, how_many=how_many, file=file, settings=settings, json=json)

    @group.command("one")
    def one(text: TEXT = "plain", own: Annotated[int, typer.Option("--own")] = 0) -> None:
        HEARD.update(text=text, own=own)

    @group.command("two")
    def two(text: TEXT = "plain") -> None:
        HEARD.update(text=text)

    app.add_typer(group, name="group")
    return app


def heard(*words: str, **environment: str) -> dict[str, Any]:
    HEARD.clear()
    done = CliRunner().invoke(a_command_line(), list(words), env={"AMP_CONFIG": "", **environment})
    assert done.exit_code == 0, (done.output, done.exception)
    return {**HEARD, "said": done.stderr}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "amp.toml").write_text(text, encoding="utf-8")


def test_what_is_typed_goes_before_the_environment_and_that_before_the_file(place: Path) -> None:
    write(place, '[make-it]\ntext = "file"\nhow-many = 7\n')
    assert heard("make-it")["text"] == "file"
    assert heard("make-it", AMP_MAKE_IT_TEXT="variable")["text"] == "variable"
    assert heard("make-it", "--text", "typed", AMP_MAKE_IT_TEXT="variable")["text"] == "typed"
    assert heard("make-it", AMP_MAKE_IT_TEXT="variable")["how_many"] == 7


def test_where_a_value_comes_from_is_said(place: Path) -> None:
    write(place, "[make-it]\nhow_many = 7\n[make-it.set]\nbeta = 0.2\n")
    said = heard("make-it", "--set", "seed=1", AMP_MAKE_IT_TEXT="variable")["said"]
    assert f"From '{place / 'amp.toml'}': --how-many 7 --set beta=0.2" in said
    assert "From the environment (AMP_*): --text variable" in said
    assert "seed" not in said
    assert heard("--config", "none", "make-it")["said"] == ""


def test_settings_of_all_origins_are_kept_and_the_strongest_is_the_last(place: Path) -> None:
    write(place, "[make-it]\nshare = 0.5\n[make-it.set]\nbeta = 0.2\nfast = true\n")
    told = heard("make-it", "--set", "share=0.1", AMP_MAKE_IT_SET="beta=0.3 seed=4")["settings"]
    assert told == ["beta=0.2", "fast=true", "share=0.5", "beta=0.3", "seed=4", "share=0.1"]


def test_a_groups_table_is_for_those_of_its_commands_that_have_the_option(place: Path) -> None:
    write(place, '[group]\ntext = "all"\nown = 3\n[group.two]\ntext = "two"\n')
    assert heard("group", "one") | {"said": ""} == {"text": "all", "own": 3, "said": ""}
    assert heard("group", "two")["text"] == "two"


def test_a_path_starts_from_the_files_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, '[make-it]\nfile = "data/x.json"\ntext = "./models/y"\n')
    assert heard("make-it")["file"] == Path("data/x.json")
    (place / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(place / "deep" / "er")
    told = heard("make-it")
    assert told["file"] == place / "data/x.json"
    assert told["text"] == str(place / "models/y")


def test_a_file_above_that_is_another_users_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, "")
    (place / "deep").mkdir()
    monkeypatch.chdir(place / "deep")
    assert found_config() == place / "amp.toml"
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(AmpError, match="belongs to another user"):
        found_config()
    monkeypatch.chdir(place)
    assert found_config() == place / "amp.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "is not TOML"),
        ("[make-it]\nhow_manny = 1", r"'how_manny' of \[make-it\] in .* is not known there"),
        ("[mak-it]\ntext = 'a'", "'mak-it' in .* is not known there"),
        ("make-it = 3", "'make-it' in .* is a command, and needs a table"),
        ("[make-it]\nhow_many = '3'", "'how_many' .* must be a whole number, not '3'"),
        ("[make-it]\nhow_many = true", "must be a whole number, not True"),
        ("[make-it]\ntext = 3", "must be a text, not 3"),
        ("[make-it]\nset = ['a', 3]", "must be a list of texts, or a table"),
        ("[make-it]\nhow_many = 10", "'how_many' .* cannot be 10: .*less than or equal to 9"),
        ("[make-it]\njson = true", "cannot give --json"),
        ("[make-it]\ntrust-remote-code = true", "cannot give --trust-remote-code"),
        ("[make-it.set]\ntrust_remote_code = true", "cannot give --trust-remote-code"),
        ("config = 'other.toml'", "cannot give --config"),
        ("[make-it]\napi_key = 'x'", "'api_key' .* looks like a secret"),
        ("[make-it]\ntext = 'sk-0123456789abcdef0123'", "holds what looks like a secret"),
        ("[make-it]\ntext = 'https://me:word@host/v1'", "holds what looks like a secret"),
        ("[group]\nown = 'x'", r"'own' of \[group\] .* must be a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_table_and_key(place: Path, text: str, said: str) -> None:
    write(place, text)
    done = CliRunner().invoke(a_command_line(), ["group", "two"], env={"AMP_CONFIG": ""})
    assert isinstance(done.exception, AmpError)
    with pytest.raises(AmpError, match=said):
        raise done.exception
    assert "0123456789" not in done.exception.message
    assert "word@" not in done.exception.message


def test_results_are_not_replaced_nor_printed_as_json_by_a_variable(place: Path) -> None:
    assert heard("make-it", AMP_MAKE_IT_JSON="1")["json"] is False


@pytest.mark.parametrize("line", ["[run]\nagain = ['train']", "[models]\nclear-conversions = true"])
def test_what_throws_results_away_has_to_be_typed(place: Path, line: str) -> None:
    write(place, line)
    root = typer.main.get_command(main.app)
    with pytest.raises(AmpError, match=r"cannot give --(again|clear-conversions)"):
        read_config(place / "amp.toml", typer.Context(root))


def test_a_variable_that_no_option_has_is_told(place: Path) -> None:
    said = heard("make-it", AMP_MAKE_IT_TXT="x", AMP_HOME="/y")["said"]
    assert "No option is called like the variable AMP_MAKE_IT_TXT" in said
    assert "AMP_HOME" not in said


def test_a_command_that_is_started_by_another_reads_nothing_again() -> None:
    environment = {"AMP_ABLATE_JOBS": "2", "AMP_HOME": "/x", "AMP_TRAIN_SEED": "1"}
    assert without_defaults(environment, "ablate") == {"AMP_HOME": "/x", "AMP_TRAIN_SEED": "1"}


def test_a_stage_of_a_pipeline_takes_no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_GENERATE_PREFS_SEED", "1")
    monkeypatch.setenv("AMP_CONFIG", "amp.toml")
    monkeypatch.setenv("AMP_TRAIN_SIEZ", "1")
    forget_defaults(["train", "generate-prefs"])
    assert not {"AMP_GENERATE_PREFS_SEED", "AMP_TRAIN_SIEZ"} & os.environ.keys()
    assert os.environ["AMP_CONFIG"] == "none"
    assert "AMP_HOME" in os.environ


def test_no_option_of_amp_itself_is_called_like_a_command() -> None:
    """Defaults lie by name, those of commands and those of options side by side."""
    root = typer.main.get_command(main.app)
    assert not {one.name for one in root.params} & root.commands.keys()  # type: ignore[attr-defined]


def test_the_guides_file_is_read(place: Path) -> None:
    page = (ROOT / "docs" / "commandline.md").read_text(encoding="utf-8")
    write(place, page.partition("```toml\n")[2].partition("```")[0])
    root = typer.main.get_command(main.app)
    context = root.make_context("amp", ["version"], auto_envvar_prefix=PREFIX)
    read = read_config(place / "amp.toml", context)
    assert read["offline"] is True
    assert read["train"] == {
        "size": "13b",
        "held_out": 0.05,
        "changes": ["learning_rate=0.0001", "report_to=trackio"],
    }
    assert read["eval"]["pope"] == {"model": "13b", "data": "data/pope", "limit": 100}
    assert read["eval"]["mmhal"] == {"model": "13b", "judge": "gpt-4o"}
