"""ShareGPT4V, LLaVA-Instruct and OpenAI's messages: one response each, the standard of `amp generate-prefs`."""

from amp_cli.dialogues.named_images import Record
from amp_cli.dialogues.turns import first_of, is_turns, own_id, read_standard
from amp_cli.preferences.formats.draft import Choices, Draft, Format, kept
from amp_cli.records import Level

PREFERRED = (
    "rejected_conversations",
    "chosen",
    "rejected",
    "output_1",
    "output_2",
    "preference_values",
    "rejected_response",
    "rejected_messages",
    "responses",
    "answers",
)


def describes(record: Record) -> bool:
    dialogue = record.get(first_of(record, "conversations", "messages"))
    return is_turns(dialogue) and not any(record.get(name) is not None for name in PREFERRED)


def convert(record: Record, choices: Choices) -> list[Draft]:
    dialogue = read_standard(record)
    return [
        Draft(
            id=own_id(record, "id"),
            images=dialogue.raw_images,
            questions=dialogue.raw_questions,
            levels=(Level(answers=dialogue.answers, source="standard"),),
            brought=dialogue.brought,
            frame=dialogue.frame,
            meta=kept(record, "model"),
        )
    ]


FORMAT = Format(
    name="llava-instruct",
    title="ShareGPT4V and LLaVA-Instruct: image, conversations or messages (standard responses, no preferences)",
    describes=describes,
    convert=convert,
    is_standard_only=True,
)
