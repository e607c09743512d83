"""MM-RLHF: three to five answers of a prompt, with scores or ranks beside them or inside them."""

from typing import Any

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import Dialogue, own_id, read_turns
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, levels_by_rating, number_of, text_of

ANSWERS = ("responses", "answers")
TEXTS = ("response", "text", "answer", "content", "value")
RANKS = ("rank", "ranking")
SCORES = ("score", "rating")


def describes(record: Record) -> bool:
    answers = _answers(record)
    return len(answers) >= 2 and any(_rating(record, answers, number)[0] is not None for number in range(len(answers)))


def convert(record: Record, choices: Choices) -> list[Draft]:
    answers = _answers(record)
    if not answers:
        raise RecordError("'responses' must be a list of answers")
    questions, history = _questions(record)
    ratings = [_rating(record, answers, number) for number in range(len(answers))]
    kinds = {is_rank for value, is_rank in ratings if value is not None}
    if len(kinds) > 1:
        raise RecordError("some answers have a rank, others a score: the two cannot be compared")
    levels = [history.level(*_text_and_source(answer, number)) for number, answer in enumerate(answers, start=1)]
    by_rank = kinds == {True}
    rated = levels_by_rating(
        [(level, number_of(value)) for level, (value, _) in zip(levels, ratings, strict=True)],
        ties=choices.ties,
        lower_is_better=by_rank,
    )
    return [
        Draft(
            id=own_id(record, "id", "prompt_id"),
            images=images_of(record, "image", "images", "img_path"),
            questions=questions,
            levels=rated.levels,
            brought=history.brought,
            frame=history.frame,
            meta={"ranks" if by_rank else "ratings": list(rated.ratings)},
            notes=rated.notes,
        )
    ]


def _answers(record: Record) -> list[Any]:
    for name in ANSWERS:
        value = record.get(name)
        if isinstance(value, list) and value:
            return value
    return []


def _questions(record: Record) -> tuple[tuple[str, ...], Dialogue]:
    """Return the questions, and the dialogue up to the last of them."""
    if isinstance(record.get("conversations"), list):
        dialogue = read_turns(record["conversations"], "conversations").without_last_answer()
    else:
        name = "question" if "question" in record else "prompt"
        dialogue = read_turns([{"from": "human", "value": text_of(record, name)}], name)
    return dialogue.questions, dialogue


def _text_and_source(answer: object, number: int) -> tuple[str, str]:
    if isinstance(answer, str):
        return answer, f"answer {number}"
    if isinstance(answer, dict):
        for name in TEXTS:
            if isinstance(answer.get(name), str):
                return answer[name], own_id(answer, "model", "source") or f"answer {number}"
    raise RecordError(f"answer {number} of 'responses' has no text")


def _rating(record: Record, answers: list[Any], number: int) -> tuple[Any, bool]:
    """Return an answer's rank or score as it is given (ranks first: they are the annotators' last word), and which."""
    for names, is_rank in ((RANKS, True), (SCORES, False)):
        for name in names:
            beside = record.get(f"{name}s")
            if isinstance(beside, list) and len(beside) == len(answers):
                return beside[number], is_rank
            if isinstance(answers[number], dict) and answers[number].get(name) is not None:
                return answers[number][name], is_rank
    return None, False


FORMAT = Format(
    name="mm-rlhf",
    title="MM-RLHF: prompt, responses with scores or ranks",
    describes=describes,
    convert=convert,
)
