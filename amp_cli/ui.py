"""The only module that prints: results to stdout, talk to stderr."""

import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from io import StringIO

from rich.console import Console
from rich.markup import escape as _escape

from amp_cli import stopping
from amp_cli.addresses import masked, masked_values

_within_a_loop = False


def escape(text: str) -> str:
    """Return a text as rich prints it word for word, with no secret in its addresses."""
    return _escape(masked(text))


def _talk() -> Console:
    _silence.broken()
    return Console(stderr=True, highlight=False, soft_wrap=True)


class _Silence:
    """Says what is being done whenever nothing was said for a while: a thread that lives as long as there is work.

    Of activities within one another the innermost speaks. One that shows a bar has nothing to say.
    """

    def __init__(self) -> None:
        self._doing: list[_Activity] = []
        self._last = 0.0  # when something was said; monotonic seconds
        self._changed = threading.Condition()
        self._watch: threading.Thread | None = None

    def broken(self) -> None:
        self._last = time.monotonic()

    @contextmanager
    def watched(self, activity: "_Activity") -> Iterator[None]:
        with self._changed:
            self._doing.append(activity)
            if self._watch is None or not self._watch.is_alive():  # a process that was forked has lost it
                self._watch = threading.Thread(target=self._speak, daemon=True, name="silence")
                self._watch.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._doing.remove(activity)
                self._changed.notify()

    def _speak(self) -> None:
        with self._changed:
            while self._doing:
                due = self._doing[-1].due(self._last)
                if due > time.monotonic():
                    self._changed.wait(min(due - time.monotonic(), AGAIN))
                    continue
                self._doing[-1].say()
            self._watch = None


SILENCE, AGAIN = 3.0, 60.0
"""Seconds without a word after which it is said what is being done, and how often that is said again."""
_silence = _Silence()


class _Activity:
    """Something that takes time. `shown` says how it stands, from the seconds it has taken; None where a bar does."""

    def __init__(self, shown: Callable[[float], str] | None) -> None:
        self._shown = shown
        self._began = time.monotonic()
        self._told: float | None = None

    @property
    def is_told(self) -> bool:
        return self._told is not None

    def due(self, last: float) -> float:
        """Return when it must speak up, if nothing was said after `last`."""
        if self._shown is None:
            return float("inf")
        return max(self._began, last) + SILENCE if self._told is None else max(self._told, last) + AGAIN

    def say(self) -> None:
        self._told = time.monotonic()
        if self._shown is not None and not stopping.is_told():  # after the farewell there is nothing to say
            note(self._shown(self._told - self._began))


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Say what a block does where it takes longer than `SILENCE` seconds, and again each minute.

    Of the processes of a machine only the first speaks.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    activity = _Activity(lambda seconds: what if seconds < AGAIN else f"{what}: {seconds / 60:.0f} min so far")
    with _silence.watched(activity):
        yield


@contextmanager
def left_to_another() -> Iterator[None]:
    """Say nothing of a block's duration: another process, which writes where we do, speaks meanwhile."""
    with _silence.watched(_Activity(None)):
        yield
        _silence.broken()


def waiting() -> AbstractContextManager[None]:
    """Return a block that says nothing by itself, however long it takes: it waits for people."""
    return _silence.watched(_Activity(None))


def note(text: str) -> None:
    """Say something in passing."""
    _talk().print(escape(text))


def warn(text: str) -> None:
    """Say something the user should look at."""
    _talk().print(f"[yellow]Warning:[/yellow] {escape(text)}")


def step(command_line: str) -> None:
    """Show a command as the user would type it."""
    _talk().print(f"\n[bold]$ {escape(command_line)}[/bold]")


def line(text: str) -> None:
    """Print one line on stdout, as it is, to be copied or piped."""
    sys.stdout.write(masked(text) + "\n")
    sys.stdout.flush()


def hint(text: str, remark: str = "") -> None:
    """Suggest the next command, with a remark on it below; within a loop nothing is suggested."""
    if not _within_a_loop:
        _talk().print(f"[cyan]Next:[/cyan] {escape(text)}")
        if remark:
            note(remark)


def command_line(*words: object, **options: object) -> str:
    """Return a command as it can be pasted into a shell; options that are None, False or empty are left out."""
    line = [str(word) for word in words]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            line.append(flag)
        elif isinstance(value, list | tuple):
            line += [word for one in value for word in (flag, str(one))]
        elif value is not None and value is not False:
            line += [flag, str(value)]
    return shlex.join(line)


@contextmanager
def within_a_loop() -> Iterator[None]:
    """Run a command as one step of another, which suggests what comes next, and says what went wrong."""
    global _within_a_loop
    _within_a_loop = True
    try:
        yield
    finally:
        _within_a_loop = False


@contextmanager
def command_within_a_loop() -> Iterator[None]:
    """Run a command as one step of another: its result table and its hint are not shown, its talk is."""
    with within_a_loop(), redirect_stdout(StringIO()):
        yield


def error(message: str, fix: str) -> None:
    """Say what went wrong and what to try; within a loop the loop says it."""
    if _within_a_loop:
        return
    console = _talk()
    console.print(f"[red]Error:[/red] {escape(_printable(message))}")
    console.print(f"[cyan]Hint:[/cyan] {escape(_printable(fix))}")


def _printable(text: str) -> str:
    """Return a text without what could steer a terminal: a name or an answer in it may be anybody's."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show rows to a person, on stdout, with a head where columns have names. None is a dash; 3 digits of fractions."""
    from rich.table import Table

    grid = Table(title=masked(title) or None, title_justify="left", show_header=any(columns))
    for column in columns:
        grid.add_column(masked(column), overflow="fold")
    for row in rows:
        grid.add_row(*(escape(_cell(value)) for value in row))
    Console(highlight=False).print(grid)


def bars(title: str, rows: Sequence[tuple[str, float, float, str]]) -> None:
    """Show horizontal bars to a person, on stdout: each row is a name, where its bar begins and ends, and its value.

    All begin on one axis that reaches from the smallest beginning (at most 0) to the largest end.
    """
    from rich.bar import Bar
    from rich.table import Table

    low = min([0.0, *(begin for _, begin, _, _ in rows)])
    size = max([end for _, _, end, _ in rows], default=0.0) - low
    grid = Table(title=title, title_justify="left", box=None, show_header=False)
    grid.add_column(justify="right", overflow="fold")
    grid.add_column(width=40)
    grid.add_column(overflow="fold")
    for name, begin, end, value in rows:
        grid.add_row(escape(name), Bar(size or 1.0, begin - low, end - low, width=40), escape(value))
    Console(highlight=False).print(grid)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def data(value: Mapping[str, object]) -> None:
    """Print one JSON object on stdout, for programs."""
    sys.stdout.write(json.dumps(masked_values(value), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


@contextmanager
def progress(label: str, total: int, done: int = 0, unit: str = "items") -> Iterator[Callable[[], None]]:
    """Show a bar with a rate on stderr while the block runs; yields the function that advances it by one.

    Where stderr is no terminal, a line after a while and then each minute.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} {unit}/s" if task.speed else f"- {unit}/s")

    console = _talk()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    if done:
        note(
            f"{label}: going on at {done:,} of {total:,} {unit}" if done < total else f"{label}: all {done:,} are there"
        )
    task = bar.add_task(escape(label), total=total, completed=done)

    def stands(seconds: float) -> str:
        now = round(bar.tasks[task].completed)
        rate = (now - done) / seconds
        left = f", about {duration((total - now) / rate)} left" if rate else ""
        return f"{label}: {now:,} of {total:,} {unit}{left}"

    with _silence.watched(activity := _Activity(None if console.is_terminal else stands)), bar:
        yield lambda: bar.advance(task)
        if activity.is_told:
            activity.say()


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def byte_progress(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes on stderr; yields the function that takes how many more have arrived (total None: unknown).

    Where stderr is no terminal, a line after a while and then each minute.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = _talk()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    of = "" if total is None else f" of {total / 1e6:,.0f}"
    if done:
        note(f"{label}: going on at {done / 1e6:,.0f}{of} MB")
    task = bar.add_task(escape(label), total=total, completed=done)

    def stands(_seconds: float) -> str:
        return f"{label}: {bar.tasks[task].completed / 1e6:,.0f}{of} MB"

    with _silence.watched(_Activity(None if console.is_terminal else stands)), bar:
        yield lambda more: bar.advance(task, more)
