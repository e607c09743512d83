"""The AMP authors' training data: `output_1` .. `output_K`, each a whole dialogue, the first the best."""

import re

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import Dialogue, is_turns, own_id, read_turns, same_questions
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, kept
from amp_cli.records import Level

_OUTPUT = re.compile(r"output_([1-9]\d{0,3})")


def describes(record: Record) -> bool:
    outputs = _outputs(record)
    return len(outputs) >= 2 and all(is_turns(record[name]) for name in outputs)


def convert(record: Record, choices: Choices) -> list[Draft]:
    dialogues = [(name, read_turns(record[name], name)) for name in _outputs(record)]
    if not dialogues:
        raise RecordError("there is no 'output_1'")
    first = dialogues[0][1]
    for name, dialogue in dialogues:
        _refuse_misfit(name, dialogue, first)
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "image", "images"),
            questions=first.questions,
            levels=tuple(Level(answers=dialogue.answers, source=name) for name, dialogue in dialogues),
            brought=first.brought,
            frame=first.frame,
            meta=kept(record, "meta"),
        )
    ]


def _outputs(record: Record) -> list[str]:
    """Return the names of the outputs that are there, by number; tables fill what an item lacks with null."""
    numbers = [int(found[1]) for name in record if record[name] is not None and (found := _OUTPUT.fullmatch(name))]
    return [f"output_{number}" for number in sorted(numbers)]


def _refuse_misfit(name: str, dialogue: Dialogue, first: Dialogue) -> None:
    if dialogue.awaits_answer:
        raise RecordError(f"the last question of '{name}' has no answer")
    if not same_questions(dialogue.questions, first.questions):
        raise RecordError(f"'{name}' asks other questions than the first output")


FORMAT = Format(
    name="amp-authors",
    title="the AMP authors' JSON: image, output_1 .. output_K as whole dialogues",
    describes=describes,
    convert=convert,
)
