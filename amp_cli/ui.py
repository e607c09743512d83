"""The only module that prints: results to stdout, talk to stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO

from rich.console import Console
from rich.markup import escape as _escape

from amp_cli.addresses import masked, masked_values

_within_a_loop = False


def escape(text: str) -> str:
    """Return a text as rich prints it word for word, with no secret in its addresses."""
    return _escape(masked(text))


def _talk() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


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


def hint(text: str) -> None:
    """Suggest the next command."""
    if not _within_a_loop:
        _talk().print(f"[cyan]Next:[/cyan] {escape(text)}")


@contextmanager
def command_within_a_loop() -> Iterator[None]:
    """Run a command as one step of another: its result table and its hint are not shown, its talk is."""
    global _within_a_loop
    _within_a_loop = True
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        _within_a_loop = False


def error(message: str, fix: str) -> None:
    """Say what went wrong and what to try."""
    console = _talk()
    console.print(f"[red]Error:[/red] {escape(_printable(message))}")
    console.print(f"[cyan]Hint:[/cyan] {escape(_printable(fix))}")


def _printable(text: str) -> str:
    """Return a text without what could steer a terminal: a name or an answer in it may be anybody's."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show rows to a person, on stdout. None is shown as a dash, fractions with three digits."""
    from rich.table import Table

    grid = Table(title=masked(title) or None, title_justify="left")
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

    No bar where stderr is no terminal.
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
    with bar:
        task = bar.add_task(escape(label), total=total, completed=done)
        yield lambda: bar.advance(task)


@contextmanager
def byte_progress(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes on stderr; yields the function that takes how many more have arrived (total None: unknown).

    No bar where stderr is no terminal.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = _talk()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(label), total=total, completed=done)
        yield lambda more: bar.advance(task, more)
