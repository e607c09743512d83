"""RLAIF-V: pairs of one question and image, several of which may form one order of more levels."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.preferences.formats.draft import Choices, Draft, Format, has_texts, kept, one_round, text_of


def describes(record: Record) -> bool:
    return has_texts(record, "question", "chosen", "rejected")


def convert(record: Record, choices: Choices) -> list[Draft]:
    return [
        Draft(
            id=own_id(record, "id") or own_id(record, "idx", prefix="rlaif-v-"),
            images=images_of(record, "image", "images", "image_path"),
            questions=(text_of(record, "question"),),
            levels=(one_round(text_of(record, "chosen"), "chosen"), one_round(text_of(record, "rejected"), "rejected")),
            meta=kept(record, "ds_name", "origin_dataset", "origin_split", "image_path", "logps"),
        )
    ]


FORMAT = Format(
    name="rlaif-v",
    title="RLAIF-V: image, question, chosen, rejected",
    describes=describes,
    convert=convert,
    is_grouped=True,
)
