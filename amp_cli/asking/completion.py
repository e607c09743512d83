"""Reads a chat completion, whichever server wrote it: the text that is meant for the reader, and why it ended."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """What came back: the text (None where there was none), why it ended, and what the endpoint says of it."""

    text: str | None
    finish_reason: str | None
    model: str | None
    request_id: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def read_completion(reply: Any) -> ChatReply | None:
    """Return what a completion's JSON says; None where it holds no answer. Reasoning beside the content is not read."""
    if not isinstance(reply, Mapping):
        return None
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return None
    said = _text_of(message.get("content"))
    refusal = message.get("refusal")
    reason, usage = choice.get("finish_reason"), reply.get("usage")
    return ChatReply(
        text=said or (refusal if isinstance(refusal, str) and refusal else said),
        finish_reason=None if reason is None else str(reason),
        model=_name(reply.get("model")),
        request_id=_name(reply.get("id")),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _text_of(content: Any) -> str | None:
    """Return a content's text: the content itself, or its parts of text joined."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts for text in _texts_of_part(part)]
    return "".join(texts) if texts else None


def _texts_of_part(part: Any) -> Iterator[str]:
    """Yield what a part says aloud; thinking, images and the like say nothing."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping) and part.get("type", "text") in ("text", "output_text", "refusal"):
        said = part.get("text", part.get("refusal"))
        said = said.get("value") if isinstance(said, Mapping) else said
        if isinstance(said, str):
            yield said


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and value >= 0 else None
