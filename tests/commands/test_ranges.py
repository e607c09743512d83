"""Every number that can be typed has a range, and what lies outside is refused by name before anything happens."""

import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as some
from typer.testing import CliRunner

from amp_cli.asking.answerer import Running
from amp_cli.asking.judge import JudgeSettings
from amp_cli.commands.options import LONGEST_NAME
from amp_cli.disk.jsonl import full_disk_told
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models.precision import choose_device
from amp_cli.models.spec import Decoding, Loading
from amp_cli.models.templates import choose_template
from amp_cli.ranges import RANGES
from amp_cli.training.config import TrainConfig, load_config

PROCESSOR = types.SimpleNamespace(tokenizer=types.SimpleNamespace(special_tokens_map={}))
"""As much of one as choosing a template looks at."""

BAD = ["nan", "inf", "-inf", "1e308", "-1e300", "9" * 23, "-" + "9" * 23, "9" * 5000, "ten", ""]
RECORDS = (TrainConfig, Decoding, Running, JudgeSettings)


def numbers(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every numeric option below a command, with the words that lead to it."""
    for name, one in getattr(command, "commands", {}).items():
        yield from numbers(one, (*path, name))
    for option in command.params:
        if option.type_descriptor.annotation in (int, float):
            yield path, option


NUMBERS = list(numbers(typer.main.get_command(app)))
ONCE = {option.opts[0]: (path, option) for path, option in NUMBERS}


def test_every_numeric_option_of_every_command_has_a_range_and_a_default_in_it() -> None:
    assert len(NUMBERS) > 90
    for path, option in NUMBERS:
        assert option.min is not None, (path, option.opts)
        assert option.max is not None, (path, option.opts)
        assert option.default is None or option.min <= option.default <= option.max, (path, option.opts)


@pytest.mark.parametrize("name", sorted(ONCE))
def test_a_bad_number_is_refused_by_the_options_name(name: str) -> None:
    path, _ = ONCE[name]
    for bad in BAD:
        done = CliRunner().invoke(app, [*path, name, bad])
        assert done.exit_code == 2, (bad, done.output)
        assert f"Invalid value for '{name}'" in " ".join(done.output.split()), (bad, done.output)


def numeric_fields(record: type) -> list[str]:
    hints = get_type_hints(record)
    kinds = {name: get_args(hint) if isinstance(hint, types.UnionType) else (hint,) for name, hint in hints.items()}
    return [one.name for one in fields(record) if {int, float} & set(kinds[one.name])]


def test_every_number_of_a_settings_record_has_a_range() -> None:
    for record in RECORDS:
        assert set(numeric_fields(record)) <= RANGES.keys(), record


@pytest.mark.parametrize("name", numeric_fields(TrainConfig))
def test_a_bad_training_setting_is_refused_by_name(name: str) -> None:
    for bad in (*BAD[:-1], str(RANGES[name][0] - 1)):
        with pytest.raises(AmpError, match=f"^{name} must be ") as caught:
            load_config("tiny", overrides=[f"{name}={bad}"])
        assert len(caught.value.message) < 200


@given(some.sampled_from(numeric_fields(TrainConfig)), some.floats() | some.integers())
def test_a_training_setting_is_taken_within_its_range_or_refused(name: str, value: float) -> None:
    least, most = RANGES[name]
    try:
        config = load_config("tiny", overrides=[f"{name}={value}"])
    except AmpError:
        return
    assert least <= getattr(config, name) <= most


@pytest.mark.parametrize("record", [Decoding, Running, JudgeSettings])
def test_records_refuse_what_is_no_number(record: Any) -> None:
    for name in set(numeric_fields(record)):
        for bad in (float("nan"), float("inf"), -1e300):
            with pytest.raises(AmpError, match=f"^{name} must be "):
                record(**{name: bad})


@pytest.mark.parametrize("device", ["xpu", "meta", "cpu:7", "cuda:-1", "cuda:99999999999", "vulkan", "", "CPU"])
def test_only_devices_of_four_kinds_are_taken(device: str) -> None:
    with pytest.raises(AmpError, match="There is no device"):
        Loading(device=device)


@pytest.mark.parametrize("device", ["cuda:7", "mps"])
def test_a_device_that_torch_does_not_see_is_a_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(AmpError, match=r"2 CUDA GPUs, from cuda:0|no Apple GPU"):
        choose_device(device)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"root:x:0:0:root:/root:/bin/sh\n", "nothing in it uses `messages`"),
        (b"\xff\xfe\x00secret", "is not UTF-8"),
        (b"{{ messages }}" + b" x" * (1 << 20), "longer than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_chat_template_is_refused_without_its_content(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "given"
    file.write_bytes(content)
    with pytest.raises(AmpError, match=said) as caught:
        choose_template(str(file), {}, PROCESSOR, "tiny", tmp_path)
    assert "x:0:0" not in caught.value.message
    assert "secret" not in caught.value.message


def test_a_template_of_the_users_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{%- for message in messages -%}{{ message.content }}{%- endfor -%}\n")
    assert choose_template(str(file), {}, PROCESSOR, "tiny", tmp_path) == (str(file), file.read_text().strip())


def test_a_name_that_is_too_long_is_a_sentence_wherever_it_stands(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["convert", "tiny", "--to", "hf", "--out", str(tmp_path / ("x" * (LONGEST_NAME + 1)))]
    )
    assert done.exit_code == 2
    assert "the name is too long" in done.output
    with pytest.raises(AmpError, match="is too long for this disk"), full_disk_told():
        (tmp_path / ("x" * 300)).read_text()
