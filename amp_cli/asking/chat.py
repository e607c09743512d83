"""Asks an OpenAI-compatible endpoint for one reply: patient within bounds, its key in no message."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from amp_cli import stopping, ui
from amp_cli.addresses import shown_address
from amp_cli.asking.faults import (
    EnoughError,
    FaultWording,
    ItemRejectedError,
    Patience,
    TransientFault,
    UnheardFault,
    UnreachableError,
    explain_connection,
    explain_status,
    unusable_reply,
    words_of,
)
from amp_cli.asking.wire import (
    BEYOND_OPENAI,
    FEWEST_TOKENS,
    ChatReply,
    ReplyTooLargeError,
    accepted,
    deployment_of,
    open_wire,
    read_completion,
    refused_parameters,
    room_left,
)
from amp_cli.errors import AmpError
from amp_cli.records import MOST_TOKENS, is_storable

if TYPE_CHECKING:
    from openai import AsyncOpenAI


OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"
"""The library sends something; servers that want no key ignore it."""
HOPELESS = 20
"""After so many refused items and not one answer, the set-up is at fault, not the items. So it is after so many
requests in a row that may be paid for and come to nothing alike."""
FEW = 3
"""After so many replies of status 200 that are alike and no answer, and not one answer, the set-up is at fault."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is told of tokens: `count` (prompt, completion, text) of each reply, `lose` of each that was unusable."""

    count: Callable[[int | None, int | None, str], None] = lambda prompt, completion, text: None
    lose: Callable[[], None] = lambda: None


Outcome = TypeVar("Outcome", bound="ChatReply | Exception")


DEAD = 3
"""After so many requests in a row that a server does not reply to, the others get its share."""


class _Server:
    """One address of the model: its connection, whether it asked for the key, and how it fares."""

    def __init__(self, url: str, api_version: str | None, model: str, *, shows_key: bool) -> None:
        self.url = url if api_version is None else deployment_of(url, model)
        self.api_version = api_version
        self.shows_key = shows_key
        self.library: AsyncOpenAI | None = None
        self.is_dead = False
        self.unheard = 0

    @property
    def shown_url(self) -> str:
        return shown_address(self.url)


class ChatClient:
    """One model at one or several addresses, asked in turn. Use it inside `async with client.open()`.

    The key may be empty; an address of `key_at_once` gets it with the first request, others once they ask for one.
    With `may_shorten` fewer tokens are asked for where a prompt leaves no more of the served model's context.

    Attributes:
        api_version: of classic Azure; None for others.
        shown_url: the first address as messages and `run.json` have it.
        unsupported: the parameters that the endpoint turned out not to take.
        fewest_tokens: the least that a prompt left of the model's context, where that was less than was asked for.
        stop: once set, nothing is tried again.
    """

    def __init__(
        self,
        *,
        model: str,
        addresses: Sequence[tuple[str, str | None]],
        key: str,
        timeout: float,
        patience: Patience,
        wording: FaultWording,
        key_at_once: Callable[[str], bool],
        may_shorten: bool = False,
    ) -> None:
        self.model = model
        self.unsupported: set[str] = set()
        self.fewest_tokens: int | None = None
        self.stop = asyncio.Event()
        self._servers = [_Server(url, version, model, shows_key=key_at_once(url)) for url, version in addresses]
        self._turn = 0
        self._may_shorten = may_shorten
        self._key = key
        self._timeout = timeout
        self._patience = patience
        self._wording = wording
        self._has_answered = False
        self._in_vain: tuple[str, int] = ("", 0)

    @property
    def shown_url(self) -> str:
        return self._servers[0].shown_url

    @property
    def api_version(self) -> str | None:
        return self._servers[0].api_version

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect; everything inside runs in one event loop."""
        import openai

        self.stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for server in self._servers:
                library = openai.AsyncOpenAI(
                    api_key=NO_KEY,
                    base_url=server.url,
                    max_retries=0,
                    timeout=self._timeout,
                    default_query={} if server.api_version is None else {"api-version": server.api_version},
                    http_client=open_wire(server.url, self._timeout),
                )
                server.library = await stack.enter_async_context(library)
            yield

    async def reply(
        self, messages: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any], account: Account | None = None
    ) -> ChatReply:
        """Ask until there is a reply, no more than the bounded number of times; each time the next address.

        Args:
            sampling: parameters of the request, among them `max_tokens`.

        Raises:
            ItemRejectedError: this request gets no reply. AmpError: none will, the run has to end.
        """
        account = account or Account()
        attempt = 1
        while True:
            server = self._next_server()
            outcome = await self._ask(server, messages, sampling, account)
            if isinstance(outcome, ChatReply):
                self._has_answered, self._in_vain, server.unheard = True, ("", 0), 0
                return outcome
            if self._goes_to_others(server, outcome) and not self.stop.is_set():
                continue
            if not isinstance(outcome, TransientFault):
                raise outcome
            if outcome.may_be_charged:
                account.lose()
                self._stop_if_all_are_alike(server, outcome)
            if attempt < self._patience.attempts:
                await self._pause(self._patience.delay(attempt, outcome.retry_after))
            if self.stop.is_set() or attempt == self._patience.attempts:
                break
            attempt += 1
        raise ItemRejectedError(f"given up after {attempt} attempt{'s' if attempt > 1 else ''}: {outcome}")

    def _next_server(self) -> _Server:
        """Return the one whose turn it is, of those that live; the last is never dead."""
        alive = [server for server in self._servers if not server.is_dead]
        self._turn += 1
        return alive[self._turn % len(alive)]

    def _goes_to_others(self, server: _Server, outcome: Exception) -> bool:
        """Give up a server that cannot be reached, or is not heard of again and again, where others live.

        Returns whether a request that it had no part in can be put to another at once.
        """
        is_gone = isinstance(outcome, UnreachableError)
        server.unheard = server.unheard + 1 if is_gone or isinstance(outcome, UnheardFault) else 0
        if not is_gone and server.unheard < DEAD:
            return False
        if server.is_dead:
            return is_gone  # another request has found that out
        others = [one for one in self._servers if one is not server and not one.is_dead]
        if others:
            server.is_dead = True
            shown = ", ".join(f"'{one.shown_url}'" for one in others)
            ui.warn(f"{outcome}. From now on {shown} get{'' if len(others) > 1 else 's'} what '{server.shown_url}' had")
        return is_gone and bool(others)

    def hopeless(self, rejected: int, last: str) -> AmpError:
        """Return the end of a run in which nothing was answered and so many requests were rejected."""
        return AmpError(f"The first {rejected} items were all refused. The last: {last}", hint=self._wording.doubt)

    def _stop_if_all_are_alike(self, server: _Server, fault: TransientFault) -> None:
        """End the run where requests that may be paid for come to nothing, one like the other."""
        last, count = self._in_vain
        count = count + 1 if fault.kind == last else 1
        self._in_vain = (fault.kind, count)
        is_few_enough = fault.is_a_reply and not self._has_answered
        if count >= (FEW if is_few_enough else HOPELESS):
            raise self._scrubbed(
                AmpError(
                    f"{count} requests in a row to the {self._wording.who} at '{server.shown_url}' came to nothing: "
                    f"{fault}",
                    hint=f"Does {self._wording.option} lead to chat completions, answered in time, whole and not as a "
                    f"stream? {self._wording.kept.capitalize()} so far are kept",
                )
            )

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _ask(
        self, server: _Server, messages: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any], account: Account
    ) -> ChatReply | Exception:
        """Ask once. A fault is returned, not raised: what the library raised may quote the key and is left behind."""
        import openai

        assert server.library is not None  # open() was entered
        sent = {"model": self.model, "messages": list(messages), **accepted(sampling, self.unsupported)}
        beyond = {name: sent.pop(name) for name in BEYOND_OPENAI if name in sent}
        shows_key = server.shows_key and bool(self._key)
        headers = self._key_headers(server) if shows_key else {}
        completions = server.library.chat.completions.with_raw_response
        try:
            async with asyncio.timeout(self._timeout):
                raw = await completions.create(**sent, extra_headers=headers, extra_body=beyond or None)
        except openai.APIStatusError as error:
            message, code = words_of(error.body)
            refused = refused_parameters(error.status_code, error.param, message, {**sent, **beyond})
            room = room_left(error.status_code, message, sampling.get("max_tokens"))
            if room is not None and self._may_shorten:
                if room < FEWEST_TOKENS:
                    return ItemRejectedError(f"its prompt leaves no room for an answer: {self._without_key(message)}")
                sampling = {**sampling, "max_tokens": room}
                self.fewest_tokens = min(room, self.fewest_tokens or room)
            elif refused:
                self.unsupported |= refused
            elif error.status_code in (401, 403) and self._key and not shows_key:
                server.shows_key = True
            else:
                return explain_status(
                    error.status_code,
                    self._without_key(message),
                    code,
                    error.response.headers,
                    model=self.model,
                    url=server.shown_url,
                    patience=self._patience,
                    wording=self._wording,
                )
        except ReplyTooLargeError as error:
            account.lose()
            return ItemRejectedError(str(error))
        except (openai.APIConnectionError, TimeoutError) as error:
            return self._scrubbed(explain_connection(error, server.url, self._timeout, self._wording))
        else:
            return self._scrubbed(_read(raw.text, raw.headers, account))
        return await self._ask(server, messages, sampling, account)  # shorter, without that parameter, or with the key

    def _key_headers(self, server: _Server) -> dict[str, Any]:
        """Return the headers that hold the key: classic Azure has one of its own."""
        if server.api_version is None:
            return {"Authorization": f"Bearer {self._key}"}
        import openai

        return {"api-key": self._key, "Authorization": openai.Omit()}

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text

    def _scrubbed(self, outcome: Outcome) -> Outcome:
        """Return what came of a request without the key in its words."""
        if isinstance(outcome, AmpError):
            outcome.message = self._without_key(outcome.message)
        if isinstance(outcome, Exception):
            outcome.args = tuple(self._without_key(str(part)) for part in outcome.args)
        return outcome


def _read(body: str, headers: Mapping[str, str], account: Account) -> ChatReply | Exception:
    """Read a reply. What it used is counted even when it says nothing."""
    if "event-stream" in headers.get("content-type", "") or body.lstrip().startswith(("data:", "event:")):
        return unusable_reply("the reply is an event stream", kind="stream")
    try:
        content = json.loads(body)
    except json.JSONDecodeError:
        return unusable_reply("the reply is not complete JSON", kind="no JSON")
    except (ValueError, RecursionError) as error:
        account.lose()
        what = "is nested too deeply" if isinstance(error, RecursionError) else "holds a number of too many digits"
        return ItemRejectedError(f"the reply {what}")
    reply = read_completion(content)
    if reply is None:
        words, _ = words_of(content)
        return unusable_reply(f"the reply contains no answer: {words}", kind="no answer")
    if max(reply.prompt_tokens or 0, reply.completion_tokens or 0) > MOST_TOKENS:
        account.lose()
        return ItemRejectedError(f"the reply counts more than {MOST_TOKENS:,} tokens")
    account.count(reply.prompt_tokens, reply.completion_tokens, reply.text or "")
    reply = replace(reply, request_id=headers.get("x-request-id") or reply.request_id)
    if not all(is_storable(said) for said in (reply.text, reply.model, reply.request_id, reply.finish_reason)):
        return ItemRejectedError("the reply holds half of a surrogate pair, which is not a character")
    return reply


def key_from_environment() -> str:
    """Return OPENAI_API_KEY, or nothing.

    Raises:
        AmpError: it holds what no key can hold.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AmpError("OPENAI_API_KEY holds characters that no key has", hint="Copy the key again, without quotes")
    return key


def run_until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run asynchronous work. A signal cancels it where it waits: no reply is lost between its arrival and the disk."""

    async def listening() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # we are inside it
        with stopping.heard_by(lambda: loop.call_soon_threadsafe(task.cancel)):
            await work

    asyncio.run(listening())


Request = TypeVar("Request")
Result = TypeVar("Result")


async def run_together(
    requests: Sequence[Request],
    *,
    start: Callable[[Request], Coroutine[Any, Any, Result]],
    on_result: Callable[[Request, Result], None],
    on_reject: Callable[[Request, str], None],
    limit: int,
    client: ChatClient,
    blocked: Callable[[Request, int], AmpError | None] = lambda request, left: None,
    over: Callable[[Request], None] = lambda request: None,
) -> None:
    """Work on all requests, no more than `limit` at once. Told to stop, it keeps what has arrived and cancels the rest.

    When the run ends early, what is on its way may arrive, but is not tried again. It ends early where the first
    `HOPELESS` requests were all rejected.

    Args:
        start: called when a request's turn comes; returns the work.
        on_result, on_reject: take what came of it.
        blocked: says why a request may not be sent while others are on their way (of `left` that are not sent yet);
            it ends the run when nothing is on its way any more.
        over: told that a request is no longer on its way, before what came of it is handed over.
    """
    answered = rejected = 0

    def settle(request: Request, task: asyncio.Task[Result]) -> AmpError | None:
        """Hand over what came of a request; return what ends the whole run."""
        nonlocal answered, rejected
        over(request)
        try:
            result = task.result()
        except ItemRejectedError as error:
            rejected += 1
            on_reject(request, str(error))
            return client.hopeless(rejected, str(error)) if not answered and rejected == HOPELESS else None
        except AmpError as error:
            return error
        answered += 1
        try:
            on_result(request, result)
        except EnoughError as error:
            return error
        return None

    sent = 0
    running: dict[asyncio.Task[Result], Request] = {}
    end: AmpError | None = None

    def hand_over(done: Iterable[asyncio.Task[Result]]) -> None:
        nonlocal end
        for task in done:
            end = settle(running.pop(task), task) or end

    def send() -> AmpError | None:
        nonlocal sent
        while sent < len(requests) and len(running) < limit:
            request = requests[sent]
            reason = blocked(request, len(requests) - sent)
            if reason is not None:
                return None if running else reason
            sent += 1
            running[asyncio.create_task(start(request))] = request
        return None

    try:
        while running or (sent < len(requests) and end is None):
            end = end or send()
            if end is not None:
                client.stop.set()
            if running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                hand_over(done)
    except asyncio.CancelledError:  # told to stop
        hand_over([task for task in running if task.done()])
        raise
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if end is not None:
        raise end
