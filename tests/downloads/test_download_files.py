"""Plain files and archives on the web: resumed, verified, and of an archive only what is needed."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from amp_cli.downloads import http_files
from amp_cli.downloads.checks import record_check, verify
from amp_cli.downloads.http_files import RemoteFile, fetch_file
from amp_cli.downloads.places import mirrored
from amp_cli.downloads.remote_zip import Archive, fetch_members
from amp_cli.downloads.reports import FileReport
from amp_cli.errors import AmpError
from tests.support.hub_server import Fault, HubServer, go_offline, go_online

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
PATH = "/owner.example/data/file.jsonl"
REMOTE = RemoteFile(path="data/file.jsonl", url="https://owner.example/data/file.jsonl", checksum=SHA256)
ZIP_PATH = "/owner.example/all.zip"


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    go_online(monkeypatch, tmp_path)
    with HubServer() as server:
        server.files[PATH] = CONTENT
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(http_files.time, "sleep", slept.append)
    return slept


@contextmanager
def no_bar(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    yield lambda more: None


def get(web: HubServer, folder: Path, file: RemoteFile = REMOTE) -> FileReport:
    return fetch_file(file, folder, web.url, no_bar)


def test_a_file_is_resumed_with_a_range_after_a_dropped_connection(web: HubServer, tmp_path: Path) -> None:
    web.faults[PATH] = [Fault(drop_after=200_000), Fault(drop_after=100_000)]
    bar: list[int] = []

    @contextmanager
    def counted(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
        bar.append(done)
        yield bar.append

    report = fetch_file(REMOTE, tmp_path, web.url, counted)
    assert (tmp_path / "data" / "file.jsonl").read_bytes() == CONTENT
    assert [one.range for one in web.asked] == [None, "bytes=200000-", "bytes=300000-"]
    assert web.sent() == sum(bar) == len(CONTENT)
    assert (report.state, report.verified, report.sha256) == ("fetched", "sha256", SHA256[7:])
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["file.jsonl"]


def test_a_run_that_was_stopped_goes_on_where_it_stopped(web: HubServer, tmp_path: Path) -> None:
    web.faults[PATH] = [Fault(drop_after=200_000)]

    @contextmanager
    def interrupting(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
        def stop(more: int) -> None:
            raise KeyboardInterrupt

        yield stop

    with pytest.raises(KeyboardInterrupt):
        fetch_file(REMOTE, tmp_path, web.url, interrupting)
    part = tmp_path / "data" / "file.jsonl.part"
    kept = part.stat().st_size
    assert 0 < kept <= 200_000
    web.faults[PATH].clear()
    get(web, tmp_path)
    assert web.asked[-1].range == f"bytes={kept}-"
    assert (tmp_path / "data" / "file.jsonl").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(web: HubServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file.jsonl.part").write_bytes(b"old" * 1000)
    (tmp_path / "data" / "file.jsonl.part.etag").write_text('"another version"')
    get(web, tmp_path)
    assert web.asked[-1].sent == len(CONTENT)
    assert (tmp_path / "data" / "file.jsonl").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_file_anew(web: HubServer, tmp_path: Path) -> None:
    web.faults[PATH] = [Fault(drop_after=200_000), Fault(ignores_range=True)]
    get(web, tmp_path)
    assert (tmp_path / "data" / "file.jsonl").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_when_it_said(web: HubServer, tmp_path: Path, pauses: list[float]) -> None:
    web.faults[PATH] = [Fault(status=503), Fault(status=429, headers={"Retry-After": "7"})]
    get(web, tmp_path)
    assert pauses == [1.0, 7.0]


def test_a_server_that_stays_busy_is_given_up_and_the_part_kept(
    web: HubServer, tmp_path: Path, pauses: list[float]
) -> None:
    web.faults[PATH] = [Fault(drop_after=1000), *[Fault(status=500)] * 9]
    with pytest.raises(AmpError, match=r"Cannot download .*: status 500"):
        get(web, tmp_path)
    assert len(web.asked) == 5
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert (tmp_path / "data" / "file.jsonl.part").stat().st_size == 1000


def test_wrong_content_is_refused_and_nothing_kept(web: HubServer, tmp_path: Path) -> None:
    web.faults[PATH] = [Fault(content=CONTENT[:-1] + b"!")]
    with pytest.raises(AmpError, match="sha256"):
        get(web, tmp_path)
    assert not [file for file in (tmp_path / "data").iterdir() if file.suffix != ".etag"]
    get(web, tmp_path, replace(REMOTE, bytes=len(CONTENT)))
    with pytest.raises(AmpError, match="512,000 bytes; 5 were expected"):
        get(web, tmp_path / "other", replace(REMOTE, bytes=5, checksum=None))
    with pytest.raises(AmpError, match="There is no file"):
        get(web, tmp_path, replace(REMOTE, path="b", url="https://owner.example/none"))


def test_a_file_that_is_there_is_verified_and_not_fetched_again(
    web: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(web, tmp_path)
    go_offline(monkeypatch)
    assert get(web, tmp_path).state == "already here"
    assert len(web.asked) == 1
    (tmp_path / "data" / "file.jsonl").write_bytes(b"broken")
    with pytest.raises(AmpError, match="sha256"):
        get(web, tmp_path)
    with pytest.raises(AmpError, match="not on this disk"):
        get(web, tmp_path / "elsewhere")


def test_without_a_mirror_only_https_is_asked(web: HubServer, tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="is not an https address"):
        fetch_file(replace(REMOTE, url=web.url + PATH), tmp_path, None, no_bar)
    assert mirrored("https://owner.example/a/b.json", "http://mirror/x/") == "http://mirror/x/owner.example/a/b.json"
    assert mirrored("https://owner.example/a", None) == "https://owner.example/a"


def test_what_has_no_published_checksum_is_verified_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    check = record_check((2, 3), ("image", "text"), "questions")
    file.write_text('{"image": "a", "text": "b"}\n' * 2)
    found = verify(file, None, None, check)
    assert found.how == "no published checksum; 2 questions"
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text('{"image": "a", "text": "b"}\n' * 4)
    with pytest.raises(AmpError, match="4 questions; 2 or 3 were expected"):
        check(file)
    file.write_text('{"image": "a"}\n' * 2)
    with pytest.raises(AmpError, match="lacks text"):
        check(file)
    file.write_text("<html>Sign in</html>")
    with pytest.raises(AmpError):
        check(file)
    assert verify(file, 20, "md5:" + hashlib.md5(file.read_bytes()).hexdigest()).how == "md5"


def archive(web: HubServer, images: int = 40, size: int = 50_000) -> tuple[Archive, dict[str, str]]:
    """Put a zip of incompressible images on the server."""
    import random

    numbers = random.Random(0)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for number in range(images):
            out.writestr(f"val2014/COCO_{number:03}.jpg", numbers.randbytes(size), zipfile.ZIP_DEFLATED)
    web.files[ZIP_PATH] = packed.getvalue()
    members = {f"val2014/{number:03}.jpg": f"val2014/COCO_{number:03}.jpg" for number in (3, 17, 31)}
    return Archive(url="https://owner.example/all.zip", file="all.zip", bytes=len(packed.getvalue())), members


def test_only_the_members_that_are_needed_travel(web: HubServer, tmp_path: Path) -> None:
    remote, members = archive(web)
    report = fetch_members(remote, members, tmp_path, web.url, no_bar)
    with zipfile.ZipFile(io.BytesIO(web.files[ZIP_PATH])) as local:
        for place, member in members.items():
            assert (tmp_path / place).read_bytes() == local.read(member)
    assert len(web.files[ZIP_PATH]) > 2_000_000
    assert web.sent(ZIP_PATH) < 65_536 + 3 * 52_000
    assert len(web.asked) == 4
    assert (report.count, report.bytes, report.state, report.verified) == (3, 150_000, "fetched", "size and CRC-32")
    (tmp_path / "val2014" / "017.jpg").unlink()
    before = web.sent()
    fetch_members(remote, members, tmp_path, web.url, no_bar)
    assert web.sent() - before < 65_536 + 52_000
    assert fetch_members(remote, members, tmp_path, None, no_bar).state == "already here"


def test_a_damaged_member_is_refused_and_not_kept(web: HubServer, tmp_path: Path) -> None:
    remote, members = archive(web)
    with zipfile.ZipFile(io.BytesIO(web.files[ZIP_PATH])) as local:
        at = local.getinfo("val2014/COCO_017.jpg").header_offset + 20_000
    content = bytearray(web.files[ZIP_PATH])
    content[at] ^= 0xFF
    web.files[ZIP_PATH] = bytes(content)
    with pytest.raises(AmpError, match=r"all\.zip is damaged"):
        fetch_members(remote, members, tmp_path, web.url, no_bar)
    assert sorted(file.name for file in (tmp_path / "val2014").iterdir()) == ["003.jpg"]


def test_a_range_that_breaks_off_is_asked_again(web: HubServer, tmp_path: Path) -> None:
    remote, members = archive(web)
    web.faults[ZIP_PATH] = [Fault(), Fault(drop_after=100), Fault(status=503)]
    fetch_members(remote, members, tmp_path, web.url, no_bar)
    assert len(list((tmp_path / "val2014").iterdir())) == 3


def test_a_server_without_ranges_means_carrying_the_archive(web: HubServer, tmp_path: Path) -> None:
    remote, members = archive(web)
    web.faults[ZIP_PATH] = [Fault(ignores_range=True)]
    with pytest.raises(AmpError, match="does not serve parts") as refused:
        fetch_members(remote, members, tmp_path, web.url, no_bar)
    assert f"save it as '{tmp_path / 'all.zip'}'" in (refused.value.hint or "")


def test_an_archive_of_another_size_or_without_the_member_is_refused(web: HubServer, tmp_path: Path) -> None:
    remote, members = archive(web)
    with pytest.raises(AmpError, match="; 7 were expected"):
        fetch_members(replace(remote, bytes=7), members, tmp_path, web.url, no_bar)
    with pytest.raises(AmpError, match=r"does not contain 'val2014/none\.jpg'"):
        fetch_members(remote, {"val2014/none.jpg": "val2014/none.jpg"}, tmp_path, web.url, no_bar)


def test_a_carried_archive_is_read_offline(web: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, members = archive(web)
    go_offline(monkeypatch)
    with pytest.raises(AmpError, match="offline"):
        fetch_members(remote, members, tmp_path, None, no_bar)
    (tmp_path / "all.zip").write_bytes(web.files[ZIP_PATH][:-1])
    with pytest.raises(AmpError, match="were expected"):
        fetch_members(remote, members, tmp_path, None, no_bar)
    (tmp_path / "all.zip").write_bytes(web.files[ZIP_PATH])
    fetch_members(remote, members, tmp_path, None, no_bar)
    assert len(list((tmp_path / "val2014").iterdir())) == 3
    assert web.asked == []
