"""Sets two runs on the same items against each other: is the difference real, or luck of the draw?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.runner import read_item_scores, read_scores
from amp_cli.errors import AmpError


def compare_runs(base: Path, other: Path) -> list[Difference]:
    """Compare two evaluation folders of the same benchmark, rule, judge and items.

    Raises:
        AmpError: another benchmark, rule or judge, or not one scored item in common.
    """
    old, new = read_scores(base), read_scores(other)
    for key in ("benchmark", "rule"):
        if old[key] != new[key]:
            raise AmpError(
                f"'{base}' and '{other}' cannot be compared: their {key}s are '{old[key]}' and '{new[key]}'",
                hint="Score both alike: `amp eval ... --only score --rule RULE`",
            )
    if reason := other_judge(old, new):
        raise AmpError(f"'{base}' and '{other}' cannot be compared: {reason}", hint="Have both judged alike")
    benchmark = BENCHMARKS[old["benchmark"]]
    olds, news = read_item_scores(base, benchmark), read_item_scores(other, benchmark)
    pairs = [(one, news[item_id]) for item_id, one in olds.items() if item_id in news]
    pairs = [pair for pair in pairs if all(map(benchmark.is_scored, pair))]
    if not pairs:
        raise AmpError("The two runs have no scored item in common", hint="Compare runs over the same --data")
    try:
        return [replace(one, benchmark=benchmark.name) for one in benchmark.compare(pairs, old["rule"])]
    except ValueError as error:
        raise AmpError(
            f"The items of '{base}' and '{other}' do not fit together: {error}",
            hint=f"Score both again: amp eval {benchmark.name} --only score --out FOLDER",
        ) from error


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
