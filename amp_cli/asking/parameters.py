"""Which parameter a refusal means: servers name it in a field, or only in their words."""

import re
from collections.abc import Collection, Mapping
from typing import Any

OPTIONAL = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "response_format")
"""Parameters that are left out where an endpoint says that its model does not take them."""
LIMITS = ("max_tokens", "max_completion_tokens")
_WORDS = {"response_format": r"json[ _-]?schema|structured[ _-]?outputs?|guided[ _-]\w+|json mode|grammar"}
_OF_ITS_SIZE = re.compile(
    r"too (?:large|high|big|long)|at most|exceed|maximum|less than|greater than|limit of|must be", re.I
)
_INSTEAD = re.compile(r"\b(?:use|try|did you mean|instead of|replaced by)\b.*", re.I | re.S)
_STATUSES = (400, 422, 500, 501)
"""With these an endpoint may refuse a parameter by name."""


def refused_parameters(status: int, param: str | None, said: str, sent: Collection[str]) -> set[str]:
    """Return the parameters to leave out from now on; none where the refusal is of something else.

    A limit of tokens whose size is refused stays: it is not the parameter that is at fault.

    Args:
        param: the field in which some servers name it. said: the server's words. sent: the names that were sent.
    """
    named = {param} if param in OPTIONAL else set()
    if status in _STATUSES and not named:
        named = _named_in(_INSTEAD.sub("", said), sent) or _named_in(said, sent)
    named &= set(sent)
    if named & set(LIMITS) and _OF_ITS_SIZE.search(_without_names(said)):
        named -= set(LIMITS)
        if not named:
            return set()
    if not named and status in (400, 422) and "response_format" in sent:  # not every server says what it minds
        named = {"response_format"}
    return named


def _named_in(said: str, sent: Collection[str]) -> set[str]:
    return {
        name
        for name in OPTIONAL
        if name in sent and re.search(rf"(?<!\w)(?:{name}|{_WORDS.get(name, name)})(?!\w)", said, re.I)
    }


def _without_names(said: str) -> str:
    return re.sub("|".join(sorted(LIMITS, key=len, reverse=True)), "", said)


def accepted(sampling: Mapping[str, Any], unsupported: Collection[str]) -> dict[str, Any]:
    """Return the parameters to send: a limit that is refused under its old name goes by its new one."""
    sent = dict(sampling)
    if "max_tokens" in unsupported and "max_tokens" in sent:
        sent["max_completion_tokens"] = sent["max_tokens"]
    return {name: value for name, value in sent.items() if name not in unsupported}
