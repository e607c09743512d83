"""Whatever the data hold, the importer gives items or a reason, and never another error."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import Choices, Draft
from amp_cli.preferences.formats.formats import FORMATS, detect_format
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.formats.tables import hub_entries
from amp_cli.preferences.reading import read_items
from amp_cli.records import PreferenceItem, SourceItem
from tests.support.prefs_formats import EXAMPLES, write_lines

QUICK = settings(
    derandomize=True, deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = sorted({name for records in EXAMPLES.values() for record in records for name in record} | {"__key__", "scores"})
WORDS = st.sampled_from(
    ["", " ", "<image>", "gpt", "human", "user", "dog.png", "/9j/", "USER: a ASSISTANT:", "1", "N/A"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS | st.binary(max_size=4)
INNER = st.sampled_from(
    ["from", "value", "role", "content", "type", "text", "bytes", "path", "model", "response", "annotations", "score"]
) | st.sampled_from(["rank", "answers", "source", "question", "chosen", "rejected", "image"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(INNER, inner, max_size=4), max_leaves=12
)
RECORDS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), VALUES, max_size=7)
TWISTS: list[Callable[[Any], Any]] = [
    lambda value: None,
    lambda value: [value],
    lambda value: {"value": value},
    lambda value: str(value),
    lambda value: 7,
    lambda value: float("nan"),
    lambda value: "half \ud83d",
    lambda value: "<image>",
    lambda value: [],
    lambda value: value[:-1] if isinstance(value, list | str) else value,
    lambda value: value * 2 if isinstance(value, list | str) else value,
]


def twisted(value: Any, choose: random.Random) -> Any:
    """Return the value with one place in it, wherever, made into something else."""
    if isinstance(value, dict) and value and choose.random() < 0.8:
        name = choose.choice(sorted(value))
        return {**value, name: twisted(value[name], choose)}
    if isinstance(value, list) and value and choose.random() < 0.8:
        place = choose.randrange(len(value))
        return [*value[:place], twisted(value[place], choose), *value[place + 1 :]]
    return choose.choice(TWISTS)(value)


def assert_items_or_reasons(read: Callable[[], Any]) -> None:
    with suppress(AmpError):
        for one in read():
            assert isinstance(one, PreferenceItem | SourceItem) or (isinstance(one, LeftOut) and one.reason)


@pytest.mark.slow
@QUICK
@given(RECORDS)
def test_any_record_is_described_and_converted_without_another_error(record: dict[str, Any]) -> None:
    for format in FORMATS.values():
        assert isinstance(format.describes(record), bool)
        with suppress(AmpError):
            assert all(isinstance(draft, Draft) for draft in format.convert(record, Choices()))
    with suppress(AmpError):
        assert detect_format([record], "data").describes(record)


@pytest.mark.slow
@QUICK
@given(st.lists(RECORDS, min_size=1, max_size=3), st.sampled_from(sorted(FORMATS)))
def test_any_file_read_as_any_format_gives_items_or_reasons(
    tmp_path: Path, records: list[dict[str, Any]], name: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record, default=repr) + "\n" for record in records), encoding="utf-8")
    assert_items_or_reasons(lambda: read_items(path, format=name))
    assert_items_or_reasons(lambda: read_items(path))


@pytest.mark.slow
@QUICK
@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 10**9))
def test_a_good_file_with_something_wrong_in_it_gives_items_or_reasons(tmp_path: Path, name: str, seed: int) -> None:
    choose = random.Random(seed)
    records = [twisted(record, choose) for record in EXAMPLES[name] for _ in range(4)]
    path = write_lines(tmp_path / "data.jsonl", [record for record in records if isinstance(record, dict)] or [{}])
    assert_items_or_reasons(lambda: read_items(path, format=name))
    with suppress(AmpError):
        result = import_preferences(path, tmp_path / "out", format=name, overwrite=True)
        assert result.items == len(result.file.read_text(encoding="utf-8").splitlines())
        assert result.rejected == len(result.rejected_file.read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
@QUICK
@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:1ae\\un\n ', max_size=60).map(str.encode))
def test_any_bytes_give_items_or_reasons(tmp_path: Path, content: bytes) -> None:
    for name in ("a.json", "a.jsonl", "a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(content)
        assert_items_or_reasons(lambda path=tmp_path / name: read_items(path, format="trl"))


@pytest.mark.parametrize("name", ["amp", "trl"])
def test_a_record_nested_beyond_reason_is_refused(tmp_path: Path, name: str) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    record = {**EXAMPLES[name][-1], "meta": {"deep": deep}, "margin": deep}
    path = write_lines(tmp_path / "a.jsonl", [record])
    assert_items_or_reasons(lambda: read_items(path, format=name))


def test_a_hub_name_that_is_none_is_an_amp_error() -> None:
    with pytest.raises(AmpError):
        list(hub_entries("no good/name", None))
