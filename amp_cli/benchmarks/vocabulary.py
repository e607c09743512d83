"""Reads which words name which object: the built-in table for COCO, a JSON word file, or CHAIR's own synonyms.txt."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from amp_cli.benchmarks.mentions import Vocabulary
from amp_cli.disk.parsing import read_json
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError

NO_OBJECT = "(no object)"
"""The key of a word file for names that contain an object's word but are not that object ("bus stop")."""
HINT = 'Its form is {"car": ["car", "cars"]}, or lines `car, automobile, van` as in CHAIR\'s synonyms.txt'

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_QUALIFIED = {
    **{f"{age} {animal}": animal for animal in _ANIMALS for age in ("baby", "adult")},
    **{"passenger jet": "jet", "passenger train": "train", "bow tie": "tie", "toilet seat": "toilet"},
}
"""Names of two words that the original script counts as one object: "baby bird" is a bird, and nobody's baby."""
_NO_OBJECTS = ("home plate", "train track")


def read_vocabulary(file: Path | None, categories: Sequence[str]) -> Vocabulary:
    """Return the words for the objects: from `file`, else the built-in table as far as it knows the categories.

    Raises:
        AmpError: the file is neither a JSON word file nor lines of words.
    """
    if file is not None and not _is_json(file):
        return _read_lines(file, categories)
    path = file or template_path("chair", "coco_words.json")
    words = _read_table(path)
    not_objects = words.pop(NO_OBJECT, [])
    known = {name: words.get(name, ()) for name in categories}
    if file is not None:
        known = words | known
    return Vocabulary(known, not_objects)


@cache
def coco_vocabulary() -> Vocabulary:
    """Return the built-in words for COCO's 80 objects."""
    words = _read_table(template_path("chair", "coco_words.json"))
    not_objects = words.pop(NO_OBJECT, [])
    return Vocabulary(words, not_objects)


def _read_table(path: Path) -> dict[str, Sequence[str]]:
    words = read_json(path)
    if not isinstance(words, dict) or not all(map(_are_texts, words.values())):
        raise AmpError(f"'{path}' is not a word file", hint=HINT)
    return words


def _is_json(file: Path) -> bool:
    return _text_of(file).lstrip().startswith(("{", "["))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AmpError(f"'{file}' cannot be read as a word file: {error}", hint=HINT) from error


def _read_lines(file: Path, categories: Sequence[str]) -> Vocabulary:
    """Read a line of words for each object, parted by commas; the object is the category among them, or the first."""
    words: dict[str, list[str]] = {}
    known = set(categories)
    for line in _text_of(file).splitlines():
        named = [word.strip().lower() for word in line.split(",") if word.strip()]
        if named:
            words.setdefault(next((word for word in named if word in known), named[0]), []).extend(named)
    missing = [name for name in categories if name not in words]
    if missing:
        raise AmpError(
            f"'{file}' has no line for {len(missing)} of {len(categories)} objects, first '{missing[0]}'", hint=HINT
        )
    for phrase, word in _QUALIFIED.items():
        if (owner := _owner(word, words)) is not None:
            words[owner].append(phrase)
    return Vocabulary(words, _NO_OBJECTS)


def _owner(word: str, words: Mapping[str, Sequence[str]]) -> str | None:
    return next((name for name, names in words.items() if word in names), None)


def _are_texts(phrases: object) -> bool:
    return isinstance(phrases, list) and all(isinstance(phrase, str) for phrase in phrases)
