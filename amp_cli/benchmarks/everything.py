"""Runs every benchmark whose files are at hand; one that fails or cannot be asked is named, and the others go on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.benchmarks.data_at_hand import folder_of
from amp_cli.benchmarks.runner import BENCHMARKS, JUDGED, EvalResult, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.core.run import Run
from amp_cli.core.store import write_json
from amp_cli.errors import AmpError

ALL = "all.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which benchmarks are asked, with their files' folders, and why the others are not."""

    folders: dict[str, Path]
    left_out: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class AllResults:
    """The scores of every benchmark that was done; the others with the reason. `rejected` are items left out."""

    scores: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"scores": self.scores, "left_out": self.left_out, "failed": self.failed, "rejected": self.rejected}


def plan(given: Mapping[str, Path], *, judge: str | None) -> Plan:
    """Return what can be done with the files that were given or downloaded, and with or without a judge.

    Raises:
        AmpError: nothing can.
    """
    folders, left_out = {}, {}
    for name in BENCHMARKS:
        folder = folder_of(name, given)
        if folder is None:
            left_out[name] = f"its files are not at hand: --data {name}=DIR, or `amp download {name}`"
        elif name in JUDGED and judge is None:
            left_out[name] = "it is rated by a judge, and no --judge is given"
        else:
            folders[name] = folder
    if not folders:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise AmpError(
            f"There is nothing to evaluate. {reasons}", hint="Give --data NAME=DIR or run `amp download pope`"
        )
    return Plan(folders=folders, left_out=left_out)


def run_all(
    chosen: Plan,
    benchmarks: Sequence[EvalSettings],
    out: Path,
    *,
    overwrite: bool = False,
    evaluate: Callable[[EvalSettings], EvalResult] = run_benchmark,
) -> AllResults:
    """Evaluate one benchmark after the other, each in its own folder below `out`; what was done before is kept.

    Args:
        benchmarks: their settings; `max_cost` is the limit of all judged ones together.
    """
    shared = {one.benchmark: None if one.data is None else one.data.resolve() for one in benchmarks}
    first = benchmarks[0]
    settings = {"model": first.model, "adapter": first.adapter}
    scores: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    rejected: dict[str, int] = {}
    spent = 0.0
    with Run.start(out, command="eval all", settings=settings, overwrite=overwrite) as run:
        run.record(data=shared)
        for number, one in enumerate(benchmarks, start=1):
            ui.note(f"{one.benchmark} ({number} of {len(benchmarks)})")
            left = None if one.max_cost is None else max(0.0, one.max_cost - spent)
            try:
                result = evaluate(replace(one, out=out / one.benchmark, max_cost=left))
            except AmpError as error:
                failed[one.benchmark] = error.message + (f". {error.hint}" if error.hint else "")
                ui.warn(f"{one.benchmark} was not done: {failed[one.benchmark]}")
                continue
            scores[one.benchmark] = result.scores
            spent += result.scores.get("judge", {}).get("cost") or 0.0
            if result.rejected:
                rejected[one.benchmark] = len(result.rejected)
        results = AllResults(scores=scores, left_out=chosen.left_out, failed=failed, rejected=rejected)
        write_json(out / ALL, results.to_json())
        run.finish(done=list(scores), failed=failed, left_out=chosen.left_out)
    return results
