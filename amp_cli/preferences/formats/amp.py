"""Our own preferences.jsonl."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import Choices, Draft, Format
from amp_cli.records import Frame, Level, required, texts


def describes(record: Record) -> bool:
    return isinstance(record.get("levels"), list)


def convert(record: Record, choices: Choices) -> list[Draft]:
    levels, meta = required(record, "levels"), record.get("meta") or {}
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        raise AmpError(f"'levels' must be a list of objects, not {levels!r:.80}")
    if not isinstance(meta, dict):
        raise AmpError(f"'meta' must be an object, not {meta!r:.80}")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "images"),
            questions=texts(required(record, "questions"), "questions"),
            levels=tuple(_level(level) for level in levels),
            frame=Frame.from_json(record),
            meta=meta,
        )
    ]


def _level(level: Record) -> Level:
    for name in ("accuracy", "score"):
        value = level.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise AmpError(f"'{name}' of a level must be a number, not {value!r:.80}")
    return Level.from_json(level)


FORMAT = Format(
    name="amp",
    title="preferences.jsonl of amp: id, images, questions, levels",
    describes=describes,
    convert=convert,
    has_image_tokens=False,
)
