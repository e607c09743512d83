"""The judge behind any OpenAI-compatible endpoint: concurrent, patient within bounds, and within a cost limit."""

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from amp_cli.core.judging.faults import (
    ItemRejectedError,
    Patience,
    TransientFault,
    explain_connection,
    explain_status,
    words_of,
)
from amp_cli.core.judging.ledger import Ledger
from amp_cli.core.judging.settings import JudgeRequest, JudgeSettings
from amp_cli.errors import AmpError
from amp_cli.records import Verdict

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI = "https://api.openai.com/v1"
_KEYLESS = "none"  # the client sends something; servers that want no key ignore it


class EndpointJudge:
    """Asks an endpoint's chat completions. The key is OPENAI_API_KEY; it is in no message, identity or note."""

    def __init__(self, settings: JudgeSettings, *, patience: Patience | None = None) -> None:
        self._settings = settings
        self._patience = patience or Patience()
        given = settings.url or os.environ.get("OPENAI_BASE_URL") or None
        self._url = endpoint_url(given or OPENAI)
        self._key = _key_from_environment()
        if not self._key and given is None:
            raise AmpError(
                f"The judge '{settings.judge}' needs a key",
                hint="Set OPENAI_API_KEY, or give --judge-url for another endpoint, or --judge local:MODEL",
            )
        self._ledger = Ledger(settings)
        self._unsupported: set[str] = set()
        self._stop = asyncio.Event()

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "endpoint",
            "model": self._settings.judge,
            "url": self._url,
            "sampling": {"seed": self._settings.seed},
        }

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if "temperature" in self._unsupported:
            notes.append(f"'{self._settings.judge}' takes no temperature; it used its own")
        if lost := self._ledger.lost_attempts:
            notes.append(
                f"{lost} request{'s' if lost > 1 else ''} ended without a usable reply and may have been charged"
            )
        return tuple(notes)

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        """Judge all requests; see `Judge.judge`. Ctrl-C keeps what has arrived and cancels the rest."""
        self._stop = asyncio.Event()
        asyncio.run(self._judge_all(requests, on_verdict, on_reject))

    async def _judge_all(
        self,
        requests: Sequence[JudgeRequest],
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        import openai

        waiting = deque(requests)
        running: dict[asyncio.Task[Verdict], JudgeRequest] = {}
        end: AmpError | None = None

        def hand_over(done: Iterable[asyncio.Task[Verdict]]) -> None:
            nonlocal end
            for task in done:
                request = running.pop(task)
                self._ledger.release(request)
                end = _hand_over(task, request, on_verdict, on_reject) or end

        async with openai.AsyncOpenAI(
            api_key=self._key or _KEYLESS, base_url=self._url, max_retries=0, timeout=self._settings.timeout
        ) as client:
            try:
                while running or (waiting and end is None):
                    end = end or self._send(client, waiting, running)
                    if end is not None:
                        self._stop.set()  # those on their way may arrive, but are not sent again
                    if running:
                        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                        hand_over(done)
            except asyncio.CancelledError:  # Ctrl-C
                hand_over([task for task in running if task.done()])
                raise
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        if end is not None:
            raise end

    def _send(
        self,
        client: "AsyncOpenAI",
        waiting: deque[JudgeRequest],
        running: dict[asyncio.Task[Verdict], JudgeRequest],
    ) -> AmpError | None:
        """Send as many requests as may be open and paid; return the end of the run where none may be paid any more."""
        while waiting and len(running) < self._settings.concurrency:
            if not self._ledger.allows(waiting[0]):
                return None if running else self._ledger.over(len(waiting))
            request = waiting.popleft()
            self._ledger.reserve(request)
            running[asyncio.create_task(self._reply(client, request))] = request
        return None

    async def _reply(self, client: "AsyncOpenAI", request: JudgeRequest) -> Verdict:
        """Ask until there is a reply, no more than the bounded number of times."""
        for attempt in range(1, self._patience.attempts + 1):
            fault = await self._ask(client, request)
            if isinstance(fault, Verdict):
                return fault
            if not isinstance(fault, TransientFault):
                raise fault
            if fault.may_be_charged:
                self._ledger.lose(request)
            if attempt < self._patience.attempts:
                await self._pause(self._patience.delay(attempt, fault.retry_after))
            if self._stop.is_set():
                break
        raise ItemRejectedError(f"given up after {attempt} attempt{'s' if attempt > 1 else ''}: {fault}")

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _ask(self, client: "AsyncOpenAI", request: JudgeRequest) -> Verdict | Exception:
        """Ask once. A fault is returned, not raised: what the library raised may quote the key and is left behind."""
        import openai

        sent = self._arguments(request)
        try:
            async with asyncio.timeout(self._settings.timeout):
                reply = await client.chat.completions.with_raw_response.create(**sent)
        except openai.APIStatusError as error:
            message, code = words_of(error.body)
            parameter = error.param
            if error.status_code == 400 and parameter in ("temperature", "max_tokens", "seed") and parameter in sent:
                self._unsupported.add(parameter)
            else:
                return explain_status(
                    error.status_code,
                    self._without_key(message),
                    code,
                    error.response.headers,
                    model=self._settings.judge,
                    url=self._url,
                    patience=self._patience,
                )
        except (openai.APIConnectionError, TimeoutError) as error:
            return self._scrubbed(explain_connection(error, self._url, self._settings.timeout))
        else:
            return self._scrubbed(self._read(request, reply.text, reply.headers))
        return await self._ask(client, request)  # without the parameter that this model does not take

    def _arguments(self, request: JudgeRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self._settings.judge,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if self._settings.seed is not None:
            arguments["seed"] = self._settings.seed
        if "max_tokens" in self._unsupported:
            arguments["max_completion_tokens"] = request.max_tokens
        return {name: value for name, value in arguments.items() if name not in self._unsupported}

    def _read(self, request: JudgeRequest, body: str, headers: Mapping[str, str]) -> Verdict | Exception:
        """Read a reply. What it used is counted even when it says nothing."""
        try:
            reply = json.loads(body)
        except ValueError:
            return TransientFault("the reply is no whole JSON", may_be_charged=True)
        usage = reply.get("usage") if isinstance(reply, dict) else None
        prompt, completion = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
        try:
            choice = reply["choices"][0]
            text = choice["message"].get("content") or choice["message"].get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError):
            said, _ = words_of(reply)
            return TransientFault(f"the reply holds no answer: {said}", may_be_charged=True)
        self._ledger.count(request, prompt, completion, text if isinstance(text, str) else "")
        if not isinstance(text, str) or not text.strip():
            return ItemRejectedError(f"the judge sent no text (finish_reason: {choice.get('finish_reason')})")
        return Verdict(
            id=request.id,
            repeat=request.repeat,
            text=text,
            model=str(reply["model"]) if reply.get("model") else None,
            request_id=headers.get("x-request-id") or (str(reply["id"]) if reply.get("id") else None),
            prompt_tokens=prompt,
            completion_tokens=completion,
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text

    def _scrubbed(self, outcome: "Verdict | Exception") -> "Verdict | Exception":
        if isinstance(outcome, AmpError):
            return AmpError(self._without_key(outcome.message), hint=outcome.hint)
        if isinstance(outcome, Exception):
            outcome.args = tuple(self._without_key(str(part)) for part in outcome.args)
        return outcome


def _hand_over(
    task: asyncio.Task[Verdict],
    request: JudgeRequest,
    on_verdict: Callable[[Verdict], None],
    on_reject: Callable[[JudgeRequest, str], None],
) -> AmpError | None:
    """Tell the caller what came of a request; return what ends the whole run."""
    try:
        verdict = task.result()
    except ItemRejectedError as error:
        on_reject(request, str(error))
    except AmpError as error:
        return error
    else:
        on_verdict(verdict)
    return None


def _key_from_environment() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AmpError("OPENAI_API_KEY holds characters that no key has", hint="Copy the key again, without quotes")
    return key


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None


def endpoint_url(url: str) -> str:
    """Return an endpoint's address without a slash at its end.

    Raises:
        AmpError: no http(s) address, or one that holds a password or a query (where keys hide); it is not repeated.
    """
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
    if not port_is_number or parts.scheme not in ("http", "https") or not parts.hostname:
        raise AmpError("--judge-url is no http or https address", hint="As in --judge-url http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise AmpError(
            f"The address of the judge at '{parts.hostname}' holds a user name, a password or a query",
            hint="Give the plain address; the key comes from OPENAI_API_KEY",
        )
    return url.rstrip("/")
