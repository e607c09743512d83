"""What goes over the wire: address, connection, parameters that a server refuses, and the reply; all of it bounded."""

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from amp_cli.addresses import is_api_version, shown_address
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    import httpx2


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


BEYOND_OPENAI = ("repetition_penalty",)
"""What vLLM and SGLang take beside OpenAI's own parameters."""
OPTIONAL = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "response_format", *BEYOND_OPENAI)
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


FEWEST_TOKENS = 16
"""An answer with less room is not asked for."""
_CONTEXT = re.compile(r"context length (?:of |is (?:only )?)(\d+)", re.I)
_PROMPT = re.compile(
    r"\((\d+) in the messages|(\d+) tokens from the input messages|your request has (\d+) input|passed (\d+) input",
    re.I,
)
_TOO_LONG = re.compile(r"prompt contains at least (\d+) input", re.I)


def room_left(status: int, said: str, max_tokens: int | None) -> int | None:
    """Return how many tokens a refused request may ask for: what its prompt leaves of the served model's context.

    vLLM and SGLang refuse a prompt whose answer might not fit, and name both numbers. Where vLLM has only counted the
    prompt up to the limit, it is half of what was asked for. None where the refusal is of something else.
    """
    context = _CONTEXT.search(said)
    if status != 400 or context is None or max_tokens is None:
        return None
    limit, prompt, least = int(context[1]), _PROMPT.search(said), _TOO_LONG.search(said)
    if prompt is not None:
        left = limit - int(next(filter(None, prompt.groups())))
    elif least is not None:
        left = min(limit - int(least[1]), max_tokens // 2)
    else:
        return None
    return left if left < max_tokens else None


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


API_VERSION = "api-version"
"""The one parameter that an address may end in: classic Azure wants it with every request."""


def endpoint_url(url: str, *, who: str, option: str) -> tuple[str, str | None]:
    """Return an endpoint's address without a slash at its end, and the `api-version` it ends in, None without.

    Raises:
        AmpError: not an http(s) address, or one that holds a password or a query (where keys hide); it is not repeated.
    """
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
    if not port_is_number or parts.scheme not in ("http", "https") or not parts.hostname:
        raise AmpError(f"{option} is not an http or https address", hint="As in http://127.0.0.1:8000/v1")
    query = parse_qsl(parts.query, keep_blank_values=True)
    version = query[0][1] if [name for name, _ in query] == [API_VERSION] else None
    has_query = bool(parts.query) and not is_api_version(version)
    if parts.username is not None or parts.password is not None or has_query or parts.fragment:
        raise AmpError(
            f"The address of the {who} at '{parts.hostname}' holds a user name, a password or a query",
            hint="Give the plain address; the key comes from OPENAI_API_KEY. Of a query only ?api-version= is taken",
        )
    return parts._replace(query="").geturl().rstrip("/?"), version


def deployment_of(url: str, model: str) -> str:
    """Return the address of a model's deployment in classic Azure, whether `url` is it or only leads there."""
    url = url.removesuffix("/chat/completions")
    if "/deployments/" in url:
        return url
    return f"{url.removesuffix('/openai')}/openai/deployments/{quote(model, safe='')}"


LARGEST_REPLY = 4 << 20
"""Bytes. No reply of a model is longer; what goes on is not read."""


class ReplyTooLargeError(Exception):
    """A reply went on past `LARGEST_REPLY`, or was packed so that its size is not known."""


def open_wire(url: str, timeout: float) -> "httpx2.AsyncClient":
    """Return a client for an endpoint: prompts and keys go to it alone, whatever it redirects to.

    Raises:
        AmpError: a proxy or a certificate file of the environment cannot be used.
    """
    import openai

    try:
        return openai.DefaultAsyncHttpxClient(
            timeout=timeout,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},  # a packed reply may unpack to anything
            event_hooks={"response": [_bound]},
        )
    except (ValueError, ImportError, OSError) as error:  # before anything is sent: what the environment says is wrong
        proxy = proxy_of(url)
        what = f"the proxy {proxy}" if proxy else "the certificates that SSL_CERT_FILE or SSL_CERT_DIR names"
        raise AmpError(
            f"No connection to '{shown_address(url)}' can be made with {what}: {shown_address(str(error)):.200}",
            hint="Mend or unset that variable of the environment; NO_PROXY names hosts that need no proxy",
        ) from None


async def _bound(response: "httpx2.Response") -> None:
    """Have a response's body end with an error where it grows past the bound."""
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise ReplyTooLargeError("the reply is packed, though that was not asked for")
    response.stream = _bounded(response.stream)


def _bounded(stream: object) -> "httpx2.AsyncByteStream":
    import httpx2

    assert isinstance(stream, httpx2.AsyncByteStream)
    inner = stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for block in inner:
                size += len(block)
                if size > LARGEST_REPLY:
                    raise ReplyTooLargeError(f"the reply is longer than {LARGEST_REPLY >> 20} MiB")
                yield block

        async def aclose(self) -> None:
            await inner.aclose()

    return Bounded()


def proxy_of(url: str) -> str:
    """Return the proxy that the environment names for an address, and by which variable; "" where there is none."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return ""
    proxies: Mapping[str, str] = getproxies()
    for kind in (parts.scheme, "all"):
        if proxy := proxies.get(kind):
            shown = shown_address(proxy if "://" in proxy else f"http://{proxy}")
            return f"'{shown}' of {kind.upper()}_PROXY"
    return ""
