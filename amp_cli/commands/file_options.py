"""An `amp` command line from options by name, as a file gives them, and what the command itself makes of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import typer

from amp_cli.errors import AmpError


class WrongOptionError(AmpError):
    """An option that a command lacks, or a value that it refuses; `option` is its name, None where it is not known."""

    def __init__(self, message: str, *, hint: str, option: str | None) -> None:
        super().__init__(message, hint=hint)
        self.option = option


@dataclass(frozen=True, kw_only=True)
class CommandOption:
    """An option or argument of a command.

    Attributes:
        name: as a file calls it: its flag, with _ for -. flag: None for an argument. unset: the flag that says no.
        value_name: the parameter that gets the value.
    """

    name: str
    flag: str | None
    unset: str | None
    is_flag: bool
    value_name: str


def find_command(root: Any, names: Sequence[str]) -> Any:
    """Return the command that words such as ("eval", "pope") mean."""
    for name in names:
        root = root.commands[name]
    return root


def options_offered(command: Any, *, without: Collection[str] = ()) -> dict[str, CommandOption]:
    """Return a command's options by the names that a file gives them, hidden ones and those of `without` left out."""
    found = []
    for one in command.params:
        flags = [word for word in one.opts if word.startswith("--")]
        is_argument = not flags and not any(word.startswith("-") for word in one.opts)
        if not is_argument and (one.hidden or not flags):
            continue
        found.append(
            CommandOption(
                name=one.name if is_argument else flags[0].removeprefix("--").replace("-", "_"),
                flag=None if is_argument else flags[0],
                unset=one.secondary_opts[0] if one.secondary_opts else None,
                is_flag=not is_argument and bool(one.is_flag),
                value_name=one.name,
            )
        )
    return {one.name: one for one in found if one.name not in ("help", *without)}


def words_of(offered: Mapping[str, CommandOption], options: Mapping[str, Any], where: str) -> list[str]:
    """Return the words that give a command these options: arguments first, then each as `--flag value`.

    A list repeats the option, a mapping does so as KEY=VALUE, None leaves it out.

    Args:
        where: the options stand, for messages.

    Raises:
        WrongOptionError: an unknown name, or a value that no command line can hold.
    """
    arguments: list[str] = []
    words: list[str] = []
    for name, value in options.items():
        if name not in offered:
            near = get_close_matches(name, offered, n=1, cutoff=0.0)
            known = ", ".join(sorted(offered))
            hint = f"Did you mean '{near[0]}'? All: {known}"
            raise WrongOptionError(f"There is no `{name}` in {where}", hint=hint, option=name)
        one = offered[name]
        if one.is_flag:
            words += _flag(one, value, where)
        elif one.flag is None:
            arguments += _texts(name, value, where)
        else:
            # a value that begins with a dash would be read as an option
            words += [
                word
                for text in _texts(name, value, where)
                for word in ([f"{one.flag}={text}"] if text.startswith("-") else [one.flag, text])
            ]
    return [*arguments, *words]


def _flag(one: CommandOption, value: Any, where: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, bool):
        hint = f"Write {one.name}: true, or {one.name}: false"
        message = f"`{one.name}` of {where} is {value!r:.40}, not true or false"
        raise WrongOptionError(message, hint=hint, option=one.name)
    flag = one.flag if value else one.unset
    return [] if flag is None else [flag]


def _texts(name: str, value: Any, where: str) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={_text(name, one, where)}" for key, one in value.items()]
    return [_text(name, one, where) for one in (value if isinstance(value, list) else [value]) if one is not None]


def _text(name: str, value: Any, where: str) -> str:
    if isinstance(value, dict | list):
        message = f"`{name}` of {where} holds {value!r:.40}, not one value"
        raise WrongOptionError(message, hint="Write plain values", option=name)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value).replace("\n", "\\n")


def values_of(
    command: Any, name: str, offered: Mapping[str, CommandOption], words: Sequence[str], where: str
) -> dict[str, Any]:
    """Return what the command reads out of these words: its parameters by name.

    Args:
        name: of the command, for the hint. where: the options stand, for messages.

    Raises:
        WrongOptionError: it refuses them.
    """
    try:
        values: dict[str, Any] = command.make_context(name, list(words)).params
    except typer.TyperException as error:
        at_fault = error.param.name if isinstance(error, typer.BadParameter) and error.param is not None else None
        option = next((one.name for one in offered.values() if one.value_name == at_fault), None)
        raise WrongOptionError(
            f"{where}: {error.format_message()}", hint=f"See amp {name} --help", option=option
        ) from error
    return values
