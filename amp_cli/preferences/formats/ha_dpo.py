"""HA-DPO: descriptions in several wordings (desc_data.json) and yes/no questions (pope_data.json) on Visual Genome."""

from amp_cli.dialogues.named_images import Record, SourceImage, checked_name
from amp_cli.dialogues.turns import own_id
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import (
    KEY,
    Choices,
    Draft,
    Format,
    has_texts,
    kept,
    one_round,
    text_of,
)
from amp_cli.records import texts

QUESTION = "Describe this image in detail."
"""The descriptions come without a question; the data set's prompt is one like this."""
FOLDERS = ("VG_100K/", "VG_100K_2/", "")
"""Visual Genome is two folders; which one holds an image is not in the data."""
UNPAIRED = "a wording without a counterpart was left out"


def describes(record: Record) -> bool:
    return _image_id(record) is not None and (_is_description(record) or _is_question(record))


def convert(record: Record, choices: Choices) -> list[Draft]:
    image_id = _image_id(record)
    if image_id is None:
        raise RecordError("there is no 'image_id'")
    images = (SourceImage(names=tuple(checked_name(f"{folder}{image_id}.jpg") for folder in FOLDERS)),)
    if "question" in record:
        return [_of_question(record, image_id, images)]
    chosen, rejected = (texts(record.get(name), name) for name in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise RecordError("'chosen' and 'rejected' must have a wording each")
    return [
        Draft(
            id=f"ha-dpo-desc-{image_id}-{number}",
            images=images,
            questions=(QUESTION,),
            levels=(one_round(good, "chosen"), one_round(bad, "rejected")),
            meta={"image_id": image_id, "wording": number},
            notes=(UNPAIRED,) * abs(len(chosen) - len(rejected)) if number == 0 else (),
        )
        for number, (good, bad) in enumerate(zip(chosen, rejected, strict=False))
    ]


def _of_question(record: Record, image_id: str, images: tuple[SourceImage, ...]) -> Draft:
    if record.get("correct") is True:
        raise RecordError("the model's answer was correct: there is nothing to prefer")
    return Draft(
        id=None,
        images=images,
        questions=(text_of(record, "question"),),
        levels=(one_round(text_of(record, "chosen"), "chosen"), one_round(text_of(record, "reject"), "rejected")),
        meta={"image_id": image_id, **kept(record, "answer", "correct")},
    )


def _image_id(record: Record) -> str | None:
    return own_id(record, "image_id", KEY)


def _is_description(record: Record) -> bool:
    return all(isinstance(record.get(name), list) for name in ("chosen", "rejected")) and all(
        isinstance(text, str) for name in ("chosen", "rejected") for text in record[name]
    )


def _is_question(record: Record) -> bool:
    return has_texts(record, "question", "chosen", "reject")


FORMAT = Format(
    name="ha-dpo",
    title="HA-DPO: desc_data.json (chosen, rejected by image id) and pope_data.json (question, chosen, reject)",
    describes=describes,
    convert=convert,
)
