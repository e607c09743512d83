"""POVID: a dialogue, and the same dialogue with rejected answers."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import is_turns, own_id, read_turns, same_questions
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format
from amp_cli.records import Level


def describes(record: Record) -> bool:
    return is_turns(record.get("conversations")) and is_turns(record.get("rejected_conversations"))


def convert(record: Record, choices: Choices) -> list[Draft]:
    chosen = read_turns(record.get("conversations"), "conversations")
    rejected = read_turns(record.get("rejected_conversations"), "rejected_conversations")
    if chosen.awaits_answer or rejected.awaits_answer:
        raise RecordError("the last question has no answer")
    if not same_questions(chosen.questions, rejected.questions):
        raise RecordError("'rejected_conversations' asks other questions than 'conversations'")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "image", "images"),
            questions=chosen.questions,
            levels=(
                Level(answers=chosen.answers, source="chosen"),
                Level(answers=rejected.answers, source="rejected"),
            ),
            brought=chosen.brought,
            frame=chosen.frame,
        )
    ]


FORMAT = Format(
    name="povid",
    title="POVID: image, conversations, rejected_conversations",
    describes=describes,
    convert=convert,
)
