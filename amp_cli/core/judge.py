"""A judge replies to prompts with verdicts: an OpenAI-compatible endpoint, a local model, or a file of replies."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from amp_cli.core.judging.settings import (
    Estimate,
    JudgeRequest,
    JudgeSettings,
    Price,
    Usage,
    count_usage,
    estimate,
    parse_price,
)
from amp_cli.errors import AmpError
from amp_cli.records import Verdict

__all__ = [
    "Estimate",
    "Judge",
    "JudgeRequest",
    "JudgeSettings",
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


def open_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that `--judge` names: `local:MODEL`, `replay:FILE`, else a model of an endpoint.

    Raises:
        AmpError: no name, no such file, no key, an address that is none.
    """
    kind, _, rest = settings.judge.partition(":")
    if kind in ("local", "replay") and not rest:
        raise AmpError(f"--judge {settings.judge} names nothing", hint="Give --judge local:MODEL or replay:FILE")
    if kind in ("local", "replay") and settings.url is not None:
        raise AmpError(f"--judge-url does not go with --judge {kind}:{rest}, which asks no endpoint")
    if kind == "local":
        from amp_cli.core.judging.local import LocalJudge

        return LocalJudge(rest, settings)
    if kind == "replay":
        from amp_cli.core.judging.replay import ReplayJudge

        return ReplayJudge(rest, settings)
    from amp_cli.core.judging.endpoint import EndpointJudge

    return EndpointJudge(settings)
