"""Reads the turns of a dialogue in LLaVA's (`from`, `value`) and OpenAI's (`role`, `content`) fields."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import Record, SourceImage
from amp_cli.preferences.formats.images import image_of_part
from amp_cli.preferences.sources import IMAGE_TOKEN
from amp_cli.records import Level

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TOKEN_WITH_ITS_BREAK = re.compile(r"[ \t]?\n?<image>\s*$|<image>[ \t]*\n?")


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Questions and answers in turn; the last question may be without an answer. `images` stood in the messages."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    system: str | None = None
    images: tuple[SourceImage, ...] = ()

    @property
    def awaits_answer(self) -> bool:
        return len(self.questions) == len(self.answers) + 1

    @property
    def meta(self) -> dict[str, Any]:
        """What an item's meta keeps of it."""
        return {} if self.system is None else {"system": self.system}

    def without_last_answer(self) -> "Dialogue":
        """Return the dialogue up to its last question."""
        return Dialogue(
            questions=self.questions,
            answers=self.answers[: len(self.questions) - 1],
            system=self.system,
            images=self.images,
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
        raise AmpError(f"'{what}' must be a list of turns, not {turns!r:.80}")
    said: dict[str, list[str]] = {"user": [], "assistant": [], "system": []}
    images: list[SourceImage] = []
    for number, turn in enumerate(turns, start=1):
        role, text, brought = read_turn(turn, f"turn {number} of '{what}'")
        expected = "user" if len(said["user"]) == len(said["assistant"]) else "assistant"
        if role == "system" and number == 1:
            said["system"].append(text)
            continue
        if role != expected:
            raise AmpError(f"turn {number} of '{what}' is from the {role}, the {expected}'s was expected")
        if brought and role == "assistant":
            raise AmpError(f"turn {number} of '{what}' is an answer with an image")
        said[role].append(text)
        images += brought
    if not said["user"]:
        raise AmpError(f"'{what}' has no question")
    return Dialogue(
        questions=tuple(said["user"]),
        answers=tuple(said["assistant"]),
        system=said["system"][0] if said["system"] else None,
        images=tuple(images),
    )


def read_turn(turn: object, what: str) -> tuple[str, str, tuple[SourceImage, ...]]:
    """Return a turn's role (`user`, `assistant`, `system`), text, and the images it brings along."""
    if not isinstance(turn, dict):
        raise AmpError(f"{what} must be an object, not {turn!r:.80}")
    said_by = turn.get("from", turn.get("role"))
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise AmpError(f"{what} is from {said_by!r:.80}, who is not known")
    text, images = _content(turn["value"] if "value" in turn else turn.get("content"), what)
    return role, text, images


def answer_of(value: object, what: str) -> str:
    """Return the one answer of a text, a turn, or a list of one turn."""
    if isinstance(value, str):
        return value
    turn = value[0] if isinstance(value, list) and len(value) == 1 else value
    role, text, images = read_turn(turn, f"'{what}'")
    if role != "assistant" or images:
        raise AmpError(f"'{what}' must be an answer of the assistant")
    return text


def _content(value: object, what: str) -> tuple[str, tuple[SourceImage, ...]]:
    """Return the text of a message and its images; of a list of parts the texts are joined."""
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, list):
        raise AmpError(f"{what} has no text")
    texts: list[str] = []
    images: list[SourceImage] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            images += image_of_part(part)
        else:
            raise AmpError(f"{what} holds {part!r:.80}, which is neither text nor image")
    return "".join(texts), tuple(images)


def without_image_token(question: str) -> str:
    """Return a question without the tokens that stand for images and the line break that comes with each."""
    return _TOKEN_WITH_ITS_BREAK.sub("", question) if IMAGE_TOKEN in question else question


def same_questions(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether two dialogues ask the same, wherever their image tokens stand."""
    return [without_image_token(text).strip() for text in one] == [without_image_token(text).strip() for text in other]


def first_of(record: Record, *names: str) -> str:
    """Return the first of the fields that the record has (the last one where it has none), for messages."""
    return next((name for name in names if record.get(name) is not None), names[-1])
