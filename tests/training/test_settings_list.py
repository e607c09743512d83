"""`amp train --list-settings`: each setting has a group, a meaning and a range, all read from the settings."""

import json
from dataclasses import MISSING, fields
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.training.config import CHOICES, TrainConfig
from amp_cli.training.settings_list import allowed, list_settings

FREE_TEXTS = {"base", "adapter", "vision_tower", "dtype", "template"}


def test_every_setting_says_what_it_is() -> None:
    """A field of TrainConfig without a comment behind it has no meaning here."""
    listed = {one.name: one for one in list_settings("tiny", "paper", {})}
    assert list(listed) == [one.name for one in fields(TrainConfig)]
    assert [name for name, one in listed.items() if len(one.meaning) < 5] == []
    assert listed["penalty"].group == "loss"
    assert listed["penalty"].meaning == "weight of the term that holds the best response's likelihood up"
    assert listed["seed"].group == "running"


def test_every_text_says_what_it_may_be() -> None:
    """A new setting that is one of several texts belongs into CHOICES."""
    hints = get_type_hints(TrainConfig)
    texts = {one.name for one in fields(TrainConfig) if hints[one.name] in (str, str | None)}
    assert texts - FREE_TEXTS == CHOICES.keys()


def test_ranges_are_those_that_are_refused_beyond() -> None:
    assert allowed("beta") == "number from 0"
    assert allowed("held_out") == "number from 0 to 0.999"
    assert allowed("max_steps") == "whole number from 1, or none"
    assert allowed("lora_r") == "whole number from 1 to 16,384"
    assert allowed("quantization") == "none, nf4, int8"
    assert allowed("pad_to_square") == "true or false, or none"


def test_what_size_and_set_change_is_marked() -> None:
    listed = {one.name: one for one in list_settings("tiny", "released", {"seed": "3"})}
    assert (listed["penalty"].default, listed["penalty"].value, listed["penalty"].origin) == (1.0, 0.03, "recipe")
    assert (listed["seed"].value, listed["seed"].origin) == (3, "set")
    assert listed["beta"].origin == "default"
    assert listed["reduction"].value == "mean"
    assert listed["report_to"].may_change
    assert not listed["beta"].may_change


def test_a_wrong_key_points_to_the_list() -> None:
    with pytest.raises(AmpError) as caught:
        list_settings("tiny", "paper", {"bta": "1"})
    assert caught.value.hint == "Did you mean 'beta'? `amp train --list-settings` shows all"


@pytest.mark.parametrize("words", [["--list-settings", "--size", "tiny"], ["--size", "tiny", "--list-settings"]])
def test_the_command_needs_nothing_else(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["train", *words, "--set", "beta=0.3", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["size"], told["recipe"]) == ("tiny", "paper")
    beta = next(one for one in told["settings"] if one["name"] == "beta")
    assert (beta["value"], beta["origin"]) == (0.3, "set")
    assert len(told["settings"]) == len(fields(TrainConfig))


def test_the_table_shows_value_default_range_and_meaning() -> None:
    done = CliRunner().invoke(app, ["train", "--list-settings", "--size", "tiny"], env={"COLUMNS": "200"})
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(row.startswith("│ lora_r │ 16 (tiny; default 64) │ whole number from 1 to 16,384 │") for row in rows)
    assert any(row.startswith("│ base │ tiny (tiny) │ text │") for row in rows)
    assert next(one for one in fields(TrainConfig) if one.name == "base").default is MISSING
    assert any(row.startswith("│ report_to* │ none │") for row in rows)
