"""ShareGPT4V and LLaVA-Instruct: dialogues with one response, which is the standard of `amp generate-prefs`."""

from amp_cli.errors import AmpError
from amp_cli.preferences.formats.dialogue import is_turns, read_turns
from amp_cli.preferences.formats.draft import Choices, Draft, Format, Record, kept, own_id
from amp_cli.preferences.formats.images import images_of
from amp_cli.records import Level

PREFERRED = ("rejected_conversations", "chosen", "rejected", "output_1", "output_2", "preference_values")


def describes(record: Record) -> bool:
    return is_turns(record.get("conversations")) and not any(record.get(name) is not None for name in PREFERRED)


def convert(record: Record, choices: Choices) -> list[Draft]:
    dialogue = read_turns(record.get("conversations"), "conversations")
    if dialogue.awaits_answer:
        raise AmpError("the last question has no answer")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "image", "images"),
            questions=dialogue.questions,
            levels=(Level(answers=dialogue.answers, source="standard"),),
            meta={**dialogue.meta, **kept(record, "model")},
        )
    ]


FORMAT = Format(
    name="llava-instruct",
    title="ShareGPT4V and LLaVA-Instruct: image, conversations (standard responses, no preferences)",
    describes=describes,
    convert=convert,
    is_standard_only=True,
)
