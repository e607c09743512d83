"""Parses JSON and YAML of any origin: within a depth and a size, and with one kind of error whatever is wrong.

Python's parser takes NaN, Infinity and 1e999; all of them become numbers that are not finite, and so does a whole
number of hundreds of digits. Whoever needs a number refuses that one value; the rest of the record stays usable.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from amp_cli.disk.data_files import refuse_special_file, unreadable
from amp_cli.errors import AmpError


def wrong_field(record: object) -> str | None:
    """Return the name of the first field whose value is not of the declared type; None where all are, or none is."""
    kind: type = type(record)
    if not is_dataclass(kind):
        return None
    return next((name for name, fits in _checks(kind) if not fits(getattr(record, name))), None)


@cache
def _checks(kind: type) -> tuple[tuple[str, Callable[[object], bool]], ...]:
    """Return what each field of a kind of record has to fit: looked up once, since files have many records."""
    hints = get_type_hints(kind)
    return tuple((one.name, _check(hints[one.name])) for one in fields(kind))


def _check(hint: Any) -> Callable[[object], bool]:
    """Return what tells whether a value is of a declared type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if origin is Literal:
        return lambda value: value in inner
    if hint in (None, NoneType):
        return lambda value: value is None
    if hint in (float, int):
        kinds = (int, float) if hint is float else (int,)
        return lambda value: isinstance(value, kinds) and not isinstance(value, bool)
    if origin is None and isinstance(hint, type):
        return lambda value: isinstance(value, hint) and wrong_field(value) is None
    checks = tuple(_check(one) for one in inner)
    if origin in (Union, UnionType):
        return lambda value: any(fits(value) for fits in checks)
    if origin is tuple and inner[-1] is not Ellipsis:
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(checks)
            and all(fits(one) for fits, one in zip(checks, value, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        return lambda value: (
            isinstance(value, origin) and all(checks[0](key) and checks[1](one) for key, one in value.items())
        )
    if origin is not None and issubclass(origin, Sequence | frozenset | set):
        return lambda value: isinstance(value, origin) and all(checks[0](one) for one in value)
    return lambda value: True  # something that this file does not know


DEEPEST = 100
"""Brackets within brackets. Records of this field have up to ten; thousands exhaust the stack of whoever walks them."""
LARGEST_JSON = 2 << 30
LARGEST_TEXT = 64 << 20
LARGEST_YAML = 1 << 20
"""Bytes of a file that is read whole."""
_LONGEST_NUMBER = 308
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class UnreadableError(Exception):
    """What is wrong with a text, in words that stand behind "it": "is not valid JSON (...)"."""


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else float(digits)


_DECODER = json.JSONDecoder(parse_int=_whole_number)


def parse_json(content: bytes | str) -> Any:
    """Return the value of a JSON text; a byte-order mark is tolerated.

    Raises:
        UnreadableError: it is not UTF-8, not JSON, nested too deeply, or holds half a character (a lone surrogate),
            which no file of ours could hold.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not valid UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        place = f" in line {error.lineno}" if error.lineno > 1 else ""
        raise UnreadableError(f"is not valid JSON ({error.msg}{place})") from error
    except RecursionError as error:
        raise UnreadableError(TOO_DEEP) from error
    if text.count("[") + text.count("{") > DEEPEST and is_deep(value):
        raise UnreadableError(TOO_DEEP)
    if _HALF_CHARACTER.search(text) and _has_half_character(value):
        raise UnreadableError("holds half a character (a lone surrogate)")
    return value


TOO_DEEP = f"is nested too deeply (over {DEEPEST} brackets)"


def is_deep(value: object) -> bool:
    """Say whether lists and objects lie in one another more than `DEEPEST` times; not recursive itself."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _has_half_character(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def read_json(path: Path) -> Any:
    """Read one JSON file of any shape.

    Raises:
        AmpError: it is missing, unreadable, or `parse_json` cannot read it.
    """
    refuse_special_file(path)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise AmpError(f"'{path}' has over {LARGEST_JSON >> 30} GB", hint="Check that it is the file you mean")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except UnreadableError as error:
        raise AmpError(f"'{path}' {error}", hint="Save it as JSON in UTF-8, or fetch it again") from error


def read_text(path: Path) -> str:
    """Read a text file; a byte-order mark is left out.

    Raises:
        AmpError: it is missing, unreadable, too large for a text, or not UTF-8.
    """
    refuse_special_file(path)
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise AmpError(f"'{path}' has over {LARGEST_TEXT >> 20} MB", hint="Check that it is the file you mean")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise AmpError(f"'{path}' is not UTF-8: byte {error.start} cannot be read", hint="Save it as UTF-8") from error


def read_plain_object(path: Path, **fields: type | UnionType) -> dict[str, Any]:
    """Read an object as `read_object` does that can be written again: without NaN and infinity, as our own files are.

    Raises:
        AmpError: as `read_object`, or there is such a number.
    """
    record = read_object(path, **fields)
    refuse_endless_numbers(record, path)
    return record


def refuse_endless_numbers(value: object, path: Path) -> None:
    """Refuse what was read from `path` where JSON of ours could not hold it again.

    Raises:
        AmpError: there is NaN or infinity in it.
    """
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise AmpError(
            f"'{path}' is damaged: it holds NaN or an endless number", hint="Restore it, or start afresh"
        ) from error


def read_object(path: Path, **fields: type | UnionType) -> dict[str, Any]:
    """Read a JSON file that is an object, each of the named fields of it there and of this type.

    Raises:
        AmpError: as `read_json`, or it is none; the message names file and field.
    """
    record = read_json(path)
    hint = "The file is damaged or not what its name says; write or fetch it again"
    if not isinstance(record, dict):
        raise AmpError(f"'{path}' does not hold a JSON object", hint=hint)
    for name, kind in fields.items():
        if name not in record:
            raise AmpError(f"'{path}' lacks the field '{name}'", hint=hint)
        value = record[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            words = " or ".join(_TYPE_WORDS[one] for one in get_args(kind) or (kind,))
            raise AmpError(f"'{name}' in '{path}' must be {words}, not {value!r:.80}", hint=hint)
    return record


_TYPE_WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
    NoneType: "null",
}  # fmt: skip


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file of settings: plain values, lists and mappings.

    Raises:
        AmpError: it cannot be read, is not YAML, names a key twice, or uses aliases or tags: a few lines of aliases
            unfold to gigabytes.
    """
    import yaml

    refuse_special_file(path)
    hint = "Write it as plain `key: value` lines in UTF-8"
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_YAML + 1)
        if len(content) > LARGEST_YAML:
            raise AmpError(f"'{path}' has over {LARGEST_YAML >> 20} MB, which is not a file of settings", hint=hint)
        text = content.decode("utf-8-sig")
        _refuse_unfolding(path, text)
        _refuse_repeated(path, yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except OSError as error:
        raise unreadable(path, error) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: UTF-8, impossible dates
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise AmpError(f"'{path}' is not valid YAML: {said:.120}{place}", hint=hint) from error


def yaml_lines(path: Path) -> dict[tuple[str, ...], int]:
    """Return the line, counted from 1, of each key and list element of a YAML file that `read_yaml` has read.

    The place of an element is the keys that lead to it; in a list its number from 0, as a text.
    """
    import yaml

    found: dict[tuple[str, ...], int] = {}

    def look(node: Any, place: tuple[str, ...]) -> None:
        inner = node.value if isinstance(node, yaml.MappingNode | yaml.SequenceNode) else ()
        for number, one in enumerate(inner):
            key, value = one if isinstance(node, yaml.MappingNode) else (one, one)
            here = (*place, str(key.value) if isinstance(node, yaml.MappingNode) else str(number))
            found[here] = key.start_mark.line + 1
            look(value, here)

    look(yaml.compose(read_text(path), Loader=yaml.SafeLoader), ())
    return found


def _refuse_repeated(path: Path, node: Any) -> None:
    """Refuse a mapping that names a key twice, of which YAML's reader would take the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise AmpError(
                    f"'{path}', line {key.start_mark.line + 1}: '{key.value}' is given twice",
                    hint="Keep one of the two",
                )
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
            _refuse_repeated(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _refuse_repeated(path, one)


def _refuse_unfolding(path: Path, text: str) -> None:
    import yaml

    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
            raise AmpError(
                f"'{path}', line {token.start_mark.line + 1}: YAML with anchors, aliases or tags is not read",
                hint="Write the value out where it is used",
            )
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > DEEPEST:
            raise AmpError(f"'{path}' {TOO_DEEP}", hint="Write it as plain `key: value` lines")
