"""Settings as records: how they lie flat in `run.json`, and which of them may differ when a run goes on."""

from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

_FREE, _RECORDED = "free", "recorded"


def free(default: Any, *, when: Callable[[Any], bool] | None = None) -> Any:
    """Declare a setting that may differ when a run goes on: it changes where or how fast, not what comes out.

    Args:
        when: says of the whole record whether that is so; None is always.
    """
    return field(default=default, metadata={_FREE: when or (lambda record: True)})


def unrecorded(default: Any = MISSING) -> Any:
    """Declare a setting that is no part of what was asked, such as where the results go: `run.json` is without it."""
    return field(default=default, metadata={_RECORDED: False})


def flatten(record: Any) -> dict[str, Any]:
    """Return a settings record as `run.json` has it: the fields of the records inside it stand beside its own.

    A record that is None lies there with its defaults, and None for what has none.
    """
    flat: dict[str, Any] = {}
    for one in _recorded(record):
        inner = _record_type(type(record), one)
        value = getattr(record, one.name)
        if inner is None:
            flat[one.name] = value
        else:
            flat |= default_settings(inner) if value is None else flatten(value)
    return flat


def default_settings(kind: type[Any]) -> dict[str, Any]:
    """Return the settings of a record type that was given nothing: what a run made before a setting was there had."""
    flat: dict[str, Any] = {}
    for one in _recorded(kind):
        inner = _record_type(kind, one)
        if inner is not None:
            flat |= default_settings(inner)
        elif one.default_factory is not MISSING:
            flat[one.name] = one.default_factory()
        else:
            flat[one.name] = None if one.default is MISSING else one.default
    return flat


def free_settings(record: Any, whole: Any = None) -> frozenset[str]:
    """Return the names of the settings that may differ when a run with these goes on.

    Args:
        whole: the record that `record` lies in; None where it lies in none.
    """
    whole = record if whole is None else whole
    names: set[str] = set()
    for one in _recorded(record):
        inner = _record_type(type(record), one)
        value = getattr(record, one.name)
        if inner is None and _FREE in one.metadata and one.metadata[_FREE](whole):
            names.add(one.name)
        elif inner is not None and value is not None:
            names |= free_settings(value, whole)
    return frozenset(names)


def _recorded(record: Any) -> list[Field[Any]]:
    return [one for one in fields(record) if one.metadata.get(_RECORDED, True)]


def _record_type(kind: type[Any], one: Field[Any]) -> type[Any] | None:
    """Return the record type of a field that holds a record (or None), None where it holds a plain value."""
    hint = get_type_hints(kind)[one.name]
    kinds: list[Any] = [part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)]
    return kinds[0] if kinds else None
