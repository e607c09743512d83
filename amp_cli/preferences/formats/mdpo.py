"""mDPO: the prompt is the whole text that a Vicuna model reads, role words and image token included."""

import re

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, has_texts, text_of
from amp_cli.records import Frame, Level

_USER = re.compile(r"(?:^|\s|</s>)USER:\s*")
_ASSISTANT = re.compile(r"\s*\bASSISTANT:\s*")
_END = "</s>"


def describes(record: Record) -> bool:
    return has_texts(record, "img_path", "prompt", "chosen", "rejected")


def convert(record: Record, choices: Choices) -> list[Draft]:
    questions, answers, system = read_vicuna(text_of(record, "prompt"))
    chosen, rejected = text_of(record, "chosen"), text_of(record, "rejected")
    return [
        Draft(
            id=own_id(record, "id", "idx"),
            images=images_of(record, "img_path", "image"),
            questions=questions,
            levels=(
                Level(answers=(*answers, chosen), source="chosen"),
                Level(answers=(*answers, rejected), source="rejected"),
            ),
            frame=Frame(system=system or None),
        )
    ]


def read_vicuna(prompt: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return the questions, the answers to all but the last, and the system text of a Vicuna prompt.

    A prompt without role words is one question.

    Raises:
        AmpError: the prompt does not end where the model is to answer.
    """
    system, *rounds = _USER.split(prompt)
    if not rounds:
        return (prompt,), (), ""
    questions, answers = [], []
    for number, text in enumerate(rounds, start=1):
        question, *answer = _ASSISTANT.split(text, maxsplit=1)
        questions.append(question.strip())
        said = answer[0].removesuffix(_END).strip() if answer else ""
        if number < len(rounds):
            answers.append(said)
        elif said:
            raise RecordError("the prompt ends with an answer, not where the model is to answer")
    return tuple(questions), tuple(answers), system.strip()


FORMAT = Format(
    name="mdpo",
    title="mDPO: img_path, prompt (Vicuna text), chosen, rejected",
    describes=describes,
    convert=convert,
)
