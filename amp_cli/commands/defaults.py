"""Values that are not typed: from `amp.toml`, and from `AMP_*` variables. What is typed goes before both.

[train]                      # amp train --size 13b --set beta=0.2
size = "13b"
[train.set]
beta = 0.2
[eval]                       # of every benchmark that has the option; [eval.pope] goes before it
judge = "gpt-4o"

AMP_TRAIN_SIZE=13b  AMP_EVAL_POPE_LIMIT=100  AMP_TRAIN_SET="beta=0.2 pairs=all"
"""

import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from amp_cli import ui
from amp_cli.addresses import masked
from amp_cli.disk.parsing import read_text
from amp_cli.errors import AmpError

NAME = "amp.toml"
NONE = "none"
PREFIX = "AMP"
TYPED_ONLY = (
    *("json", "overwrite", "again", "clear-conversions"),
    *("version", "install-completion", "show-completion", "list-settings"),
)
"""What a default would turn into an accident: another kind of output, or the loss of results."""
NOT_IN_A_FILE = ("config", "trust-remote-code")
"""What a file that came with somebody's folder must not decide: whose code runs."""
_SECRET_NAME = re.compile(r".*(api.?key|secret|passw|credential)|(.*_)?(token|key)", re.I)
_SECRET = re.compile(
    r"[spr]k-[\w-]{16,}|(hf|gh[opsur])_\w{16,}|glpat-[\w-]{16,}|AKIA\w{12,}|AIza[\w-]{20,}|eyJ[\w.-]{20,}"
)
_FILE = "amp.toml"
"""Where a context's `meta` keeps which file was read."""
SOURCES = ("DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")
"""Typer's names for amp.toml, the environment and what was typed; the later one goes before."""


def flag_of(option: Any) -> str:
    """Return an option's long name without its dashes, as in `image-root`; an argument's own name."""
    return next((one for one in option.opts if one.startswith("--")), str(option.name)).removeprefix("--")


# ---- the environment


def name_variables(context: Any) -> None:
    """Name the environment variable of each option of a command: AMP, the command's words, the option's name.

    Help pages name a variable only where it is set.
    """
    for option in context.command.params:
        option.allow_from_autoenv = False
        if option.param_type_name == "option":
            option.envvar = _variable(context.auto_envvar_prefix, option)
            option.show_envvar = option.envvar is not None and option.envvar in os.environ


def _variable(prefix: str | None, option: Any) -> str | None:
    name = flag_of(option)
    return None if prefix is None or name in TYPED_ONLY else f"{prefix}_{name.upper().replace('-', '_')}"


def without_defaults(environment: Mapping[str, str], command: str) -> dict[str, str]:
    """Return an environment without a command's variables: for one that is started with all of its options typed."""
    beginning = f"{PREFIX}_{command.upper().replace('-', '_')}_"
    return {name: value for name, value in environment.items() if not name.startswith(beginning)}


def forget_defaults(commands: Iterable[str]) -> None:
    """Have this process take no defaults for these commands: whoever started it has typed all that it should hear."""
    kept = dict(os.environ)
    for command in commands:
        kept = without_defaults(kept, command)
    for name in [one for one in os.environ if one not in kept]:
        del os.environ[name]
    os.environ[f"{PREFIX}_CONFIG"] = NONE


def unknown_variables(root: Any) -> list[str]:
    """Return the variables that begin as those of a command do, and that none of its options has."""
    known: set[str] = set()
    beginnings: list[str] = []
    for path, command in _commands(root):
        prefix = "_".join((PREFIX, *path)).upper().replace("-", "_")
        known |= {name for one in _options(command) if (name := _variable(prefix, one)) is not None}
        beginnings += [f"{prefix}_"] if path else []
    return sorted(name for name in os.environ if name.startswith(tuple(beginnings)) and name not in known)


def defaults_of(context: Any, words: Sequence[str]) -> list[str]:
    """Return where a command that somebody typed now would take values from: tables of amp.toml, and variables.

    Args:
        context: of any command. words: the command and what follows it.
    """
    command, root = context.find_root().command, context.find_root()
    table: Any = root.default_map or {}
    path: list[str] = []
    for word in words:
        if (below := getattr(command, "commands", {}).get(word)) is None:
            break
        command, table, path = below, table.get(word, {}), [*path, word]
    prefix = "_".join((PREFIX, *path)).upper().replace("-", "_")
    variables = [name for one in _options(command) if (name := _variable(prefix, one)) and name in os.environ]
    return [*([f"[{'.'.join(path)}]"] if table else []), *variables]


def _commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return a command and all below it, each with the words that lead to it."""
    below = getattr(command, "commands", {})
    return [(path, command), *(found for name, one in below.items() for found in _commands(one, (*path, name)))]


# ---- amp.toml


def apply_config(context: typer.Context, asked: Path | None) -> None:
    """Find `amp.toml`, check all of it, and give every command its defaults.

    Args:
        asked: the file to read; `none` reads none; None looks for one.

    Raises:
        AmpError: there is no such file, or something in it is not what a command takes.
    """
    if context.resilient_parsing or {"--help", "--help-all"} & set(sys.argv):  # a page must open with any file
        return
    for name in unknown_variables(context.command):
        ui.warn(f"No option is called like the variable {name}; it is not heard")
    if asked is not None and str(asked).lower() == NONE:
        return
    file = found_config() if asked is None else asked
    if file is None:
        return
    context.meta[_FILE] = file
    context.default_map = read_config(file, context)


def found_config() -> Path | None:
    """Return the `amp.toml` of the current folder, or of the nearest one above it.

    Raises:
        AmpError: the one above belongs to another user, who would decide what runs here.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / NAME
        if not file.is_file():
            continue
        if folder != here and hasattr(os, "getuid") and file.stat().st_uid != os.getuid():
            raise AmpError(
                f"'{file}' lies above the current folder and belongs to another user",
                hint=f"amp --config {file} reads it all the same, amp --config none does without",
            )
        return file
    return None


def read_config(file: Path, context: Any) -> dict[str, Any]:
    """Return what `amp.toml` says, as typer's `default_map`: an object for each command, with its options by name.

    Raises:
        AmpError: the file cannot be read, or something in it is not what a command takes.
    """
    text = read_text(file)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AmpError(
            f"'{file}' is not TOML: {error}", hint='Write it as in: [train] size = "13b", each on a line'
        ) from error
    return _Reading(file, context).of(context.command, tables, (), {})


class _Reading:
    """Reads one `amp.toml`; every fault names the file, the table and the key."""

    def __init__(self, file: Path, context: Any) -> None:
        self._file = file
        self._context = context

    def of(
        self, command: Any, table: Mapping[str, Any], path: tuple[str, ...], inherited: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a command's defaults; what stands in a group's table is for all its commands that have the option."""
        below: Mapping[str, Any] = getattr(command, "commands", {})
        mine = {name: value for name, value in table.items() if name not in below}
        own = {_key(name): value for name, value in mine.items()}
        options = _by_key(command)
        shared = {name: one for each in below.values() for name, one in _by_key(each).items()} if path else {}
        for name, value in mine.items():
            self._check(name, value, {**shared, **options}, path, tuple(below))
        given = {**inherited, **own}
        defaults = {str(one.name): self._meant(one, given[name]) for name, one in options.items() if name in given}
        for name, inner in below.items():
            if not isinstance(one := table.get(name, {}), dict):
                words = ".".join((*path, name))
                raise self._fault(path, name, "is a command, and needs a table", f"Write [{words}] above its options")
            defaults[name] = self.of(inner, one, (*path, name), own if path else {})
        return defaults

    def _check(
        self, name: str, value: Any, options: Mapping[str, Any], path: tuple[str, ...], commands: Sequence[str]
    ) -> None:
        """Refuse an option that is not there, that a file may not give, or that has a value of another kind."""
        if (option := options.get(_key(name))) is None:
            if _SECRET_NAME.fullmatch(_key(name)):
                raise self._fault(path, name, "looks like a secret", _BELONGS_ELSEWHERE)
            near = get_close_matches(_key(name), [*options, *commands], n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise self._fault(path, name, "is not known there", f"{meant}See {_page(path)}")
        inside = [one.replace("_", "-") for one in value] if isinstance(value, dict) else []
        for flag in (flag_of(option), *inside):
            if flag in (*TYPED_ONLY, *NOT_IN_A_FILE):
                raise self._fault(path, name, f"cannot give --{flag}", "Leave it out, and type it where you mean it")
        if any(_SECRET.fullmatch(text) or masked(text) != text for text in _texts(value)):
            raise self._fault(path, name, "holds what looks like a secret", _BELONGS_ELSEWHERE)
        if not _fits(value, option):
            wanted = _wanted(option)
            raise self._fault(path, name, f"must be {wanted}, not {value!r:.40}", f"See {_page(path)}")
        try:
            option.get_runtime_param().coerce(self._meant(option, value), param=option, ctx=self._context)
        except typer.BadParameter as error:
            why = error.message.removeprefix("Value error, ")
            raise self._fault(path, name, f"cannot be {value!r:.40}: {why}", f"See {_page(path)}") from error

    def _meant(self, option: Any, value: Any) -> Any:
        """Return a value as typer takes it; a path starts from the file's folder, a table is a list of KEY=VALUE."""
        if isinstance(value, dict):
            return [f"{name}={str(one).lower() if isinstance(one, bool) else one}" for name, one in value.items()]
        if isinstance(value, list):
            return [self._meant(option, one) for one in value]
        return self._from_there(option, value) if isinstance(value, str) else value

    def _from_there(self, option: Any, text: str) -> str:
        is_path = option.type_descriptor.is_path or text.startswith(("./", "../"))
        folder = self._file.resolve().parent
        return str(folder / text) if is_path and folder != Path.cwd().resolve() else text

    def _fault(self, path: Sequence[str], name: str, what: str, hint: str) -> AmpError:
        where = f" of [{'.'.join(path)}]" if path else ""
        return AmpError(f"'{name}'{where} in '{self._file}' {what}", hint=hint)


_BELONGS_ELSEWHERE = "Secrets belong into the environment, as in OPENAI_API_KEY or HF_TOKEN"


def _options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option"]


def _by_key(command: Any) -> dict[str, Any]:
    return {_key(flag_of(one)): one for one in _options(command)}


def _key(name: str) -> str:
    return name.replace("-", "_")


def _page(path: Sequence[str]) -> str:
    return ui.command_line("amp", *path, "--help-all")


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for one in inner for text in _texts(one)]
    return [value] if isinstance(value, str) else []


_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (float, int)),
}
_TEXT: tuple[str, tuple[type, ...]] = ("a text", (str,))


def _wanted(option: Any) -> str:
    word, _ = _KINDS.get(option.type_descriptor.annotation, _TEXT)
    return "a list of texts, or a table" if option.multiple else word


def _fits(value: Any, option: Any) -> bool:
    """Tell whether TOML's type is the option's: "3" is not a number, nor is true."""
    if option.multiple:
        inner = list(value.values()) if isinstance(value, dict) else value
        plain = (str, int, float) if isinstance(value, dict) else (str,)
        return isinstance(inner, list) and all(isinstance(one, plain) for one in inner)
    _, kinds = _KINDS.get(option.type_descriptor.annotation, _TEXT)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


# ---- where a value comes from


def layers(context: Any, name: str) -> dict[str, list[str]]:
    """Return what each of `SOURCES` gives for a repeatable option, where typer keeps only the strongest."""
    option = next(one for one in context.command.params if one.name == name)
    typed = context.params.get(name) or [] if _source(context, name) == "COMMANDLINE" else []
    from_file = (context.default_map or {}).get(name) or []
    return dict(
        zip(SOURCES, (list(from_file), os.environ.get(option.envvar or "", "").split(), list(typed)), strict=True)
    )


def settings_in_order(context: Any, name: str, flags: Mapping[str, object] | None = None) -> list[str]:
    """Return KEY=VALUE settings, the strongest last: those of a repeatable option, and flags that are settings too.

    Args:
        name: the option. flags: option -> its value; None was not given.
    """
    given = layers(context, name)
    for flag, value in (flags or {}).items():
        if value is not None:
            given.get(_source(context, flag), given["DEFAULT_MAP"]).append(f"{flag}={value}")
    return [text for source in SOURCES for text in given[source]]


def tell_unheard(context: Any, commands: Sequence[Sequence[str]]) -> None:
    """Say of which commands the defaults are not taken: of those whose options a file says, all of them.

    Args:
        commands: their words, as they are typed.
    """
    sources = sorted({one for words in commands for one in defaults_of(context, words)})
    if sources:
        file = f" of '{context.meta[_FILE]}'" if any(one.startswith("[") for one in sources) else ""
        ui.note(
            f"Not taken by the stages, whose options the pipeline says: {', '.join(sources)}{file}. "
            "A command of a stage that is typed alone does take them, unless as in: amp --config none COMMAND"
        )


def tell_origins(context: Any) -> None:
    """Say which values were not typed, and where they come from."""
    told: dict[str, list[str]] = {"DEFAULT_MAP": [], "ENVIRONMENT": []}
    for option in _options(context.command):
        source = _source(context, option.name)
        if source in told and not option.multiple:
            told[source].append(ui.command_line(**{flag_of(option): context.params[option.name]}))
        for origin, values in layers(context, option.name).items() if option.multiple else ():
            if values and origin in told and (origin == source or flag_of(option) in MERGED):
                told[origin].append(ui.command_line(**{flag_of(option): values}))
    if told["DEFAULT_MAP"]:
        ui.note(f"From '{context.meta[_FILE]}': {' '.join(told['DEFAULT_MAP'])}")
    if told["ENVIRONMENT"]:
        ui.note(f"From the environment ({PREFIX}_*): {' '.join(told['ENVIRONMENT'])}")


MERGED = ("set", "finetune-set")
"""Repeatable options whose values are settings: a typed one replaces that of the same name, the others stay."""


def _source(context: Any, name: str) -> str:
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else str(source.name)
