"""VL-RLHF's plain_dpo: an image, a prompt and a pair."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.preferences.formats.draft import Choices, Draft, Format, has_texts, kept, one_round, text_of


def describes(record: Record) -> bool:
    return (
        has_texts(record, "prompt", "chosen", "rejected")
        and isinstance(record.get("image"), str | dict | bytes)
        and not isinstance(record.get("img_path"), str)
    )


def convert(record: Record, choices: Choices) -> list[Draft]:
    return [
        Draft(
            id=own_id(record, "id", "idx"),
            images=images_of(record, "image"),
            questions=(text_of(record, "prompt"),),
            levels=(one_round(text_of(record, "chosen"), "chosen"), one_round(text_of(record, "rejected"), "rejected")),
            meta=kept(record, "dataset", "source"),
        )
    ]


FORMAT = Format(
    name="plain-dpo",
    title="VL-RLHF's plain_dpo: image, prompt, chosen, rejected",
    describes=describes,
    convert=convert,
)
