"""ms-swift: messages that end with the chosen answer, and `rejected_response` or `rejected_messages`."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import Dialogue, is_turns, own_id, read_turns, same_questions
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format
from amp_cli.records import Level, texts


def describes(record: Record) -> bool:
    rejected = record.get("rejected_response")
    is_rejected = is_turns(record.get("rejected_messages")) or isinstance(rejected, str | list)
    return is_turns(record.get("messages")) and is_rejected


def convert(record: Record, choices: Choices) -> list[Draft]:
    if record.get("rejected_images") and record["rejected_images"] != record.get("images"):
        raise RecordError("'rejected_images' are other images; an item has the same at all levels")
    dialogue = read_turns(record.get("messages"), "messages")
    if dialogue.awaits_answer:
        raise RecordError("the last question of 'messages' has no answer")
    best = Level(answers=dialogue.answers, source="chosen")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "images", "image"),
            questions=dialogue.questions,
            levels=(best, Level(answers=answers, source="rejected")),
            brought=dialogue.brought,
            frame=dialogue.frame,
        )
        for answers in _rejected(record, dialogue)
    ]


def _rejected(record: Record, dialogue: Dialogue) -> list[tuple[str, ...]]:
    """Return the rejected answers of all rounds; several rejected responses have no order among themselves."""
    if record.get("rejected_messages") is not None:
        other = read_turns(record["rejected_messages"], "rejected_messages")
        if other.awaits_answer or not same_questions(other.questions, dialogue.questions):
            raise RecordError("'rejected_messages' asks other questions than 'messages'")
        return [other.answers]
    rejected = record.get("rejected_response")
    several = (rejected,) if isinstance(rejected, str) else texts(rejected, "rejected_response")
    if not several:
        raise RecordError("'rejected_response' is empty")
    return [(*dialogue.answers[:-1], text) for text in several]


FORMAT = Format(
    name="ms-swift",
    title="ms-swift: messages, rejected_response or rejected_messages, images",
    describes=describes,
    convert=convert,
)
