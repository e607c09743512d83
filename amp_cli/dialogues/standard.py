"""Reads a dialogue with its standard answers: what `generate-prefs`, imports and `sft` start from."""

from dataclasses import dataclass

from amp_cli.dialogues.named_images import Record, SourceImage, images_of
from amp_cli.dialogues.turns import (
    Brought,
    derived_id,
    first_of,
    place_images,
    read_turns,
    refuse_other_media,
    refuse_tokens_in_answers,
)
from amp_cli.errors import RecordError
from amp_cli.records import Frame, texts


@dataclass(frozen=True, kw_only=True)
class StandardDialogue:
    """A source item before its images are looked for. `raw_questions` hold their image tokens still."""

    raw_questions: tuple[str, ...]
    raw_images: tuple[SourceImage, ...]
    brought: tuple[Brought, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    images: tuple[SourceImage, ...]
    frame: Frame

    @property
    def id(self) -> str:
        """The id of a record that has none."""
        return derived_id(self.images, self.raw_questions, self.answers, self.frame)


def read_standard(record: Record) -> StandardDialogue:
    """Return the record's dialogue: `conversations` or `messages`, or our `questions` and `answers`.

    Blanks at the ends of the texts go: a standard answer is compared with generated ones, which have none.

    Raises:
        AmpError: there is none, an answer is missing, or its images are not those that it asks for.
    """
    refuse_other_media(record)
    frame = Frame.from_json(record)
    brought: tuple[Brought, ...] = ()
    name = first_of(record, "conversations", "messages")
    if name in record:
        dialogue = read_turns(record[name], name)
        questions, answers, brought = dialogue.questions, dialogue.answers, dialogue.brought
        frame = dialogue.frame if dialogue.system is not None else frame
        if not answers:
            raise RecordError("the item has no standard answer")
        if dialogue.awaits_answer:
            raise RecordError("the last question has no answer")
    else:
        questions = _one_or_many(record, "questions", "question", "prompt")
        answers = _one_or_many(record, "answers", "answer")
    if not questions:
        raise RecordError("the item has no question")
    if not answers:
        raise RecordError("the item has no standard answer")
    refuse_tokens_in_answers(answers)
    given = images_of(record, "images", "image")
    placed = place_images(questions, given, brought)
    return StandardDialogue(
        raw_questions=questions,
        raw_images=given,
        brought=brought,
        questions=tuple(question.strip() for question in placed.questions),
        answers=tuple(answer.strip() for answer in answers),
        images=placed.images,
        frame=Frame(system=frame.system, image_rounds=frame.image_rounds or placed.image_rounds),
    )


def _one_or_many(record: Record, *names: str) -> tuple[str, ...]:
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            return (value,)
        if value is not None:
            return texts(value, name)
    return ()
