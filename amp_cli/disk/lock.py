"""One command at a time in one place: a lock that ends with its process, and says who holds it.

Under Windows nobody else may read the first byte of a file that is locked (it is a brace), nor remove or rename it.
"""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from amp_cli import ui
from amp_cli.disk.jsonl import disk_errors_explained
from amp_cli.disk.parsing import UnreadableError, parse_json
from amp_cli.errors import AmpError, OccupiedError

LOCK = "run.lock"
BEGINNING = '{"pid": '
"""How every lock of ours begins, unless its holder has not written yet."""
FREED_TO_CHANGE = sys.platform == "win32"
"""Whether a file must be closed before it is removed or its folder renamed."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks answer, such as Lustre mounted without `flock`."""
PAUSE = 0.5
"""Seconds between two looks at a place that another process holds."""
WORKERS_SECONDS = 60
"""Workers whose parent was killed end at once; this is how long we wait for them."""


@dataclass(kw_only=True)
class _Held:
    """A lock of this process, and how many parts of it hold it: a command may run others in its own process."""

    file: Path
    stream: IO[str]
    holders: int
    made_folder: bool


_HELD: dict[Path, _Held] = {}
"""The locks of this process. The system lets go of them when it ends, however it ends."""


def claim_folder(folder: Path, command: str) -> None:
    """Hold a folder until `release_folder`, or until this process ends; it is made where it is missing.

    Raises:
        OccupiedError: another process holds it; the error says which.
    """
    _claim(folder / LOCK, folder, command)


def release_folder(folder: Path) -> None:
    """Let go of a folder that this process holds; one that is still empty is removed."""
    _release(folder / LOCK)


@contextmanager
def alone_in(folder: Path, command: str, *, for_out: Path) -> Iterator[None]:
    """Hold the folder where `for_out` is made for a block; it may be renamed meanwhile by `rename_held`."""
    _claim(folder / LOCK, for_out, command)
    held = _HELD[_key(folder / LOCK)]
    try:
        yield
    finally:
        _release(held.file)


@contextmanager
def alone_at(file: Path, command: str) -> Iterator[None]:
    """Hold the place of one file for a block, by a lock beside it."""
    lock = file.with_name(f"{file.name}.lock")
    _claim(lock, file, command)
    try:
        yield
    finally:
        _release(lock)


@contextmanager
def in_turn_at(place: Path, command: str) -> Iterator[None]:
    """Hold a place for a block as `alone_at` does, but wait for whoever holds it, and say for whom."""
    waits_for = ""
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(alone_at(place, command))
            except OccupiedError as error:
                if error.message != waits_for:
                    waits_for = error.message
                    ui.note(f"Waiting: {waits_for}")
            else:
                yield
                return
        time.sleep(PAUSE)


@contextmanager
def after_worker(lock: Path) -> Iterator[None]:
    """Hold the lock file of a worker process for a block, once that of a killed command has ended.

    Raises:
        OccupiedError: it has not ended after `WORKERS_SECONDS`.
    """
    with lock.open("ab") as stream:
        for _ in range(WORKERS_SECONDS * 10):
            try:
                if lock_descriptor(stream.fileno(), blocking=False):
                    break
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
            time.sleep(0.1)
        else:
            raise OccupiedError(f"Worker processes are at work in '{lock.parent}'", hint="Wait for them, or end them")
        yield


def wait_for_worker(lock: Path) -> None:
    """Wait until nobody holds the lock file of a worker process.

    Raises:
        OccupiedError: it has not ended after `WORKERS_SECONDS`.
    """
    with after_worker(lock):
        pass


def rename_held(folder: Path, name: Path) -> None:
    """Rename a folder that this process may hold; it holds it still."""
    held = _HELD.pop(_key(folder / LOCK), None)
    if held is not None and FREED_TO_CHANGE:
        held.stream.close()
    folder.rename(name)
    if held is not None:
        held.file = name / LOCK
        if FREED_TO_CHANGE:
            held.stream = _locked(held.file, name)
        _HELD[_key(held.file)] = held


def _claim(lock: Path, place: Path, command: str) -> None:
    held = _HELD.get(_key(lock))
    if held is not None and held.file.exists():
        held.holders += 1
        return
    made_folder = lock.name == LOCK and not lock.parent.exists()
    disk_errors_explained(lambda: lock.parent.mkdir(parents=True, exist_ok=True), place)
    stream = disk_errors_explained(lambda: _locked(lock, place), place)
    _refuse_foreign_lock(lock, stream)
    disk_errors_explained(lambda: _say_who(stream, command), place)
    _HELD[_key(lock)] = _Held(file=lock, stream=stream, holders=1, made_folder=made_folder)


def _locked(lock: Path, place: Path) -> IO[str]:
    """Open and lock the file; one that its last holder has removed meanwhile is made again."""
    while True:
        stream = lock.open("a+", encoding="utf-8", errors="replace", newline="\n")
        try:
            is_ours = lock_descriptor(stream.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                stream.close()
                raise
            ui.warn(f"'{place}' lies on a file system without locks; see that no other command writes there")
            return stream
        if not is_ours:
            with stream:
                raise _occupied(place, _what_it_says(stream))
        if _is_still(lock, stream):
            return stream
        stream.close()


def _what_it_says(stream: IO[str]) -> str:
    """Return what the holder wrote into its lock; one that has it for an instant only has not written yet."""
    for _ in range(20):
        stream.seek(1)
        if said := stream.read():
            return BEGINNING[0] + said
        time.sleep(0.01)
    return ""


def _is_still(lock: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _refuse_foreign_lock(lock: Path, stream: IO[str]) -> None:
    """Refuse to write into somebody else's file of that name, as `uv.lock` is beside a page called `uv`."""
    stream.seek(0)
    if stream.read(len(BEGINNING)) not in ("", BEGINNING):
        stream.close()
        raise AmpError(f"'{lock}' is in the way: amp did not write it", hint="Choose another --out, or move it away")


def _say_who(stream: IO[str], command: str) -> None:
    stream.truncate(0)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": now}, stream)
    stream.flush()


def _occupied(place: Path, said: str) -> AmpError:
    hint = "Wait for it, or choose another --out"
    try:
        who = parse_json(said)
        holder = f"process {who['pid']} on {who['host']}, `amp {who['command']}`, since {who['since']}"
    except (UnreadableError, TypeError, KeyError):  # it has just begun
        holder = "another process"
    return OccupiedError(f"'{place}' is in use by {holder}", hint=hint)


def _release(lock: Path) -> None:
    held = _HELD.get(_key(lock))
    if held is None:
        return
    held.holders -= 1
    if held.holders:
        return
    del _HELD[_key(lock)]
    with held.stream:
        if FREED_TO_CHANGE:
            held.stream.close()
            with suppress(PermissionError):  # the next one has it already
                held.file.unlink(missing_ok=True)
        elif _is_still(held.file, held.stream):
            held.file.unlink()
        folder = held.file.parent
        if held.made_folder and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _key(lock: Path) -> Path:
    return lock.parent.resolve() / lock.name
