"""Our own preferences.jsonl."""

import math

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import ENDLESS, Choices, Draft, Format
from amp_cli.records import Frame, Level, required, texts

RATINGS = ("accuracy", "score")


def describes(record: Record) -> bool:
    return isinstance(record.get("levels"), list)


def convert(record: Record, choices: Choices) -> list[Draft]:
    levels, meta = required(record, "levels"), record.get("meta") or {}
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        raise RecordError(f"'levels' must be a list of objects, not {levels!r:.80}")
    if not isinstance(meta, dict):
        raise RecordError(f"'meta' must be an object, not {meta!r:.80}")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "images"),
            questions=texts(required(record, "questions"), "questions"),
            levels=tuple(_level(level) for level in levels),
            frame=Frame.from_json(record),
            meta=meta,
            notes=(ENDLESS,) * sum(_is_endless(level.get(name)) for level in levels for name in RATINGS),
        )
    ]


def _is_endless(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _level(level: Record) -> Level:
    for name in RATINGS:
        value = level.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RecordError(f"'{name}' of a level must be a number, not {value!r:.80}")
    return Level.from_json(level)


FORMAT = Format(
    name="amp",
    title="preferences.jsonl of amp: id, images, questions, levels",
    describes=describes,
    convert=convert,
    has_image_tokens=False,
)
