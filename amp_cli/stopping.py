"""Ends a command that is told to stop (Ctrl-C, SIGTERM, SIGHUP): one line says what is kept, nothing runs on.

    a signal ──> the main thread: Stopped; bars are closed, workers ended, runs marked ──> exit 128 + signal
            └──> a thread that watches: after GRACE, or when told again, it does the same and ends the process

Whatever a kill -9 leaves, the next start mends; so the second way loses nothing that the first would have kept.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

if sys.platform == "win32":
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 0.7
"""Seconds that a command has to end by itself; a library may be in long work, or swallow the exception."""


class Stopped(KeyboardInterrupt):
    """Raised by a signal. After a plain KeyboardInterrupt within an `exec`, caught or not, Python ends by SIGINT."""


class OpenRun(Protocol):
    """A run folder whose `run.json` says "running"."""

    out: Path

    def finish(self, state: str = ...) -> None: ...


_open_runs: list[OpenRun] = []
_last_words: list[str] = []
_told: list[int] = []
_stops: list[Callable[[], object]] = []
_said, _left = threading.Lock(), threading.Lock()
"""Each is acquired once, by the thread that says or does it."""


def opened(run: OpenRun) -> None:
    """Remember a run that must not be left as "running"; the first is the one that the user named."""
    _open_runs.append(run)


def closed(run: OpenRun) -> None:
    """Forget a run that has ended by itself."""
    if run in _open_runs:
        _open_runs.remove(run)


def say_at_the_end(text: str) -> None:
    """Say this when told to stop: for what people end so because nothing else ends it, such as a page."""
    _last_words.append(text)


def leave_it_to_parent() -> None:
    """Say nothing when told to stop: the command that started this process says it."""
    _said.acquire(blocking=False)


def is_told() -> bool:
    """Whether this process was told to stop."""
    return bool(_told)


@contextlib.contextmanager
def heard_by(stop: Callable[[], object]) -> Iterator[None]:
    """Call this at a signal, in place of raising, for a block that must not end between any two of its lines.

    Raises:
        Stopped: at the end of the block, where it was told to stop.
    """
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)
        if _told:
            raise Stopped


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Run a whole command, ready to be told to stop from the first moment on.

    Raises:
        SystemExit: it was told to stop, and did; the status is 128 and the signal's number.
    """
    listen_no_more = _listen()
    try:
        yield
    except BaseException:
        if not _told:
            listen_no_more()
            raise
        for number in SIGNALS:  # Python takes our handler away while it ends; told again, it must not end otherwise
            signal.signal(number, signal.SIG_IGN)
        _leave()
        kill_all(family(os.getpid()))
        sys.exit(128 + _told[0])
    if not _told:
        listen_no_more()


def _listen() -> Callable[[], None]:
    """Take the signals, but for those that whoever started us had ignored, as `nohup` does.

    Returns what gives them back. Within a block that listens already nothing is taken, and nothing given back.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGTERM] is _interrupt:
        return lambda: None
    reader, writer = socket.socketpair()  # Windows waits for sockets alone
    writer.setblocking(False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = _pass_over
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_listen_no_more)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()

    def listen_no_more() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = sys.__unraisablehook__
        writer.close()  # ends the thread that watches

    return listen_no_more


def _listen_no_more() -> None:
    """A forked child ends at once, as children do; its signals are no business of ours."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise once, or have the work in hand stopped; what is told again must not disturb the tidying up."""
    if number not in _told:
        _told.append(number)
        if len(_told) == 1:
            if not _stops:
                raise Stopped
            for stop in tuple(_stops):
                stop()


def _pass_over(fault: "sys.UnraisableHookArgs") -> None:
    """Say nothing where `Stopped` met a `__del__`, which swallows it: the watching thread sees to the end."""
    if not issubclass(fault.exc_type, Stopped):
        sys.__unraisablehook__(fault)


def _watch(reader: socket.socket) -> None:
    """Wait for the first signal, then for a second one or for the end of patience, and end the process."""
    while (told := reader.recv(1)) and told[0] not in SIGNALS:
        continue
    if not told:
        reader.close()
        return
    first = told[0]
    if not sys.stderr.isatty():  # on a terminal a bar that is still there would wipe it out
        _say(first)
    reader.settimeout(GRACE)
    with contextlib.suppress(TimeoutError):
        reader.recv(1)
    _told.append(first)
    _leave()
    kill_all(family(os.getpid()))
    os._exit(128 + _told[0])


def _leave() -> None:
    """Say the one line if that is not done, and mark the runs."""
    _say(_told[0])
    if not _left.acquire(blocking=False):
        return
    for run in _open_runs:
        with contextlib.suppress(Exception):  # a full disk, say; nobody is left to be told
            run.finish("interrupted")


def _say(number: int) -> None:
    if not _said.acquire(blocking=False):
        return
    shows_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a bar that nobody closed has hidden it
    with contextlib.suppress(OSError):  # a terminal that is gone
        os.write(2, f"{shows_cursor}{_farewell(number)}\n".encode())


def _farewell(number: int) -> str:
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    if _last_words:
        return _last_words[-1]
    if not _open_runs:
        return f"Interrupted{by}: no result is half-written. The same command begins again; a download goes on."
    out = _open_runs[0].out
    if out.suffix == ".part":
        return f"Interrupted{by}: nothing was put into '{out.with_suffix('')}' yet. The same command begins again."
    without = " without --overwrite" if "--overwrite" in sys.argv else ""
    return f"Interrupted{by}: what is finished is kept in '{out}'. The same command{without} goes on from there."


def family(pid: int) -> list[int]:
    """Return the numbers of the processes that a process has started, and of what those have started."""
    import psutil

    children: dict[int, list[int]] = {}
    for one in psutil.process_iter(["ppid"]):
        children.setdefault(one.info["ppid"], []).append(one.pid)
    found = [pid]
    for parent in found:
        found += children.pop(parent, [])
    return found[1:]


def kill_all(pids: Sequence[int]) -> None:
    """Kill what `family` found a moment ago; what has ended meanwhile is passed over."""
    import psutil

    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
