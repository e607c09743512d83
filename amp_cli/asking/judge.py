"""A judge replies to prompts with verdicts: an OpenAI-compatible endpoint, a local model, or a file of replies."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from amp_cli.addresses import is_api_version
from amp_cli.disk.settings import free, unrecorded
from amp_cli.errors import AmpError
from amp_cli.models.spec import ModelSpec
from amp_cli.ranges import MANY, refuse_out_of_range
from amp_cli.records import Verdict


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a million tokens cost, prompt and completion; the currency is the user's."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if not (0 <= self.prompt <= MANY and 0 <= self.completion <= MANY):
            raise AmpError(
                f"A price must be from 0 to {MANY:,}, not {self.prompt} and {self.completion}",
                hint="Give what a million tokens cost, as in --price 2.5,10",
            )

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return what so many tokens cost."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """One prompt to judge, as (role, content) messages; (id, repeat) is the key of its verdict.

    `verdict_line` is the regular expression that the last line must match: asked for as structured output where the
    endpoint can, None where the prompt has a form of its own.
    """

    id: str
    repeat: int = 0
    messages: tuple[tuple[str, str], ...]
    temperature: float = 0.0
    max_tokens: int = 1024
    verdict_line: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge, and its limits; all may differ when a run goes on: its folder says for itself who judged there.

    Attributes:
        judge: a model of the endpoint, `local:MODEL` or `replay:FILE`.
        judge_url: the endpoint's base, as in `http://127.0.0.1:8000/v1`; None is OPENAI_BASE_URL or OpenAI's own.
        judge_api_version: of classic Azure, whose addresses end in `?api-version=`; None where there is none.
        judge_template: what the judge is told; None is the official file beside the data, or our own wording.
        judge_temperature: None is the benchmark's own.
        judge_max_tokens: the longest reply; a judge that reasons before it speaks needs more.
        judge_concurrency: how many requests may be on their way at once.
        judge_timeout: seconds until a reply is given up.
        max_cost: stop before the next request could exceed it; in the currency of `price`, for one call of `judge`.
        price: what a million prompt and completion tokens cost, as in `2.5,10`.
        repeat: verdicts per item.
        verdicts: verdicts that exist already, in place of a judge.
        device, dtype, seed: of a local judge; they are those of the evaluation.
    """

    judge: str | None = free(None)
    judge_url: str | None = free(None)
    judge_api_version: str | None = free(None)
    judge_template: Path | None = free(None)
    judge_temperature: float | None = free(None)
    judge_max_tokens: int = free(1024)
    judge_concurrency: int = free(8)
    judge_timeout: float = free(120.0)
    max_cost: float | None = free(None)
    price: str | None = free(None)
    repeat: int = free(1)
    verdicts: Path | None = free(None)
    device: str = unrecorded("auto")
    dtype: str = unrecorded("auto")
    seed: int = unrecorded(0)

    def __post_init__(self) -> None:
        refuse_out_of_range(self)
        if (self.judge is not None or self.judge_url is not None) and self.verdicts is not None:
            raise AmpError("--judge and --judge-url do not go with --verdicts", hint="--verdicts replaces the judge")
        if self.judge_api_version is not None and not is_api_version(self.judge_api_version):
            raise AmpError(
                f"'{self.judge_api_version:.40}' is not an API version",
                hint="As in --judge-api-version 2024-10-21, what stands after ?api-version= in Azure's address",
            )
        if self.price is not None:
            parse_price(self.price)
        if self.judge is not None and not self.judge.strip():
            raise AmpError("--judge is empty", hint="Give --judge MODEL, local:MODEL or replay:FILE")
        if self.judge is not None and self.max_cost is not None and self.price is None:
            raise AmpError(
                "--max-cost needs to know what tokens cost",
                hint="Give --price PROMPT,COMPLETION for a million tokens each, as on your provider's price list",
            )

    @property
    def token_price(self) -> Price | None:
        """What tokens cost, where that was given."""
        return None if self.price is None else parse_price(self.price)

    @property
    def asks_endpoint(self) -> bool:
        """Whether a judge is asked that is not on this machine."""
        return self.judge is not None and not self.judge.startswith(("local:", "replay:"))


@dataclass(frozen=True, kw_only=True)
class JudgingEstimate:
    """What requests may take: prompt tokens by rule of thumb, completions at their full length.

    `cost` is None without a price. `method` says how tokens were guessed.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    method: str = "4 ASCII characters a token, other characters one token each"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What verdicts took. `uncounted` replies came without a count of tokens and are left out of it."""

    replies: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None


def parse_price(text: str) -> Price:
    """Read `--price PROMPT,COMPLETION`, each for a million tokens.

    Raises:
        AmpError: not two numbers.
    """
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError as error:
        raise AmpError(
            f"'{text}' is not a price",
            hint="Give two numbers, for a million prompt and completion tokens: --price 2.5,10",
        ) from error
    return Price(prompt=prompt, completion=completion)


def guess_tokens(text: str) -> int:
    """Guess how many tokens a text has: 4 ASCII characters make one, other characters are one each."""
    ascii_characters = sum(character.isascii() for character in text)
    return -(-ascii_characters // 4) + len(text) - ascii_characters


def prompt_guess(request: JudgeRequest) -> int:
    """Guess a request's prompt tokens; each message takes about 4 more for its role."""
    return sum(guess_tokens(content) + 4 for _, content in request.messages)


def estimate(requests: Sequence[JudgeRequest], settings: JudgeSettings) -> JudgingEstimate:
    """Say before anything is sent what requests may take; local and replayed verdicts cost nothing."""
    prompt = sum(map(prompt_guess, requests))
    completion = sum(request.max_tokens for request in requests)
    price = settings.token_price if settings.asks_endpoint else Price(prompt=0, completion=0)
    return JudgingEstimate(
        requests=len(requests),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=None if price is None else price.of(prompt, completion),
    )


def count_usage(verdicts: Iterable[Verdict], price: Price | None) -> Usage:
    """Add up what the judge itself counted."""
    replies = list(verdicts)
    counted = [one for one in replies if one.prompt_tokens is not None and one.completion_tokens is not None]
    prompt = sum(one.prompt_tokens or 0 for one in counted)
    completion = sum(one.completion_tokens or 0 for one in counted)
    return Usage(
        replies=len(replies),
        prompt_tokens=prompt,
        completion_tokens=completion,
        uncounted=len(replies) - len(counted),
        cost=None if price is None else price.of(prompt, completion),
    )


__all__ = [
    "Judge",
    "JudgeRequest",
    "JudgeSettings",
    "JudgingEstimate",
    "Price",
    "Usage",
    "count_usage",
    "estimate",
    "open_judge",
    "parse_price",
]


class Judge(Protocol):
    """Judges requests; each reply is handed over, in the calling thread, before the next one is looked at."""

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, model, address and sampling: what another judge would differ in. Holds no key."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how it judged; complete after `judge`."""
        ...

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        """Judge all requests.

        Args:
            on_reject: called with the reason for a request that got no reply; the rest goes on.

        Raises:
            AmpError: it has to stop (no such judge, wrong key, the cost limit); what has arrived was handed over.
        """
        ...


def open_judge(settings: JudgeSettings, *, items: Sequence[str] = ()) -> Judge:
    """Return the judge that `--judge` names: `local:MODEL`, `replay:FILE`, else a model of an endpoint.

    Args:
        items: ids of all items in order, for a replay file that is a list without ids.

    Raises:
        AmpError: no name, no such file, no key, an address that is none.
    """
    if settings.judge is None:
        raise AmpError("No judge is given", hint="Give --judge MODEL, local:MODEL or replay:FILE")
    kind, _, rest = settings.judge.partition(":")
    if kind in ("local", "replay") and not rest:
        raise AmpError(f"--judge {settings.judge} names nothing", hint="Give --judge local:MODEL or replay:FILE")
    for option, given in (("--judge-url", settings.judge_url), ("--judge-api-version", settings.judge_api_version)):
        if kind in ("local", "replay") and given is not None:
            raise AmpError(
                f"{option} does not go with --judge {kind}:{rest}, which asks no endpoint", hint=f"Leave out {option}"
            )
    if kind == "local":
        from amp_cli.asking.judge_local import LocalJudge

        return LocalJudge(ModelSpec(model=rest, device=settings.device, dtype=settings.dtype), seed=settings.seed)
    if kind == "replay":
        from amp_cli.asking.judge_replay import ReplayJudge

        return ReplayJudge(rest, items)
    from amp_cli.asking.judge_endpoint import EndpointJudge

    return EndpointJudge(settings)
