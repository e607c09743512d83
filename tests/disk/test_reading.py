"""One reader of JSON, JSON lines and YAML: what is damaged is left out alone or refused by place, within bounds."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from amp_cli.disk import entries
from amp_cli.disk.entries import entries_of, read_entries
from amp_cli.disk.jsonl import RecordLog, content_hash
from amp_cli.disk.parsing import (
    DEEPEST,
    UnreadableError,
    parse_json,
    read_json,
    read_object,
    read_plain_object,
    read_yaml,
)
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import Answer

GOOD = [{"id": "a", "text": 'one "two" \\ [{,}]'}, {"id": "b", "levels": [[1, 2], {"x": []}]}, {"id": "c"}]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def as_list(records: list[bytes]) -> bytes:
    return b"[" + b",\n ".join(records) + b"]\n"


def as_lines(records: list[bytes]) -> bytes:
    return b"".join(record + b"\n" for record in records)


@pytest.mark.parametrize("layout", [as_list, as_lines])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"id": "b", "text": "\xe9"}', "is not valid UTF-8"),
        (b'{"id": "b", "text": tru}', "is not valid JSON"),
        (b'{"id": "b", "text": "a\0b"}', "is not valid JSON"),
        (b'{"id": "b", "text": "half \\ud83d"}', "half a character"),
        (b'{"id": "b", "text": ' + b"[" * 150 + b"]" * 150 + b"}", "nested too deeply"),
        (b"7", "is not a JSON object"),
    ],
)
def test_a_bad_record_is_left_out_alone_in_a_list_as_in_lines(
    tmp_path: Path, layout: Any, bad: bytes, reason: str
) -> None:
    records = [json.dumps(GOOD[0]).encode(), bad, json.dumps(GOOD[2]).encode()]
    found = list(read_entries(written(tmp_path / "data", layout(records))))
    assert [record for _, record, _ in found] == [GOOD[0], None, GOOD[2]]
    assert reason in found[1][2]
    assert [number for number, _, _ in found] == [1, 2, 3]


@pytest.mark.parametrize("layout", [as_list, as_lines])
@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-" + b"9" * 5000])
def test_a_number_without_end_spoils_no_record(tmp_path: Path, layout: Any, number: bytes) -> None:
    records = [b'{"id": "a", "score": ' + number + b"}", b'{"id": "b"}']
    found = [record for _, record, _ in read_entries(written(tmp_path / "data", layout(records)))]
    assert [record and record["id"] for record in found] == ["a", "b"]
    assert not 0 <= abs(found[0]["score"]) < float("inf")


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_records_are_cut_out_wherever_the_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(entries, "_BLOCK", block)
    content = json.dumps(GOOD, ensure_ascii=False, indent=1).encode()
    assert [record for _, record, _ in read_entries(written(tmp_path / "a.json", content))] == GOOD
    named = json.dumps({one["id"]: one for one in GOOD}, indent=1).encode()
    with written(tmp_path / "b.json", named).open("rb") as stream:
        found = [record for _, record, _ in entries_of(tmp_path / "b.json", stream, key="key")]
    assert found == [{**one, "key": one["id"]} for one in GOOD]


@pytest.mark.parametrize(
    ("content", "records", "reason"),
    [
        (b'[{"id": "a"}, {"id": "b"', 1, "cannot be read on from entry 2: it breaks off after 24 bytes"),
        (b'[{"id": "a"}] [{"id": "b"}]', 1, "cannot be read on from entry 2: it has ended already"),
        (b'[{"id": "a"},]', 1, "entry 2 is not valid JSON"),
        (b"[" * 200_000, 0, "nested too deeply"),
        (b'[{"id": ' + b"[" * 200_000, 0, "nested too deeply"),
    ],
)
def test_what_was_not_read_is_counted_with_its_place(tmp_path: Path, content: bytes, records: int, reason: str) -> None:
    found = list(read_entries(written(tmp_path / "a.json", content)))
    assert [record is not None for _, record, _ in found] == [True] * records + [False]
    assert reason in found[-1][2]


def test_an_empty_list_has_no_entry(tmp_path: Path) -> None:
    assert list(read_entries(written(tmp_path / "a.json", b" [ ]\n"))) == []


@pytest.mark.parametrize("layout", [as_list, as_lines])
def test_a_record_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    monkeypatch.setattr(entries, "LONGEST", 1 << 20)
    long = b'{"id": "long", "text": "' + b"x" * (5 << 20) + b'"}'
    path = written(tmp_path / "data", layout([b'{"id": "a"}', long, b'{"id": "b"}']))
    found = list(read_entries(path))
    assert [record and record["id"] for _, record, _ in found] == ["a", None, "b"]
    assert "is longer than 1 MB" in found[1][2]


def test_brackets_take_no_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", b'[{"a": ' + b"[" * 30_000)
    tracemalloc.start()
    list(read_entries(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_the_limit_of_depth_is_exact() -> None:
    parse_json("[" * DEEPEST + "]" * DEEPEST)
    with pytest.raises(UnreadableError, match="nested too deeply"):
        parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "absent"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for read in (read_json, read_yaml, lambda path: list(read_entries(path))):
        with pytest.raises(AmpError, match=f"Cannot read '{path}'"):
            read(path)
    if kind != "folder":
        with pytest.raises(AmpError, match="Cannot read"):
            content_hash(path)


def test_a_gzip_file_that_is_cut_off_or_changed_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(as_lines([json.dumps({"id": number}).encode() for number in range(500)]))
    for content in (whole[:-20], whole[:30] + b"\xff\xff" + whole[32:]):
        with pytest.raises(AmpError, match="damaged gzip"):
            list(read_entries(written(tmp_path / "a.jsonl", content)))


def test_an_object_of_ours_names_the_file_and_the_field(tmp_path: Path) -> None:
    path = written(tmp_path / "run.json", b'{"command": "train", "settings": [], "steps": true, "loss": NaN}')
    for fields, words in (
        ({"seed": int}, "lacks the field 'seed'"),
        ({"settings": dict}, r"'settings' in '.*run\.json' must be an object, not \[\]"),
        ({"steps": int}, "'steps' in .* must be a whole number, not True"),
    ):
        with pytest.raises(AmpError, match=words) as raised:
            read_object(path, **fields)
        assert raised.value.hint
    assert read_object(path, command=str)["command"] == "train"
    with pytest.raises(AmpError, match="NaN"):
        read_plain_object(path, command=str)


@pytest.mark.parametrize("content", ["[]", "{}", '{"command": 7, "settings": {}}', "[" * 100_000, ""])
def test_a_run_file_that_is_none_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(AmpError, match=r"run\.json"):
        Run.read(tmp_path)


ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ALIASES.encode(), "aliases"),
        (b"a: !!python/object/apply:os.system [x]", "tags"),
        (b"[" * 200_000, "nested too deeply"),
        (b"- " * 100_000, "nested too deeply"),
        (b"a: " + b"9" * 5000, "not valid YAML"),
        (b"a: 2024-13-45", "not valid YAML"),
        (b"a: \xff", "not valid YAML"),
        (b"a: \0", "not valid YAML"),
        (b"a: [1", "not valid YAML"),
        (b"#" * (2 << 20), "over 1 MB"),
    ],
)
def test_settings_that_unfold_or_are_not_yaml_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(AmpError, match=reason) as raised:
        read_yaml(written(tmp_path / "a.yaml", content))
    assert raised.value.hint


def test_plain_settings_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", b"\xef\xbb\xbfa: 1\nb: {c: [1.5, 'NO', null]}\n")
    assert read_yaml(path) == {"a": 1, "b": {"c": [1.5, "NO", None]}}


def test_reading_a_log_leaves_it_as_it_is_and_appending_mends_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{"id": "a"}\n{"id": "b", "te')
    log = RecordLog(path)
    assert log.ids() == {"a"}
    assert path.read_bytes().endswith(b'"te')
    log.append({"id": "c"})
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "c"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"7", "is not a JSON object"),
        (b'{"answers": ["x"]}', "'id' is missing"),
        (b'{"id": "b", "answers": "x"}', "must be a list of texts"),
    ],
)
def test_a_line_of_ours_that_is_damaged_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path / "answers.jsonl", b'{"id": "a", "answers": ["x"]}\n' + line + b"\n")
    with pytest.raises(AmpError, match=rf"answers\.jsonl' is damaged: line 2 .*{reason}"):
        RecordLog(path).read_as(Answer.from_json)
