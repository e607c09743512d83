"""Reads dialogues: turns in LLaVA's and OpenAI's fields, images in their rounds, and standard answers.

Images are asked for in three ways, which one dialogue does not mix: `<image>` in a question, an image part without
content in a message (a place), and an image part that brings the image itself.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from amp_cli.dialogues.named_images import Record, SourceImage, image_of_part, images_of
from amp_cli.errors import RecordError
from amp_cli.records import Frame, Level, texts

IMAGE_TOKEN = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Brought = tuple[int, SourceImage | None]
"""The round, from 0, of an image that stands in a message; None is a place for one of the record's images."""
_OTHER_FIELD = re.compile(r"(?:rejected_)?(video|audio)s?(?:_(?:path|file|url|name)s?)?")
_OTHER_PART = re.compile(r"(?:input_)?(video|audio)(?:_url)?")
_OTHER_TOKEN = re.compile(r"<(video|audio)>")
_INSIDE = re.compile(r"\S\s*<image>(?=\s*(?!<image>|\s)\S)")
_TOKEN_WITH_ITS_BREAK = re.compile(r"[ \t]?\n?<image>\s*$|<image>[ \t]*\n?")


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Questions and answers in turn; the last question may be without an answer."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    system: str | None = None
    brought: tuple[Brought, ...] = ()

    @property
    def awaits_answer(self) -> bool:
        return len(self.questions) == len(self.answers) + 1

    @property
    def frame(self) -> Frame:
        """The frame as far as turns tell it; where images stand is known when they are placed."""
        return Frame(system=self.system)

    def without_last_answer(self) -> "Dialogue":
        """Return the dialogue up to its last question."""
        return Dialogue(
            questions=self.questions,
            answers=self.answers[: len(self.questions) - 1],
            system=self.system,
            brought=self.brought,
        )

    def level(self, last: str, source: str) -> Level:
        """Return the level whose last answer is `last`; the earlier ones are the dialogue's."""
        return Level(answers=(*self.answers, last), source=source)


def is_turns(value: object) -> bool:
    """Say whether it looks like a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("value" in turn or "content" in turn) for turn in value)
    )


def read_turns(turns: object, what: str) -> Dialogue:
    """Return the dialogue of a list of turns.

    Raises:
        AmpError: it is none, a turn has no text, or the speakers do not take turns beginning with the user.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise RecordError(f"'{what}' must be a list of turns, not {turns!r:.80}")
    said: dict[str, list[str]] = {"user": [], "assistant": [], "system": []}
    brought: list[Brought] = []
    for number, turn in enumerate(turns, start=1):
        role, text, images = read_turn(turn, f"turn {number} of '{what}'")
        expected = "user" if len(said["user"]) == len(said["assistant"]) else "assistant"
        if role == "system" and number == 1:
            said["system"] += [text] if text.strip() else []
            continue
        if role != expected:
            raise RecordError(f"turn {number} of '{what}' is from the {role}, the {expected}'s was expected")
        if images and role == "assistant":
            raise RecordError(f"turn {number} of '{what}' is an answer with an image")
        brought += [(len(said["user"]), image) for image in images]
        said[role].append(text)
    if not said["user"]:
        raise RecordError(f"'{what}' has no question")
    return Dialogue(
        questions=tuple(said["user"]),
        answers=tuple(said["assistant"]),
        system=said["system"][0] if said["system"] else None,
        brought=tuple(brought),
    )


def read_turn(turn: object, what: str) -> tuple[str, str, tuple[SourceImage | None, ...]]:
    """Return a turn's role (`user`, `assistant`, `system`), text, and its images, None for a place without one."""
    if not isinstance(turn, dict):
        raise RecordError(f"{what} must be an object, not {turn!r:.80}")
    said_by = turn.get("from", turn.get("role"))
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise RecordError(f"{what} is from {said_by!r:.80}, who is not known")
    text, images = _content(turn["value"] if "value" in turn else turn.get("content"), what)
    return role, text, images


def answer_of(value: object, what: str) -> str:
    """Return the one answer of a text, a turn, or a list of one turn."""
    if isinstance(value, str):
        return value
    turn = value[0] if isinstance(value, list) and len(value) == 1 else value
    role, text, images = read_turn(turn, f"'{what}'")
    if role != "assistant" or images:
        raise RecordError(f"'{what}' must be an answer of the assistant")
    return text


def _content(value: object, what: str) -> tuple[str, tuple[SourceImage | None, ...]]:
    """Return the text of a message and its images; of a list of parts the texts are joined."""
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, list):
        raise RecordError(f"{what} has no text")
    texts: list[str] = []
    images: list[SourceImage | None] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            images += image_of_part(part) or (None,)
        elif isinstance(kind, str) and (other := _OTHER_PART.fullmatch(kind)):
            raise RecordError(cannot_use(other[1]))
        else:
            raise RecordError(f"{what} holds {part!r:.80}, which is neither text nor image")
    return "".join(texts), tuple(images)


def cannot_use(kind: str) -> str:
    """Return the reason why a record with video or audio gives no item."""
    return f"{kind} cannot be used, only images"


def refuse_other_media(record: Record) -> None:
    """Refuse a record that names a video or a sound in any field: without it, its texts would be about nothing."""
    for name, value in record.items():
        if value not in (None, "", [], ()) and (found := _OTHER_FIELD.fullmatch(str(name).lower())):
            raise RecordError(cannot_use(found[1]))


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A dialogue's questions without tokens, its images in order, and for each image the round it is shown in."""

    questions: tuple[str, ...]
    images: tuple[SourceImage, ...]
    image_rounds: tuple[int, ...]
    notes: tuple[str, ...]


MOVED = "an image that stood inside a question was put before it"


def place_images(questions: Sequence[str], images: tuple[SourceImage, ...], brought: Sequence[Brought] = ()) -> Placed:
    """Take the image tokens out of the questions, and give each image the round that asks for it.

    Images that nothing asks for all stand with the first question, as always.

    Raises:
        AmpError: another number of images than is asked for, several inside one sentence, a video or audio token, or a
            question that is nothing but tokens.
    """
    for question in questions:
        if other := _OTHER_TOKEN.search(question):
            raise RecordError(cannot_use(other[1]))
    asked = [number for number, question in enumerate(questions) for _ in range(question.count(IMAGE_TOKEN))]
    asked = sorted(asked + [number for number, image in brought if image is None])
    own = tuple((number, image) for number, image in brought if image is not None)
    if own and not images and not asked:
        images, rounds = tuple(image for _, image in own), [number for number, _ in own]
    else:
        rounds = sorted(asked + [number for number, _ in own]) or [0] * len(images)
    if rounds and not images:
        raise RecordError(f"a question holds {IMAGE_TOKEN} but the item names no image")
    if len(rounds) != len(images):
        raise RecordError(f"the questions ask for {len(rounds)} images, the item has {len(images)}")
    inside = [len(_INSIDE.findall(question)) for question in questions]
    if max(inside) > 1:
        raise RecordError(
            "a question speaks of several images by their places inside it; they can only stand before it"
        )
    cleaned = tuple(without_image_token(question) for question in questions)
    for number, question in enumerate(cleaned, start=1):
        if not question.strip():
            raise RecordError(f"the question of round {number} is empty")
    return Placed(questions=cleaned, images=images, image_rounds=tuple(rounds), notes=(MOVED,) * sum(inside))


def refuse_tokens_in_answers(answers: Sequence[str]) -> None:
    """Refuse an answer with the marker of an image: an answer has no image."""
    if held := next((answer for answer in answers if IMAGE_TOKEN in answer), None):
        raise RecordError(f"an answer holds {IMAGE_TOKEN}: {held!r:.80}")


def without_image_token(question: str) -> str:
    """Return a question without the tokens that stand for images and the line break that comes with each."""
    return _TOKEN_WITH_ITS_BREAK.sub("", question) if IMAGE_TOKEN in question else question


def own_id(record: Record, *names: str, prefix: str = "") -> str | None:
    """Return the record's own id: the first of the fields that holds a text or a whole number."""
    for name in names:
        value = record.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{prefix}{value}"
        if isinstance(value, str) and value.strip():
            return f"{prefix}{value}"
    return None


def derived_id(
    images: Sequence[SourceImage],
    questions: Sequence[str],
    answers: Sequence[str] | Sequence[Sequence[str]],
    frame: Frame,
) -> str:
    """Return the id of a record without one: the same wherever and whenever the same content is read.

    Blanks at the ends and image tokens do not count; so one dialogue has one id in each project's layout.
    """
    named = [sha256(image.content).hexdigest() if image.content is not None else image.names[0] for image in images]
    said = [_bare(one) if isinstance(one, str) else [_bare(answer) for answer in one] for one in answers]
    content: list[Any] = [named, [_bare(question) for question in questions], said]
    if frame.system is not None:
        content.append(frame.system)
    text = json.dumps(content, ensure_ascii=False)
    return f"item-{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _bare(text: str) -> str:
    return text.replace(IMAGE_TOKEN, "").strip()


def same_questions(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether two dialogues ask the same, wherever their image tokens stand."""
    return [without_image_token(text).strip() for text in one] == [without_image_token(text).strip() for text in other]


def first_of(record: Record, *names: str) -> str:
    """Return the first of the fields that the record has (the last one where it has none), for messages."""
    return next((name for name in names if record.get(name) is not None), names[-1])


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
