"""Shared by the tests of judges: requests, and what came of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amp_cli.asking.faults import Patience
from amp_cli.asking.judge import Judge, JudgeRequest, JudgeSettings
from amp_cli.asking.judge_endpoint import EndpointJudge
from amp_cli.records import Verdict
from tests.support.judge_server import JudgeServer

QUICK = Patience(attempts=3, first_delay=0.01)


@dataclass
class Outcome:
    """Verdicts and reasons of rejection, in the order they came."""

    verdicts: list[Verdict] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)

    def reject(self, request: JudgeRequest, reason: str) -> None:
        self.rejected[request.id] = reason

    @property
    def judged(self) -> set[str]:
        return {verdict.id for verdict in self.verdicts}


def requests(count: int, **changes: Any) -> list[JudgeRequest]:
    """Requests `item-0.`, `item-1.`, ...; the prompt is the id and a full stop."""
    return [
        JudgeRequest(**{"id": f"item-{number}", "messages": (("user", f"item-{number}."),), **changes})
        for number in range(count)
    ]


def endpoint(server: JudgeServer, *, patience: Patience = QUICK, **changes: Any) -> EndpointJudge:
    return EndpointJudge(
        JudgeSettings(**{"judge": "gpt-x", "judge_url": server.url, "judge_timeout": 5.0, **changes}), patience=patience
    )


def run(judge: Judge, asked: Sequence[JudgeRequest], outcome: Outcome | None = None) -> Outcome:
    outcome = outcome or Outcome()
    judge.judge(asked, on_verdict=outcome.verdicts.append, on_reject=outcome.reject)
    return outcome
