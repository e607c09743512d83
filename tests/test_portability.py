"""Where amp runs: Windows' and macOS' ways, tried on this system as far as they can be."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from amp_cli import launching
from amp_cli.disk import lock, stored
from amp_cli.disk.jsonl import RecordLog, content_hash, write_text
from amp_cli.disk.lock import LOCK, alone_in, rename_held
from amp_cli.disk.run import Run, make_whole
from amp_cli.launching import killed_by
from amp_cli.models import template_trial
from tests.test_architecture import FILES, PACKAGE, ROOT, imports_of, tree_of

UNIX_ALONE = {"fcntl", "resource", "termios", "tty", "pty", "grp", "pwd", "crypt", "readline", "syslog", "posix"}
"""Modules that Windows lacks (Python's documentation: "Availability: Unix")."""


# --- what the code says ----------------------------------------------------------------------------------------------


def test_modules_of_unix_are_used_where_a_process_is_limited_and_by_no_import_of_a_file() -> None:
    """What is used of them and of `os` and `signal` is looked at by `mypy --platform win32`, in `make check`."""
    users = {path for path in FILES if UNIX_ALONE & set(imports_of(path))}
    assert {path.relative_to(PACKAGE).as_posix() for path in users} == {
        "models/template_trial.py",
        "training/worker.py",
    }
    for path in users:
        at_start = (node.names for node in tree_of(path).body if isinstance(node, ast.Import))
        assert not UNIX_ALONE & {alias.name for names in at_start for alias in names}


OPENERS = {"open", "fdopen", "read_text", "write_text", "TemporaryFile", "NamedTemporaryFile", "run", "Popen"}
NOT_OF_THE_DISK = {"LeftOutLog.open", "webbrowser.open", "Image.open", "source.open", "self._client.open"}


def text_calls(path: Path) -> list[tuple[ast.Call, str, str]]:
    """Return the calls of a file that read or write text, what each calls, and its mode."""
    found = []
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        if last not in OPENERS or name in NOT_OF_THE_DISK or (last == "run" and not name.startswith("subprocess.")):
            continue
        given = {one.arg: one.value for one in node.keywords}
        if last in ("run", "Popen") and not {"text", "encoding", "universal_newlines"} & given.keys():
            continue  # bytes
        inside = (one for argument in (*node.args, given.get("mode")) if argument for one in ast.walk(argument))
        texts = [one.value for one in inside if isinstance(one, ast.Constant)]
        mode = next((one for one in texts if isinstance(one, str) and set(one) <= set("rwaxbt+")), "r")
        mode = "w" if last == "write_text" else "w+b" if last.endswith("TemporaryFile") and mode == "r" else mode
        if "b" not in mode and name not in ("read_text", "write_text"):  # the last two are ours
            found.append((node, name, mode))
    return found


def test_text_has_its_encoding_and_its_line_ends_said() -> None:
    seen = 0
    for path in FILES:
        for node, name, mode in text_calls(path):
            seen += 1
            given = {one.arg for one in node.keywords}
            assert "encoding" in given, f"{path}, line {node.lineno}: {name} reads or writes in the system's encoding"
            if set(mode) & set("wax+"):
                assert "newline" in given, f"{path}, line {node.lineno}: {name} writes other line ends under Windows"
    assert seen > 10


def test_a_line_ends_alike_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "linesep", "\r\n")  # what a stream of text asks for when nothing else is said
    write_text(tmp_path / "a.txt", "one\ntwo\n")
    log = RecordLog(tmp_path / "a.jsonl")
    log.append({"id": "é"})
    log.append({"id": "b"})
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "a.jsonl").read_bytes() == '{"id": "é"}\n{"id": "b"}\n'.encode()


def test_a_digest_of_a_folder_does_not_depend_on_the_systems_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("B.txt", "a.txt", "a/c.txt"):
        if name != "a/c.txt":
            (tmp_path / name).write_text(name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "c.txt").write_text("c")
    here = content_hash(tmp_path)
    monkeypatch.setattr(Path, "__lt__", lambda one, other: str(one).lower() < str(other).lower())  # as Windows' paths
    assert sorted(tmp_path.glob("?.txt"))[0].name == "a.txt"
    assert content_hash(tmp_path) == here


# --- an own process, in which amp finds no module of Unix ------------------------------------------------------------

ELSEWHERE = f"""
import builtins, sys
find = builtins.__import__
def without_unix(name, globals=None, locals=None, fromlist=(), level=0):
    if name.split(".")[0] in {sorted(UNIX_ALONE)!r} and str((globals or {{}}).get("__name__")).startswith("amp_cli"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return find(name, globals, locals, fromlist, level)
builtins.__import__ = without_unix
from amp_cli.__main__ import main
"""


def typed_elsewhere(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = f"{ELSEWHERE}\nsys.argv = ['amp', *sys.argv[1:]]\nmain()"
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_commands_work_where_there_is_no_module_of_unix(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"prompt": "Is it?", "chosen": "Yes, it is.", "rejected": "No."}) + "\n", encoding="utf-8"
    )
    imported = typed_elsewhere("prefs", "import", "pairs.jsonl", "--out", "prefs", "--json", cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["items"] == 1
    written = {file.name for file in (tmp_path / "prefs").iterdir()}
    assert written == {"preferences.jsonl", "rejected.jsonl", "run.json"}
    refused = typed_elsewhere(
        "train", "--size", "tiny", "--prefs", "nothing.jsonl", "--out", "run", "--json", cwd=tmp_path
    )
    assert (refused.returncode, {*json.loads(refused.stdout)}) == (1, {"error", "hint"})


# --- files that are open can be neither removed nor renamed ----------------------------------------------------------


@pytest.fixture
def like_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to remove, rename or replace what this process has open, and folders around it, as Windows does."""
    monkeypatch.setattr(lock, "FREED_TO_CHANGE", True)
    for name, checked in (("unlink", 1), ("remove", 1), ("rename", 2), ("replace", 2), ("rmdir", 1)):

        def refuse_open(*paths: str, does=getattr(os, name), checked: int = checked, **more: object) -> None:  # type: ignore[no-untyped-def]
            places = [Path.cwd() / one for one in paths[:checked] if isinstance(one, str | os.PathLike)]
            for held in psutil.Process().open_files():
                if any(Path(held.path) == place or place in Path(held.path).parents for place in places):
                    raise PermissionError(13, "The process cannot access the file: it is in use", held.path)
            does(*paths, **more)

        monkeypatch.setattr(os, name, refuse_open)


@pytest.mark.usefixtures("like_windows")
def test_the_fixture_refuses_what_windows_refuses(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w"), pytest.raises(PermissionError):
        (tmp_path / "a").unlink()
    with (tmp_path / "a").open("w"), pytest.raises(PermissionError):
        tmp_path.rename(tmp_path.with_name("b"))


@pytest.mark.usefixtures("like_windows")
def test_a_run_is_held_and_let_go_though_open_files_stay(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", command="train", settings={})
    run.finish()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.usefixtures("like_windows")
def test_a_result_gets_its_name_though_open_files_stay(tmp_path: Path) -> None:
    for overwrite in (False, True):
        make_whole(
            tmp_path / "hf",
            command="convert",
            settings={},
            identity={},
            write=lambda part: {},
            overwrite=overwrite,
            inputs=[],
        )
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]
    assert [file.name for file in (tmp_path / "hf").iterdir()] == ["run.json"]


@pytest.mark.usefixtures("like_windows")
def test_a_renamed_folder_is_held_still_though_open_files_stay(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a.part", "convert", for_out=tmp_path / "a"):
        rename_held(tmp_path / "a.part", tmp_path / "a")
        claim = "from pathlib import Path; from amp_cli.disk.lock import claim_folder"
        script = f"{claim}; claim_folder(Path({str(tmp_path / 'a')!r}), 'x')"
        other = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert f"is in use by process {os.getpid()}" in other.stderr
    assert not (tmp_path / "a" / LOCK).exists()


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_worker_ends_with_its_parent_where_no_pipe_tells_of_it() -> None:
    child = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import psutil  # the real system's
from amp_cli import launching
sys.platform = "darwin"
launching.LOOK_EVERY = 0.05
launching.end_with_parent()
print("ready", flush=True)
import time
time.sleep(60)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (worker,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    worker.wait(timeout=20)  # raises where it lives on
    process.stdout.close()


def test_who_has_no_parent_left_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "parent", lambda _: None)  # its number has gone to a younger process
    begun = time.monotonic()
    launching._until_parent_ends()
    assert time.monotonic() - begun < launching.LOOK_EVERY


def test_a_status_that_no_signal_gives_is_not_called_one() -> None:
    assert killed_by(128 + 9) is not None
    assert killed_by(0xC0000005) is None  # how Windows calls an access to memory that is not there
    assert killed_by(255) is None


def test_a_template_that_takes_too_long_ends_itself_where_the_system_counts_no_time() -> None:
    script = """
from amp_cli.models import template_trial
template_trial.SECONDS = 0.1
import threading
threading.Thread(target=template_trial._end_after_seconds, daemon=True).start()
while True:
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == template_trial.OUT_OF_TIME
    assert {template_trial.OUT_OF_TIME, -signal.SIGXCPU} == set(template_trial._SAY_OUT_OF_TIME)


def test_records_on_the_disk_are_read_in_any_order(tmp_path: Path) -> None:
    kept = stored.Stored.set_aside(lambda record: record["n"])
    for number in range(5):
        kept.add({"n": number})
    kept.close_for_writing()
    assert [kept[place] for place in (3, 0, 4, 1, 2)] == [3, 0, 4, 1, 2]
