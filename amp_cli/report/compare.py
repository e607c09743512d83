"""Sets two runs on the same items against each other: is the difference real, or luck of the draw?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.runner import read_item_scores, read_scores
from amp_cli.errors import AmpError


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An evaluation folder as it was read: its scores, and each item's result by id."""

    folder: Path
    scores: dict[str, Any]
    items: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Scored":
        """Read a folder.

        Raises:
            AmpError: it holds no scores, or is damaged.
        """
        scores = read_scores(folder)
        return cls(folder=folder, scores=scores, items=read_item_scores(folder, BENCHMARKS[scores["benchmark"]]))


def compare_runs(base: Path, other: Path) -> list[Difference]:
    """Compare two evaluation folders of the same benchmark, rule, judge and items.

    Raises:
        AmpError: another benchmark, rule or judge, or not one scored item in common.
    """
    return compare_scored(Scored.read(base), Scored.read(other), with_measures=True)


def compare_scored(base: Scored, other: Scored, *, with_measures: bool) -> list[Difference]:
    """Compare two evaluations as `compare_runs` does, without reading them again.

    Args:
        with_measures: also by what the probabilities of yes and no say.

    Raises:
        AmpError: as `compare_runs`.
    """
    old, new = base.scores, other.scores
    for key in ("benchmark", "rule"):
        if old[key] != new[key]:
            raise AmpError(
                f"'{base.folder}' and '{other.folder}' cannot be compared: their {key}s are '{old[key]}' and "
                f"'{new[key]}'",
                hint="Score both alike: `amp eval ... --only score --rule RULE`",
            )
    if reason := other_judge(old, new):
        raise AmpError(
            f"'{base.folder}' and '{other.folder}' cannot be compared: {reason}", hint="Have both judged alike"
        )
    benchmark = BENCHMARKS[old["benchmark"]]
    pairs = [(one, other.items[item_id]) for item_id, one in base.items.items() if item_id in other.items]
    pairs = [pair for pair in pairs if all(map(benchmark.is_scored, pair))]
    if not pairs:
        raise AmpError("The two runs have no scored item in common", hint="Compare runs over the same --data")
    try:
        differences = benchmark.compare(pairs, old["rule"])
        differences += benchmark.measure(pairs) if with_measures else []
    except ValueError as error:
        raise AmpError(
            f"The items of '{base.folder}' and '{other.folder}' do not fit together: {error}",
            hint=f"Score both again: amp eval {benchmark.name} --only score --out FOLDER",
        ) from error
    return [replace(one, benchmark=benchmark.name) for one in differences]


def other_judge(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Say in what the judges of two scores differ: model or template. None where they do not, or one is not known."""
    for what, of in (("models", _judge_model), ("templates", _judge_template)):
        before, now = of(old.get("judge") or {}), of(new.get("judge") or {})
        if before and now and before != now:
            return f"their judges' {what} are '{before}' and '{now}'"
    return None


def _judge_model(judge: Mapping[str, Any]) -> str:
    return judge.get("model") or ", ".join(sorted(judge.get("reported_models", {})))


def _judge_template(judge: Mapping[str, Any]) -> str:
    template = judge.get("template") or {}
    return f"{template['name']} ({template['sha256'][:8]})" if template else ""
