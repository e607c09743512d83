"""Settings as records: how they lie flat in `run.json`, and which of them may differ when a run goes on."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
_FREE, _RECORDED, _NESTED = "free", "recorded", "nested"


def free(default: Any = MISSING, *, when: Callable[[Any], bool] | None = None) -> Any:
    """Declare a setting that may differ when a run goes on: it changes where or how fast, not what comes out.

    Args:
        when: says of the whole record whether that is so; None is always.
    """
    return field(default=default, metadata={_FREE: when or (lambda record: True)})


def unrecorded(default: Any = MISSING) -> Any:
    """Declare a setting that is no part of what was asked, such as where the results go: `run.json` is without it."""
    return field(default=default, metadata={_RECORDED: False})


def nested(default: Any) -> Any:
    """Declare a record that `run.json` holds as an object of its own, under the field's name."""
    return field(default=default, metadata={_NESTED: True})


def flatten(record: "DataclassInstance") -> dict[str, Any]:
    """Return a settings record as `run.json` has it: the fields of the records inside it stand beside its own.

    A record that is None lies there with its defaults, and None for what has none.
    """
    flat: dict[str, Any] = {}
    for one in _recorded(record):
        inner = _record_type(type(record), one)
        value = getattr(record, one.name)
        if inner is None:
            flat[one.name] = _without_records(value)
        else:
            flat |= default_settings(inner) if value is None else flatten(value)
    return flat


def default_settings(kind: "type[DataclassInstance]") -> dict[str, Any]:
    """Return the settings of a record type that was given nothing: what a run made before a setting was there had."""
    flat: dict[str, Any] = {}
    for one in _recorded(kind):
        inner, value = _record_type(kind, one), _default_of(one)
        if inner is not None:
            flat |= default_settings(inner) if value is None else flatten(value)
        else:
            flat[one.name] = _without_records(value)
    return flat


def free_settings(record: "DataclassInstance", whole: "DataclassInstance | None" = None) -> frozenset[str]:
    """Return the names of the settings that may differ when a run with these goes on.

    Of a record that is None, such as the model where there is none, nothing matters but what has no default.

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
        elif inner is not None:
            names |= default_settings(inner).keys() - set(_required(inner))
    return frozenset(names)


def restore(kind: type[Settings], flat: Mapping[str, Any]) -> Settings:
    """Return the record that lies flat in `flat`: the opposite of `flatten`. What is not there has its default."""
    values: dict[str, Any] = {}
    for one in fields(kind):
        inner, hints = _record_type(kind, one), _hints(kind, one)
        if inner is not None and NoneType in hints and any(flat.get(name) is None for name in _required(inner)):
            values[one.name] = None
        elif inner is not None:
            default = _default_of(one)
            values[one.name] = restore(inner, {**({} if default is None else flatten(default)), **flat})
        elif one.name in flat:
            value = flat[one.name]
            values[one.name] = Path(value) if Path in hints and isinstance(value, str) else value
    return kind(**values)


def _without_records(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_without_records(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _recorded(record: Any) -> list[Field[Any]]:
    return [one for one in fields(record) if one.metadata.get(_RECORDED, True)]


def _required(kind: "type[DataclassInstance]") -> list[str]:
    return [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]


def _default_of(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return None if one.default is MISSING else one.default


def _hints(kind: type[Any], one: Field[Any]) -> tuple[Any, ...]:
    hint = get_type_hints(kind)[one.name]
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _record_type(kind: type[Any], one: Field[Any]) -> "type[DataclassInstance] | None":
    """Return the record type of a field whose record (or None) lies flat, None where it holds anything else."""
    if _NESTED in one.metadata:
        return None
    return next((part for part in _hints(kind, one) if isinstance(part, type) and is_dataclass(part)), None)
