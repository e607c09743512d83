"""The runs of a report: finds their folders, reads their scores, compares each with the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.benchmarks.comparing import Difference, false_discoveries, items_needed
from amp_cli.benchmarks.runner import SCORES, read_scores
from amp_cli.benchmarks.sampling import sample_text
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.report.compare import Scored, compare_scored, other_judge

_DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """A run to show under a name: an evaluation folder, a training run, or a folder that holds such."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One benchmark's folder, its scores, and the differences to the first run's."""

    folder: Path
    scores: dict[str, Any]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GatheredRun:
    """Everything found under a run's path."""

    name: str
    path: Path
    evaluations: dict[str, Evaluation]
    training: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": str(self.path),
            "scores": {name: one.scores for name, one in self.evaluations.items()},
            "differences": [
                one.to_json() | {"items_needed": needed_for_points(BENCHMARKS[name], one)}
                for name, evaluation in self.evaluations.items()
                for one in evaluation.differences
            ],
            "training": [str(folder) for folder in self.training],
        }


def sentences(benchmark: Benchmark[Any], evaluation: Evaluation) -> list[str]:
    """Return what is to be said below its numbers: what else decides them, and what made them differ."""
    sample = sample_text(evaluation.scores)
    asked = f"{sample}, chosen by --limit" if sample else ""
    said = (asked, benchmark.about(evaluation.scores), benchmark.explain(evaluation.differences))
    return [one for one in (*said, power(benchmark, evaluation)) if one]


POINTS = 0.02
"""2 points: the difference that an unclear score is measured by, as a share of its full scale."""


def power(benchmark: Benchmark[Any], evaluation: Evaluation) -> str:
    """Say how many items would show 2 points in the scores that are not clear; "" where none is unclear."""
    named = {one.name: one for one in evaluation.differences}
    needs = []
    for column in benchmark.columns:
        one = named.get(column.difference or "")
        needed = None if one is None or one.is_clear else needed_for_points(benchmark, one)
        if one is not None and needed is not None:
            needs.append(f"{column.title}: {needed:,} (here {one.n:,})")
    if not needs:
        return ""
    return (
        f"What is not clear needs so many {benchmark.items} to show a difference of 2 % of its scale in 4 of 5 tries: "
        + "; ".join(needs)
    )


def needed_for_points(benchmark: Benchmark[Any], difference: Difference) -> int | None:
    """Return how many items would show 2 points; None of scores of which neither end is good, or nothing varies."""
    column = next((one for one in benchmark.columns if one.difference == difference.name), None)
    if column is None or column.lower_is_better is None or not difference.error:
        return None
    return items_needed(difference.error, difference.n, POINTS * column.full)


def gather(runs: Sequence[ReportRun]) -> list[GatheredRun]:
    """Read each run's scores and compare them with those of the first run that has the benchmark."""
    first: dict[str, Scored] = {}
    gathered = []
    for run in runs:
        evaluations: dict[str, Evaluation] = {}
        for folder in _run_folders(run.path, "eval "):
            scored = Scored.read(folder)
            name = scored.scores["benchmark"]
            if name in evaluations:
                raise AmpError(
                    f"'{run.path}' holds two evaluations of {name}: '{evaluations[name].folder}' and '{folder}'",
                    hint="Give their folders one by one",
                )
            differences = _differences(first[name], scored) if name in first else ()
            evaluations[name] = Evaluation(folder=folder, scores=scored.scores, differences=differences)
            first.setdefault(name, scored)
        evaluations = {name: evaluations[name] for name in BENCHMARKS if name in evaluations}
        training = tuple(_run_folders(run.path, "train"))
        if not evaluations and not training:
            raise AmpError(
                f"'{run.path}' holds neither an evaluation with scores nor a training run",
                hint="Give folders that `amp eval` or `amp train` wrote",
            )
        gathered.append(GatheredRun(name=run.name, path=run.path, evaluations=evaluations, training=training))
    return _corrected(gathered)


def _corrected(runs: Sequence[GatheredRun]) -> list[GatheredRun]:
    """Return the runs with the p-values of all their differences corrected for their number."""
    adjusted = iter(false_discoveries([one.p_value for one in compared(runs) if one.p_value is not None]))

    def correct(evaluation: Evaluation) -> Evaluation:
        ones = evaluation.differences
        return replace(
            evaluation,
            differences=tuple(one if one.p_value is None else replace(one, adjusted=next(adjusted)) for one in ones),
        )

    return [
        replace(run, evaluations={name: correct(evaluation) for name, evaluation in run.evaluations.items()})
        for run in runs
    ]


def compared(runs: Sequence[GatheredRun]) -> list[Difference]:
    """Return all differences of all runs to the first that were tested."""
    ones = [one for run in runs for evaluation in run.evaluations.values() for one in evaluation.differences]
    return [one for one in ones if one.p_value is not None]


def _differences(base: Scored, other: Scored) -> tuple[Difference, ...]:
    """Compare with the first run; scores by different judges stand side by side without a difference."""
    if reason := other_judge(base.scores, other.scores):
        ui.warn(f"'{base.folder}' and '{other.folder}' are not compared: {reason}")
        return ()
    return tuple(compare_scored(base, other, with_measures=True))


def name_runs(paths: Sequence[Path]) -> list[ReportRun]:
    """Return the runs that the paths mean, named by their folders.

    A folder with several evaluations of one benchmark is taken apart: one run for each folder above an evaluation.
    """
    runs: list[ReportRun] = []
    for path in paths:
        if not path.is_dir():
            raise AmpError(f"There is no folder '{path}'", hint="Give folders that `amp eval` or `amp train` wrote")
        folders = [folder for folder in _run_folders(path, "eval ") if folder != path]
        benchmarks = [read_scores(folder)["benchmark"] for folder in folders]
        if len(set(benchmarks)) == len(benchmarks):
            runs.append(ReportRun(name=path.resolve().name, path=path))
            continue
        groups = [folder.parent if folder.name in BENCHMARKS else folder for folder in folders]
        trained = [folder for folder in _run_folders(path, "train") if folder not in groups]
        runs += [
            ReportRun(name=group.relative_to(path).as_posix(), path=group)
            for group in dict.fromkeys([*groups, *trained])
        ]
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else ReportRun(name=str(run.path), path=run.path) for run in runs]


def _run_folders(path: Path, command: str) -> list[Path]:
    """Return the folders at or below `path` that hold a run of `command` with something to show."""
    found = []
    for depth in range(_DEPTH + 1):
        for file in sorted(path.glob("/".join(["*"] * depth + [NAME]))):
            is_shown = not command.startswith("eval") or (file.parent / SCORES).is_file()
            if is_shown and str(Run.read(file.parent).facts.get("command", "")).startswith(command):
                found.append(file.parent)
    return found
