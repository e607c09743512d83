"""LLaMA-Factory's sharegpt ranking layout: conversations up to the question, chosen and rejected as one turn each."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import answer_of, first_of, is_turns, own_id, read_turns
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format


def describes(record: Record) -> bool:
    dialogue = record.get(first_of(record, "conversations", "messages"))
    return is_turns(dialogue) and all(isinstance(record.get(name), dict) for name in ("chosen", "rejected"))


def convert(record: Record, choices: Choices) -> list[Draft]:
    name = first_of(record, "messages", "conversations")
    dialogue = read_turns(record.get(name), name)
    if not dialogue.awaits_answer:
        raise RecordError(f"'{name}' must end with a question")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "images", "image"),
            questions=dialogue.questions,
            levels=tuple(dialogue.level(answer_of(record.get(name), name), name) for name in ("chosen", "rejected")),
            brought=dialogue.brought,
            frame=dialogue.frame,
        )
    ]


FORMAT = Format(
    name="llama-factory",
    title="LLaMA-Factory sharegpt: conversations, chosen, rejected (one turn each), images",
    describes=describes,
    convert=convert,
)
