"""TRL's preference layout: prompt, chosen and rejected as messages or plain texts, images in `images`."""

from typing import Any

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import Dialogue, is_turns, own_id, read_turns, same_questions
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, has_texts, kept
from amp_cli.records import Level


def describes(record: Record) -> bool:
    if all(is_turns(_as_list(record.get(name))) for name in ("chosen", "rejected")):
        is_alone = all(isinstance(record.get(name), list) for name in ("chosen", "rejected"))
        return is_alone if record.get("prompt") is None else is_turns(record["prompt"])
    is_plain = has_texts(record, "prompt", "chosen", "rejected")
    return is_plain and record.get("image") is None and record.get("img_path") is None


def convert(record: Record, choices: Choices) -> list[Draft]:
    prompt = _prompt(record.get("prompt"))
    chosen, rejected = (_dialogue(prompt, record.get(name), name) for name in ("chosen", "rejected"))
    if not same_questions(chosen.questions, rejected.questions):
        raise RecordError("'chosen' and 'rejected' ask other questions")
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "images", "image"),
            questions=chosen.questions,
            levels=(
                Level(answers=chosen.answers, source="chosen"),
                Level(answers=rejected.answers, source="rejected"),
            ),
            brought=chosen.brought,
            frame=chosen.frame,
            meta=kept(record, "score_chosen", "score_rejected", "margin"),
        )
    ]


def _prompt(prompt: object) -> list[Any]:
    """Return the prompt's turns; without a prompt the completions are whole dialogues, as TRL allows."""
    if prompt is None:
        return []
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list):
        raise RecordError(f"'prompt' must be a text or a list of turns, not {prompt!r:.80}")
    return prompt


def _as_list(completion: object) -> object:
    """Return a completion as a list of turns; some data have its one turn as it is."""
    return [completion] if isinstance(completion, dict) else completion


def _dialogue(prompt: list[Any], completion: object, name: str) -> Dialogue:
    turns = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else _as_list(completion)
    if not isinstance(turns, list):
        raise RecordError(f"'{name}' must be a text or a list of turns, not {completion!r:.80}")
    dialogue = read_turns([*prompt, *turns], name)
    if dialogue.awaits_answer:
        raise RecordError(f"'{name}' has no answer to the last question")
    return dialogue


FORMAT = Format(
    name="trl",
    title="TRL: images, prompt, chosen, rejected as messages or texts",
    describes=describes,
    convert=convert,
)
