"""Sets two runs on the same items against each other: is the difference real, or luck of the draw?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amp_cli.benchmarks import amber as amber_scores
from amp_cli.benchmarks import chair, pope
from amp_cli.benchmarks.chair import ChairScore
from amp_cli.benchmarks.intervals import interval, resampled_totals
from amp_cli.benchmarks.judged import JudgedBenchmark
from amp_cli.benchmarks.judged_scores import JudgedScore, by_image
from amp_cli.benchmarks.pope import PopeScore
from amp_cli.benchmarks.runner import ITEMS, JUDGED, SCORES
from amp_cli.disk.jsonl import RecordLog, read_json
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array


AMBER_SCORES = (
    "generative/chair",
    "generative/cover",
    "generative/hal",
    "generative/cog",
    "discriminative/accuracy",
    "discriminative/f1",
    "amber_score",
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of two runs over the `n` items that both have scored.

    Attributes:
        name: as in `scores.json`, with its group where it has one: `adversarial/accuracy`, `conv/relative`.
        ci95: 95 % interval of other - base, by a bootstrap that draws images and keeps the pair together.
        p_value: exact McNemar test (POPE's accuracy only), two-sided; it takes questions as independent.
    """

    benchmark: str
    name: str
    base: float | None
    other: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    n: int

    @property
    def difference(self) -> float | None:
        """other - base."""
        return None if self.base is None or self.other is None else self.other - self.base

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "name": self.name,
            "base": self.base,
            "other": self.other,
            "difference": self.difference,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "p_value": self.p_value,
            "n": self.n,
            "clear": self.is_clear,
        }


def compare_runs(base: Path, other: Path) -> list[Difference]:
    """Compare two evaluation folders of the same benchmark, rule, judge and items.

    Raises:
        AmpError: another benchmark, rule or judge, or not one item in common.
    """
    old, new = read_json(base / SCORES), read_json(other / SCORES)
    for key in ("benchmark", "rule"):
        if old[key] != new[key]:
            raise AmpError(
                f"'{base}' and '{other}' cannot be compared: their {key}s are '{old[key]}' and '{new[key]}'",
                hint="Score both alike: `amp eval ... --only score --rule RULE`",
            )
    if reason := other_judge(old, new):
        raise AmpError(f"'{base}' and '{other}' cannot be compared: {reason}", hint="Have both judged alike")
    name = old["benchmark"]
    if name == "pope":
        return _compare_pope(base, other)
    if name == "chair":
        return _compare_by_images(name, chair_scores(base), chair_scores(other), chair, chair.SCORES)
    if name == "amber":
        return _compare_by_images(name, _amber_scores(base), _amber_scores(other), _Amber(old["rule"]), AMBER_SCORES)
    module = JUDGED[name]
    return _compare_by_images(name, judged_scores(base), judged_scores(other), _Judged(module), module.DIFFERENCES)


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


class _ByImages(Protocol):
    """What scores add, image by image, and the scores of such sums."""

    def image_counts(self, scores: Sequence[Any]) -> "Array": ...
    def rates(self, sums: "Array") -> Mapping[str, "Array"]: ...


@dataclass(frozen=True)
class _Judged:
    module: JudgedBenchmark

    def image_counts(self, scores: Sequence[JudgedScore]) -> "Array":
        return by_image(self.module.rows(scores), scores)

    def rates(self, sums: "Array") -> Mapping[str, "Array"]:
        return self.module.rates(sums)


@dataclass(frozen=True)
class _Amber:
    rule: str

    def image_counts(self, scores: Sequence[Any]) -> "Array":
        return amber_scores.image_counts(scores)

    def rates(self, sums: "Array") -> Mapping[str, "Array"]:
        return amber_scores.rates(sums, self.rule)


def pope_scores(folder: Path) -> dict[str, PopeScore]:
    """Return id -> score of a POPE run."""
    return {record["id"]: PopeScore.from_json(record) for record in RecordLog(folder / ITEMS).read()}


def chair_scores(folder: Path) -> dict[str, ChairScore]:
    """Return id -> score of a CHAIR run."""
    return {record["id"]: ChairScore.from_json(record) for record in RecordLog(folder / ITEMS).read()}


def judged_scores(folder: Path) -> dict[str, JudgedScore]:
    """Return id -> score of a judged run; items without a readable verdict are left out."""
    scores = (JudgedScore.from_json(record) for record in RecordLog(folder / ITEMS).read())
    return {one.id: one for one in scores if one.readable}


def _amber_scores(folder: Path) -> dict[str, amber_scores.AmberScore]:
    return {record["id"]: amber_scores.read_score(record) for record in RecordLog(folder / ITEMS).read()}


def mcnemar(only_base: int, only_other: int) -> float:
    """Return the exact two-sided p-value that as many items are right in one run only as in the other only."""
    from scipy.stats import binomtest

    discordant = only_base + only_other
    return float(binomtest(only_base, discordant, 0.5).pvalue) if discordant else 1.0


def _compare_pope(base: Path, other: Path) -> list[Difference]:
    olds, news = pope_scores(base), pope_scores(other)
    common = [one.id for one in olds.values() if one.id in news and None not in (one.reading, news[one.id].reading)]
    pairs = [(olds[item_id], news[item_id]) for item_id in common]
    _refuse_nothing_in_common(pairs)
    splits = [split for split in pope.SPLITS if any(old.split == split for old, _ in pairs)]
    columns = len(splits) * len(pope.COUNTS)
    units = _side_by_side(
        pope.image_counts([p[0] for p in pairs], splits), pope.image_counts([p[1] for p in pairs], splits)
    )
    rows = _differences(units, columns, lambda sums: pope.all_scores(sums, splits))
    differences = []
    for group in (*splits, "overall"):
        members = [pair for pair in pairs if group in (pair[0].split, "overall")]
        p_value = mcnemar(
            sum(bool(old.correct and not new.correct) for old, new in members),
            sum(bool(new.correct and not old.correct) for old, new in members),
        )
        for name in ("accuracy", "f1"):
            differences.append(
                Difference(
                    benchmark="pope",
                    name=f"{group}/{name}",
                    p_value=p_value if name == "accuracy" else None,
                    n=len(members),
                    **rows[f"{group}/{name}"],
                )
            )
    return differences


def _compare_by_images(
    benchmark: str, olds: Mapping[str, Any], news: Mapping[str, Any], measure: _ByImages, names: Sequence[str]
) -> list[Difference]:
    """Compare all scores but POPE's; one that neither run has is left out."""
    common = [item_id for item_id in olds if item_id in news]
    _refuse_nothing_in_common(common)
    old_counts = measure.image_counts([olds[item_id] for item_id in common])
    new_counts = measure.image_counts([news[item_id] for item_id in common])
    rows = _differences(_side_by_side(old_counts, new_counts), old_counts.shape[1], measure.rates)
    return [
        Difference(benchmark=benchmark, name=name, p_value=None, n=len(common), **rows[name])
        for name in names
        if rows[name]["base"] is not None or rows[name]["other"] is not None
    ]


def _side_by_side(base: "Array", other: "Array") -> "Array":
    import numpy as np

    return np.concatenate([base, other], axis=1)


def _differences(
    units: "Array", columns: int, scores: Callable[["Array"], Mapping[str, "Array"]]
) -> dict[str, dict[str, Any]]:
    """Return name -> base, other and the interval of their difference, from (images, 2 * columns) counts."""
    totals = units.sum(axis=0, keepdims=True)
    draws = resampled_totals(units)
    old, new = scores(totals[:, :columns]), scores(totals[:, columns:])
    old_draws, new_draws = scores(draws[:, :columns]), scores(draws[:, columns:])
    rows = {}
    for name in old:
        bounds = interval(new_draws[name] - old_draws[name])
        rows[name] = {
            "base": _number(old[name]),
            "other": _number(new[name]),
            "ci95": None if bounds is None else (bounds[0], bounds[1]),
        }
    return rows


def _number(value: "Array") -> float | None:
    number = float(value[0])
    return None if number != number else number


def _refuse_nothing_in_common(common: Sequence[object]) -> None:
    if not common:
        raise AmpError("The two runs have no scored item in common", hint="Compare runs over the same --data")
