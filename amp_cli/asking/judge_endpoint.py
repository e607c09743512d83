"""A judge behind an OpenAI-compatible endpoint, and the ledger that holds its costs within a limit."""

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any

from amp_cli.asking.chat import (
    OPENAI,
    Account,
    ChatClient,
    key_from_environment,
    run_together,
    run_until_told,
)
from amp_cli.asking.faults import FaultWording, Patience
from amp_cli.asking.judge import JudgeRequest, JudgeSettings, guess_tokens, prompt_guess
from amp_cli.asking.wire import LIMITS, endpoint_url
from amp_cli.errors import AmpError
from amp_cli.records import Verdict


class Ledger:
    """Adds up money: spent as the judge counts it, and reserved at its worst for each request on its way.

    The worst case of a request is its guessed prompt tokens and a completion of full length. As soon as a reply says
    how many tokens a prompt really had, guesses are raised by the largest ratio seen.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._price = settings.token_price
        self._limit = settings.max_cost
        self._reserved: dict[tuple[str, int], float] = {}
        self._ratio = 1.0
        self.spent = 0.0
        self.lost_attempts = 0

    def _worst(self, request: JudgeRequest) -> float:
        if self._price is None:
            return 0.0
        return self._price.of(self._ratio * prompt_guess(request), request.max_tokens)

    def allows(self, request: JudgeRequest) -> bool:
        """Whether one more request stays within the limit, those on their way counted."""
        if self._limit is None:
            return True
        return self.spent + sum(self._reserved.values()) + self._worst(request) <= self._limit

    def reserve(self, request: JudgeRequest) -> None:
        """Note that a request goes out."""
        self._reserved[request.id, request.repeat] = self._worst(request)

    def release(self, request: JudgeRequest) -> None:
        """Note that a request is over; what it used was counted when its reply was read."""
        del self._reserved[request.id, request.repeat]

    def count(self, request: JudgeRequest, prompt: int | None, completion: int | None, text: str) -> None:
        """Add what a reply used, by its own count or, where it has none, by our guess."""
        guess = prompt_guess(request)
        if prompt is not None and guess:
            self._ratio = max(self._ratio, prompt / guess)
        if self._price is not None:
            used = guess_tokens(text) if completion is None else completion
            self.spent += self._price.of(guess * self._ratio if prompt is None else prompt, used)

    def lose(self, request: JudgeRequest) -> None:
        """Add a request that ended without a usable reply at its worst: it may have been charged."""
        self.lost_attempts += 1
        self.spent += self._worst(request)

    def over(self, left: int) -> AmpError:
        """Return the end of a run that may not spend more."""
        return AmpError(
            f"--max-cost {self._limit:g} is reached: {left:,} requests were not sent, about {self.spent:.4g} is spent",
            hint="Verdicts so far are kept; a higher --max-cost goes on with the rest",
        )


JUDGE = FaultWording(
    who="judge",
    kept="verdicts",
    option="--judge-url",
    check="--judge, and that --judge-url",
    doubt="Does the judge take prompts like these, and does its server work?",
)


class EndpointJudge:
    """Asks an endpoint's chat completions. The key is OPENAI_API_KEY; it is in no message, identity or note."""

    def __init__(self, settings: JudgeSettings, *, patience: Patience | None = None) -> None:
        assert settings.judge is not None  # open_judge refuses it
        self._model = settings.judge
        self._settings = settings
        given = settings.judge_url or os.environ.get("OPENAI_BASE_URL") or None
        url, api_version = endpoint_url(given or OPENAI, who="judge", option="--judge-url")
        api_version = settings.judge_api_version or api_version
        key = key_from_environment()
        if not key and given is None:
            raise AmpError(
                f"The judge '{self._model}' needs a key",
                hint="Set OPENAI_API_KEY, or give --judge-url for another endpoint, or --judge local:MODEL",
            )
        self._ledger = Ledger(settings)
        self._client = ChatClient(
            model=self._model,
            addresses=[(url, api_version)],
            key=key,
            timeout=settings.judge_timeout,
            patience=patience or Patience(),
            wording=JUDGE,
            key_at_once=lambda url: True,
        )

    @property
    def identity(self) -> dict[str, Any]:
        identity = {"kind": "endpoint", "model": self._model, "url": self._client.shown_url, "sampling": {"seed": None}}
        version = self._client.api_version
        return identity if version is None else {**identity, "api_version": version}

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        unsupported = self._client.unsupported
        if "temperature" in unsupported:
            notes.append(f"'{self._model}' takes no temperature; it used its own")
        if unsupported.issuperset(LIMITS):
            notes.append(f"'{self._model}' takes no limit of tokens; its replies are as long as it made them")
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
        run_until_told(self._judge_all(requests, on_verdict, on_reject))

    async def _judge_all(
        self,
        requests: Sequence[JudgeRequest],
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        ledger = self._ledger

        def start(request: JudgeRequest) -> Coroutine[Any, Any, Verdict]:
            ledger.reserve(request)
            return self._verdict(request)

        async with self._client.open():
            await run_together(
                requests,
                start=start,
                on_result=lambda request, verdict: on_verdict(verdict),
                on_reject=on_reject,
                limit=self._settings.judge_concurrency,
                client=self._client,
                blocked=lambda request, left: None if ledger.allows(request) else ledger.over(left),
                over=ledger.release,
            )

    async def _verdict(self, request: JudgeRequest) -> Verdict:
        messages = [{"role": role, "content": content} for role, content in request.messages]
        sampling: dict[str, Any] = {"temperature": request.temperature, "max_tokens": request.max_tokens}
        if request.verdict_line is not None:
            sampling["response_format"] = structured(request.verdict_line)
        reply = await self._client.reply(
            messages,
            sampling,
            Account(
                count=lambda prompt, completion, text: self._ledger.count(request, prompt, completion, text),
                lose=lambda: self._ledger.lose(request),
            ),
        )
        told = {**asdict(reply), "text": reply.text or ""}  # one without a text was paid for as well
        return Verdict(id=request.id, repeat=request.repeat, max_tokens=request.max_tokens, **told)


def structured(verdict_line: str) -> dict[str, Any]:
    """Return the response format of a reply whose verdict is a line of this form, after what was found."""
    schema = {
        "type": "object",
        "properties": {"findings": {"type": "string"}, "verdict": {"type": "string", "pattern": verdict_line}},
        "required": ["findings", "verdict"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
