"""What every command has beside its own options: a short help page and a long one, and defaults from elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from amp_cli.commands.defaults import flag_of, name_variables, tell_origins

ALL = "--help-all"
FEW = 12
"""A command with no more options than this shows all of them with --help."""
ESSENTIAL = frozenset([
    "adapter", "answers", "ask", "base", "best", "data", "dry-run", "engine", "eval", "eval-prefs", "expert",
    "finetune-data", "gpu", "held-out", "html", "image", "image-root", "json", "judge", "judge-url", "levels",
    "limit", "list-settings", "max-cost", "method", "model", "num-processes", "only", "out", "overwrite", "part",
    "prefs", "price", "print", "rounds", "rule", "serve", "set", "size", "to",
])  # fmt: skip
"""Options, by name, that the short page of a long command shows; those that must be given are on it too."""
_ALL_WANTED = "amp.help-all"


def is_essential(option: Any) -> bool:
    return isinstance(option, TyperArgument) or option.required or flag_of(option) in ESSENTIAL


if TYPE_CHECKING:
    _Command = TyperCommand  # a group has what is used here, too
else:
    _Command = object


class _Paged(_Command):
    """A command or a group of commands with two help pages."""

    _help_all: Any = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        name_variables(ctx)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        short = self.get_help_option(ctx)
        if self._help_all is None:  # one object: the parser compares them
            self._help_all = copy(short)
            self._help_all.name, self._help_all.opts = "help_all", [ALL]
            self._help_all.help, self._help_all.callback = "Show every option and exit.", _show_all
        return [*params, self._help_all]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        rest = [] if ctx.meta.get(_ALL_WANTED) else self.behind_help_all()
        with _left_out(self, rest, ctx.command_path):
            super().format_help(ctx, formatter)

    def behind_help_all(self) -> list[Any]:
        """Return the options that only the long page shows."""
        params: list[Any] = self.params
        options = [one for one in params if not one.hidden]
        return [] if len(options) <= FEW else [one for one in options if not is_essential(one)]


@contextmanager
def _left_out(page: _Paged, rest: Sequence[Any], path: str) -> Iterator[None]:
    """Leave options out of the page that is printed in the block, and say at its end how many."""
    epilog = page.epilog
    for one in rest:
        one.hidden = True
    if rest:
        page.epilog = f"{len(rest)} more options: {path} {ALL}"
    try:
        yield
    finally:
        page.epilog = epilog
        for one in rest:
            one.hidden = False


def _show_all(ctx: typer.Context, param: Any, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL_WANTED] = True
        typer.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


class AmpCommand(_Paged, TyperCommand):
    """A command; before it begins it says which of its values were not typed."""

    def invoke(self, ctx: Any) -> Any:
        tell_origins(ctx)
        return super().invoke(ctx)


class AmpGroup(_Paged, TyperGroup):
    """Commands of one kind."""


class CommandLine(typer.Typer):
    """A group of commands, each with what every command has."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=AmpGroup, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, **{"cls": AmpCommand, **settings})
