"""Runs every benchmark whose files are at hand; one that fails or cannot be asked is named, and the others go on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.runner import EvalResult, inputs_of, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.jsonl import write_json
from amp_cli.disk.run import Run
from amp_cli.downloads.places import benchmark_folder
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
            left_out[name] = (
                f"its files are not at hand: --data {name}=DIR, or `amp download {BENCHMARKS[name].files_of or name}`"
            )
        elif BENCHMARKS[name].judge is not None and judge is None:
            left_out[name] = "it is rated by a judge, and no --judge is given"
        else:
            folders[name] = folder
    if not folders:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise AmpError(
            f"There is nothing to evaluate. {reasons}", hint="Give --data NAME=DIR or run `amp download NAME`"
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
    settings = {"model": first.spec and first.spec.model, "adapter": first.spec and first.spec.adapter}
    scores: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    rejected: dict[str, int] = {}
    spent = 0.0
    inputs = [path for one in benchmarks for path in inputs_of(one)] if overwrite else []
    with Run.start(out, command="eval all", settings=settings, overwrite=overwrite, inputs=inputs) as run:
        run.record(data=shared)
        for number, one in enumerate(benchmarks, start=1):
            ui.note(f"{one.benchmark} ({number} of {len(benchmarks)})")
            limit = one.judging.max_cost
            judging = replace(one.judging, max_cost=None if limit is None else max(0.0, limit - spent))
            try:
                result = evaluate(replace(one, out=out / one.benchmark, judging=judging))
            except AmpError as error:
                failed[one.benchmark] = f"{error.message}. {error.hint}"
                ui.warn(f"{one.benchmark} was not done: {failed[one.benchmark]}")
                continue
            scores[one.benchmark] = result.scores
            spent += result.scores.get("judge", {}).get("cost") or 0.0
            if result.undone:
                rejected[one.benchmark] = result.undone
        results = AllResults(scores=scores, left_out=chosen.left_out, failed=failed, rejected=rejected)
        write_json(out / ALL, results.to_json())
        run.finish(done=list(scores), failed=failed, left_out=chosen.left_out)
    return results


EVERY = ""
"""The key of a folder that was given without a name: it is looked through for every benchmark."""


ANY = ("*.json", "*.jsonl", "*.zip")
"""What a downloaded folder holds where a benchmark's files have no names of their own."""


def named_folders(values: Sequence[str], known: Collection[str]) -> dict[str, Path]:
    """Read `NAME=DIR` and plain `DIR` values.

    Raises:
        AmpError: an unknown name, a folder that is not there, or two for one name.
    """
    folders: dict[str, Path] = {}
    for value in values:
        name, _, place = (EVERY, "", value) if Path(value).is_dir() else value.partition("=")
        if name != EVERY and name not in known:
            if not place:
                raise AmpError(f"There is no folder '{value}'", hint="Give --data DIR or --data NAME=DIR")
            raise AmpError(f"There is no benchmark '{name}'", hint=f"Known: {', '.join(known)}")
        if not Path(place).is_dir():
            raise AmpError(f"There is no folder '{place}'", hint=f"Give --data {name}=DIR, a folder that exists")
        if name in folders:
            raise AmpError(
                f"--data gives {name or 'a folder'} twice: '{folders[name]}' and '{place}'",
                hint="Give one folder for each benchmark",
            )
        folders[name] = Path(place)
    return folders


def folder_of(name: str, given: Mapping[str, Path]) -> Path | None:
    """Return the folder of a benchmark's files: given by name, given for all, downloaded; None where there is none."""
    if name in given:
        return given[name]
    patterns, stored = BENCHMARKS[name].files, BENCHMARKS[name].files_of or name
    for folder, wanted in ((given.get(EVERY), patterns), (benchmark_folder(stored), patterns or ANY)):
        if folder is not None and folder.is_dir() and any(next(folder.rglob(one), None) for one in wanted):
            return folder
    return None
