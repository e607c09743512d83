"""LLaVA-RLHF's human preferences: `output_1` and `output_2` are single answers, `preference` names the better."""

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import answer_of, own_id, read_turns
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format

OUTPUTS = ("output_1", "output_2")
TAKEN = {"id", "image", "conversations", "system", *OUTPUTS}


def describes(record: Record) -> bool:
    return all(isinstance(record.get(name), dict) for name in OUTPUTS) and isinstance(record.get("conversations"), list)


def convert(record: Record, choices: Choices) -> list[Draft]:
    preference = record.get("preference")
    if isinstance(preference, bool) or preference not in (1, 2, "1", "2"):
        raise RecordError(f"'preference' must be 1 or 2, not {preference!r:.80}")
    better = OUTPUTS[int(preference) - 1]
    dialogue = read_turns(record.get("conversations"), "conversations").without_last_answer()
    order = sorted(OUTPUTS, key=lambda name: name != better)
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "image", "images"),
            questions=dialogue.questions,
            levels=tuple(dialogue.level(answer_of(record.get(name), name), name) for name in order),
            brought=dialogue.brought,
            frame=dialogue.frame,
            meta={name: value for name, value in record.items() if name not in TAKEN and _is_simple(value)},
        )
    ]


def _is_simple(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


FORMAT = Format(
    name="llava-rlhf",
    title="LLaVA-RLHF: conversations, output_1 and output_2 as single answers, preference 1 or 2",
    describes=describes,
    convert=convert,
)
