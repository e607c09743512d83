"""Files that survive a kill, and other people's JSON."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest

from amp_cli.disk.entries import read_entries
from amp_cli.disk.jsonl import RecordLog, content_hash, write_json
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError


def test_records_come_back_in_the_order_they_were_written(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "log.jsonl")
    log.append({"id": "b", "text": "ä\n"})
    log.append({"id": "a"})
    assert RecordLog(tmp_path / "log.jsonl").read() == [{"id": "b", "text": "ä\n"}, {"id": "a"}]


def test_a_torn_last_line_is_cut_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b", "te')
    log = RecordLog(path)
    assert log.ids() == {"a"}
    log.append({"id": "b"})
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n'


def test_a_line_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    RecordLog(tmp_path / "log.jsonl").append({"id": "a"})
    assert (tmp_path / "log.jsonl").read_text() == '{"id": "a"}\n'


def test_nan_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_writing_json_leaves_the_old_file_when_the_new_one_fails(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"id": "a"}, {"id": "b"}]', [{"id": "a"}, {"id": "b"}]),
        (b'{"id": "a"}\n{"id": "b"}\n', [{"id": "a"}, {"id": "b"}]),
        (b'\xef\xbb\xbf{"id": "a"}\r\n\r\n{"id": "b"}\r\n', [{"id": "a"}, {"id": "b"}]),
        (b'\xef\xbb\xbf[{"id": "a"}]', [{"id": "a"}]),
    ],
)
def test_lists_lines_marks_and_line_ends_are_all_read(tmp_path: Path, content: bytes, expected: list[object]) -> None:
    (tmp_path / "data").write_bytes(content)
    assert [record for _, record, _ in read_entries(tmp_path / "data")] == expected


def test_a_bad_line_is_named_and_the_next_one_read(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"id": "a"}\n{"id": \n\xff\xfe\n7\n{"id": "b"}\n')
    records = list(read_entries(tmp_path / "data.jsonl"))
    assert [number for number, _, _ in records] == [1, 2, 3, 4, 5]
    assert [record for _, record, _ in records] == [{"id": "a"}, None, None, None, {"id": "b"}]
    assert "not valid JSON" in records[1][2]
    assert "UTF-8" in records[2][2]
    assert "not a JSON object" in records[3][2]


def test_json_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{\n  "items": []\n}')
    with pytest.raises(AmpError, match="neither a JSON list nor JSON lines"):
        list(read_entries(tmp_path / "data.json"))


def test_an_empty_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(" \n")
    with pytest.raises(AmpError, match="is empty"):
        list(read_entries(tmp_path / "empty.json"))
    with pytest.raises(AmpError, match="Cannot read"):
        list(read_entries(tmp_path / "absent.json"))


def test_the_same_rejection_counts_once_across_runs(tmp_path: Path) -> None:
    LeftOutLog.open(tmp_path / "rejected.jsonl").note("a", "no image")
    again = LeftOutLog.open(tmp_path / "rejected.jsonl")
    again.note("a", "no image")
    again.note("b", "no answer")
    assert again.count == 2
    assert again.reasons() == {"a": "no image", "b": "no answer"}
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 2


def test_the_hash_of_a_folder_depends_on_names_and_contents(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a").write_text("x")
    (tmp_path / "two" / "a").write_text("x")
    (tmp_path / "three" / "b").write_text("x")
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two") != content_hash(tmp_path / "three")


def test_a_full_disk_is_a_sentence_and_keeps_what_was_written(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the write fails in the same place."""
    path = tmp_path / "log.jsonl"
    log = RecordLog(path)
    log.append({"id": "a"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(AmpError, match="Cannot write"):
            log.append({"id": "b", "text": "x" * 100_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert RecordLog(path).read() == [{"id": "a"}]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AmpError, match="Cannot write"):
        write_json(tmp_path / "x.json", {})


def test_a_folder_in_the_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AmpError, match="Cannot write"):
        write_json(tmp_path / "file" / "x.json", {})


def test_json_of_ours_is_readable_and_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "Zoë"})
    assert "Zoë" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text()) == {"name": "Zoë"}
