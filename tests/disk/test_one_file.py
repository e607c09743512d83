"""A result that is one file replaces an earlier one of amp, and nothing else."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from amp_cli.disk.one_file import PAGE_MARK, alone_writing, is_page, is_rejected_list, refuse_foreign_file
from amp_cli.errors import AmpError, OccupiedError


def write(out: Path, *inputs: Path) -> None:
    with alone_writing(out, command="report", is_ours=is_page, inputs=inputs):
        out.write_bytes(b"<!doctype html>\n<head>\n" + PAGE_MARK)


def test_a_page_replaces_an_earlier_page_of_amp(tmp_path: Path) -> None:
    write(tmp_path / "report.html")
    write(tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("content", [b"", b"<html>my thesis</html>", b"x" * 9000 + PAGE_MARK])
def test_anybody_elses_file_stays(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "report.html"
    out.write_bytes(content)
    with pytest.raises(AmpError, match="is not an earlier result of amp"):
        write(out)
    assert out.read_bytes() == content


def test_a_link_or_a_folder_is_not_written_to(tmp_path: Path) -> None:
    write(tmp_path / "kept.html")
    (tmp_path / "link.html").symlink_to(tmp_path / "kept.html")
    (tmp_path / "nowhere.html").symlink_to(tmp_path / "missing" / "x.html")
    (tmp_path / "folder.html").mkdir()
    for name in ("link.html", "nowhere.html", "folder.html"):
        with pytest.raises(AmpError):
            write(tmp_path / name)


def test_what_is_read_is_not_replaced_under_another_name(tmp_path: Path) -> None:
    write(tmp_path / "a.html")
    (tmp_path / "b.html").hardlink_to(tmp_path / "a.html")
    with pytest.raises(AmpError, match="is read"):
        write(tmp_path / "b.html", tmp_path / "a.html")


def test_a_list_of_what_was_left_out_is_known_by_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "page.rejected.jsonl"
    file.write_text(json.dumps({"id": "a", "reason": "no image"}) + "\n")
    refuse_foreign_file(file, is_ours=is_rejected_list)
    file.write_text(json.dumps({"id": "a", "grade": 3}) + "\n")
    with pytest.raises(AmpError, match="is not an earlier result"):
        refuse_foreign_file(file, is_ours=is_rejected_list)


def test_the_place_is_held_while_it_is_written(tmp_path: Path) -> None:
    with FileLock(tmp_path / "r.html.lock"), pytest.raises(OccupiedError, match=r"r\.html' is in use"):
        write(tmp_path / "r.html")
