"""TRL's preference layout: prompt, chosen and rejected as messages or plain texts, pictures in `images`."""

from amp_cli.errors import AmpError
from amp_cli.preferences.importers.dialogue import Dialogue, answer_of, is_turns, read_turns, same_questions
from amp_cli.preferences.importers.draft import Choices, Draft, Format, Record, has_texts, kept, own_id
from amp_cli.preferences.importers.pictures import pictures_of
from amp_cli.records import Level


def describes(record: Record) -> bool:
    if is_turns(record.get("chosen")) and is_turns(record.get("rejected")):
        return record.get("prompt") is None or is_turns(record["prompt"])
    is_plain = has_texts(record, "prompt", "chosen", "rejected")
    return is_plain and record.get("image") is None and record.get("img_path") is None


def convert(record: Record, choices: Choices) -> list[Draft]:
    if record.get("prompt") is None:
        chosen, rejected, dialogue = _with_the_prompt_inside(record)
    else:
        dialogue = _prompt(record["prompt"])
        chosen, rejected = (dialogue.level(answer_of(record.get(name), name), name) for name in ("chosen", "rejected"))
    return [
        Draft(
            id=own_id(record, "id"),
            pictures=pictures_of(record, "images", "image") or dialogue.pictures,
            questions=dialogue.questions,
            levels=(chosen, rejected),
            meta={**dialogue.meta, **kept(record, "score_chosen", "score_rejected", "margin")},
        )
    ]


def _prompt(prompt: object) -> Dialogue:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    dialogue = read_turns(turns, "prompt")
    if not dialogue.awaits_answer:
        raise AmpError("'prompt' must end with a question")
    return dialogue


def _with_the_prompt_inside(record: Record) -> tuple[Level, Level, Dialogue]:
    """Read chosen and rejected that are whole dialogues, as TRL allows."""
    chosen, rejected = (read_turns(record.get(name), name) for name in ("chosen", "rejected"))
    if chosen.awaits_answer or rejected.awaits_answer:
        raise AmpError("the last question has no answer")
    if not same_questions(chosen.questions, rejected.questions):
        raise AmpError("'chosen' and 'rejected' ask other questions")
    levels = (Level(answers=chosen.answers, source="chosen"), Level(answers=rejected.answers, source="rejected"))
    return *levels, chosen


FORMAT = Format(
    name="trl",
    title="TRL: images, prompt, chosen, rejected as messages or texts",
    describes=describes,
    convert=convert,
)
