"""Says where a record that was read from one of our own files holds another type than its class declares."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def wrong_field(record: object) -> str | None:
    """Return the name of the first field whose value is not of the declared type; None where all are, or none is."""
    if not is_dataclass(record) or isinstance(record, type):
        return None
    hints = _hints(type(record))
    return next((one.name for one in fields(record) if not _fits(getattr(record, one.name), hints[one.name])), None)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple and inner[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, origin) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if origin is not None and issubclass(origin, Sequence | frozenset | set):
        return isinstance(value, origin) and all(_fits(one, inner[0]) for one in value)
    if hint in (float, int):
        kinds = (int, float) if hint is float else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool)
    if hint in (None, NoneType):
        return value is None
    if not isinstance(hint, type):  # something that this file does not know
        return True
    return isinstance(value, hint) and wrong_field(value) is None
