"""RLHF-V: question and pair in `text`, as a JSON string or an object."""

import json
from typing import Any

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, has_texts, kept, one_round
from amp_cli.preferences.formats.draft import text_of as field_of


def describes(record: Record) -> bool:
    try:
        return has_texts(_text(record), "question", "chosen", "rejected")
    except AmpError:
        return False


def convert(record: Record, choices: Choices) -> list[Draft]:
    text = _text(record)
    return [
        Draft(
            id=own_id(record, "id") or own_id(record, "idx", prefix="rlhf-v-"),
            images=images_of(record, "image", "image_path"),
            questions=(field_of(text, "question"),),
            levels=(one_round(field_of(text, "chosen"), "chosen"), one_round(field_of(text, "rejected"), "rejected")),
            meta=kept(record, "ds_name", "origin_dataset", "origin_split", "image_path"),
        )
    ]


def _text(record: Record) -> dict[str, Any]:
    text = record.get("text")
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AmpError("'text' is not valid JSON") from error
    if not isinstance(text, dict):
        raise AmpError(f"'text' must be an object or one as JSON, not {text!r:.80}")
    return text


FORMAT = Format(
    name="rlhf-v",
    title="RLHF-V: image, text with question, chosen and rejected as JSON",
    describes=describes,
    convert=convert,
)
