"""Every training setting with its default, its range and its meaning: all of it read from `TrainConfig` itself.

The meaning of a field is the comment behind it, its group the comment on a line of its own above it.
"""

import inspect
import io
import tokenize
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_args, get_type_hints

from amp_cli.disk.settings import free_settings
from amp_cli.ranges import MANY, RANGES
from amp_cli.training.config import CHOICES, TrainConfig, recipe_values

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
FIRST_GROUP = "start"


@dataclass(frozen=True, kw_only=True)
class ListedSetting:
    """A setting as `amp train --list-settings` shows it. `origin` of its value: default, recipe or set."""

    name: str
    group: str
    allowed: str  # its range, its texts, or its type in words
    is_required: bool  # there is no default: the recipe has one
    default: Any
    value: Any
    origin: str
    may_change: bool  # whether it may differ when a run goes on
    meaning: str


def list_settings(size: str, recipe: str, given: Mapping[str, str]) -> list[ListedSetting]:
    """Return all settings, with the values that a size, its recipe's variant and `--set` give.

    Raises:
        AmpError: unknown size, variant or setting, or a value that does not fit.
    """
    recipes = recipe_values(size, recipe, {})
    config = TrainConfig.from_json(recipe_values(size, recipe, given))
    free = free_settings(config)
    comments = _comments()
    listed = []
    for one in fields(TrainConfig):
        group, meaning = comments[one.name]
        default = None if one.default is MISSING else one.default
        value = getattr(config, one.name)
        origin = "set" if one.name in given else "recipe" if one.name in recipes and value != default else "default"
        listed.append(
            ListedSetting(
                name=one.name,
                group=group,
                allowed=allowed(one.name),
                is_required=one.default is MISSING,
                default=default,
                value=value,
                origin=origin,
                may_change=one.name in free,
                meaning=meaning,
            )
        )
    return listed


def allowed(name: str) -> str:
    """Return what a setting may be, in words."""
    if name in CHOICES:
        return ", ".join("none" if one is None else one for one in CHOICES[name])
    hint = get_type_hints(TrainConfig)[name]
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    words = next(WORDS[kind] for kind in kinds if kind in WORDS)
    if name in RANGES:
        least, most = RANGES[name]
        words = f"{words} from {least:g}" + (f" to {_number(most)}" if most < MANY else "")
    return f"{words}, or none" if types.NoneType in kinds else words


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def shown(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _comments() -> dict[str, tuple[str, str]]:
    """Return each field's group and meaning, by the comments in the class's source."""
    names = {one.name for one in fields(TrainConfig)}
    found: dict[str, tuple[str, str]] = {}
    group, name = FIRST_GROUP, None
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(TrainConfig)).readline):
        words = token.line.split(":")[0].split()
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            group = token.string.lstrip("# ")
        elif token.type == tokenize.COMMENT and name is not None and name not in found:
            found[name] = group, token.string.lstrip("# ").replace("None:", "none:")
        elif token.type == tokenize.NAME and words == [token.string] and token.string in names - found.keys():
            name = token.string
        elif token.type == tokenize.NAME and token.string == "def":
            break
    return found
