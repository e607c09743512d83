"""vision-feedback-mix-binarized: a dialogue as JSON text with one answer per preference value at its end."""

from typing import Any

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import Dialogue, answer_of, own_id, read_turns
from amp_cli.disk.parsing import UnreadableError, parse_json
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, kept, levels_by_rating, number_of


def describes(record: Record) -> bool:
    return isinstance(record.get("conversations"), str | list) and record.get("preference_values") is not None


def convert(record: Record, choices: Choices) -> list[Draft]:
    turns = _json(record.get("conversations"), "conversations")
    values = _json(record.get("preference_values"), "preference_values")
    if not isinstance(values, list) or len(values) < 2:
        raise RecordError(f"'preference_values' must hold a number for each answer, not {values!r:.80}")
    dialogue, answers = _question_and_answers(turns, len(values))
    levels = [dialogue.level(answer, f"answer {number}") for number, answer in enumerate(answers, start=1)]
    rated = levels_by_rating(
        [(level, number_of(value)) for level, value in zip(levels, values, strict=True)], ties=choices.ties
    )
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "image", "images", "image_path"),
            questions=dialogue.questions,
            levels=rated.levels,
            brought=dialogue.brought,
            frame=dialogue.frame,
            meta={**kept(record, "dataset", "source"), "ratings": list(rated.ratings)},
            notes=rated.notes,
        )
    ]


def _json(value: object, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except UnreadableError as error:
        raise RecordError(f"'{name}' {error}") from error


def _question_and_answers(turns: object, count: int) -> tuple[Dialogue, list[str]]:
    """Split the turns into the dialogue up to its last question and the `count` answers to that."""
    if not isinstance(turns, list) or len(turns) <= count:
        raise RecordError(f"'conversations' must be a dialogue that ends with {count} answers")
    dialogue = read_turns(turns[:-count], "conversations")
    if not dialogue.awaits_answer:
        raise RecordError(f"'conversations' must have {count} answers after its last question")
    return dialogue, [answer_of(turn, "conversations") for turn in turns[-count:]]


FORMAT = Format(
    name="vision-feedback",
    title="vision-feedback-mix-binarized: conversations as JSON text, preference_values",
    describes=describes,
    convert=convert,
)
