"""One process at a time in a folder: the second hears who is there, and a killed one leaves no lock."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from amp_cli.disk import lock
from amp_cli.disk.lock import LOCK, after_worker, alone_at, alone_in, rename_held
from amp_cli.disk.run import Run, make_whole
from amp_cli.errors import AmpError, OccupiedError

HOLD = """
import sys
from pathlib import Path
from amp_cli.disk.run import Run
Run.start(Path(sys.argv[1]), command="eval mmhal", settings={})
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(out: Path) -> Iterator["subprocess.Popen[str]"]:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with other:
        yield other
        other.kill()


def test_the_second_process_is_told_who_holds_the_folder_and_writes_nothing(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path / "run") as other:
        facts = (tmp_path / "run" / "run.json").read_text()
        with pytest.raises(OccupiedError, match=rf"process {other.pid} on .+, `amp eval mmhal`, since 20") as refused:
            Run.start(tmp_path / "run", command="eval mmhal", settings={}, overwrite=True)
        with pytest.raises(OccupiedError):
            Run.go_on(tmp_path / "run")
        assert (tmp_path / "run" / "run.json").read_text() == facts
    assert refused.value.status == 2


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path / "run") as other:
        other.kill()
        other.wait()
        assert (tmp_path / "run" / LOCK).exists()
        run = Run.start(tmp_path / "run", command="eval mmhal", settings={})
    assert run.resumed
    run.finish()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"version = 1\n", b"\xff\x00", b"[" * 100_000], ids=["text", "bytes", "brackets"])
def test_a_strangers_lock_file_is_neither_written_nor_removed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "uv.lock").write_bytes(content)
    (tmp_path / LOCK).write_bytes(content)
    with pytest.raises(AmpError, match=r"uv\.lock' is in the way"), alone_at(tmp_path / "uv", "report"):
        pass
    with pytest.raises(AmpError, match=r"run\.lock' is in the way"):
        Run.start(tmp_path, command="train", settings={})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"uv.lock": content, LOCK: content}


def test_a_lock_held_by_a_stranger_is_told_too(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"[" * 100_000)
    with FileLock(tmp_path / LOCK), pytest.raises(OccupiedError, match="by another process"):
        Run.start(tmp_path, command="train", settings={})


def test_a_command_may_open_in_its_own_process_what_it_holds(tmp_path: Path) -> None:
    first = Run.start(tmp_path / "run", command="train", settings={})
    second = Run.start(tmp_path / "run", command="train", settings={})
    first.finish()
    first.finish()
    assert (tmp_path / "run" / LOCK).exists()
    second.finish()
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_refused_start_leaves_the_place_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(AmpError, match="is not empty"):
        Run.start(tmp_path, command="train", settings={})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_is_made_whole_is_held_beside_its_place_and_the_lock_is_gone_in_the_end(tmp_path: Path) -> None:
    seen: list[bool] = []

    def write(part: Path) -> dict[str, object]:
        seen.append((part / LOCK).exists())
        return {}

    made = make_whole(
        tmp_path / "hf", command="convert", settings={}, identity={}, write=write, overwrite=False, inputs=[]
    )
    assert seen == [True]
    assert [file.name for file in made.out.iterdir()] == ["run.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


def test_a_renamed_folder_is_held_still(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a.part", "convert", for_out=tmp_path / "a"):
        rename_held(tmp_path / "a.part", tmp_path / "a")
        assert (tmp_path / "a" / LOCK).exists()
    assert not (tmp_path / "a" / LOCK).exists()


def test_the_place_of_one_file_is_held_by_a_lock_beside_it(tmp_path: Path) -> None:
    with alone_at(tmp_path / "t.jsonl", "prefs export"):
        assert [file.name for file in tmp_path.iterdir()] == ["t.jsonl.lock"]
    assert [*tmp_path.iterdir()] == []


def test_who_begins_while_a_worker_is_at_work_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WORKERS_SECONDS", 1)
    file = tmp_path / "worker.lock"
    at_work = pytest.raises(OccupiedError, match="Worker processes are at work")
    with after_worker(file), at_work, after_worker(file):
        pass
    with after_worker(file):
        pass


def test_workers_begin_on_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock, "lock_descriptor", refuse)
    begun = []
    with after_worker(tmp_path / "worker.lock"):
        begun.append("worker")
    assert begun == ["worker"]


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "lock_descriptor", refuse)
    Run.start(tmp_path / "run", command="train", settings={}).finish()
    assert "file system without locks" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.json"]
