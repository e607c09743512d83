"""Turns scores into table rows for people: each number with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amp_cli.report.paper import JUDGED_ROWS

Table = tuple[str, list[str], list[list[str]]]
"""Title, columns, rows."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a benchmark's table.

    `lower_is_better` is None where neither end is good; `full` is the score that fills a chart, if it has one.
    """

    title: str
    group: tuple[str, ...]
    name: str
    lower_is_better: bool | None
    difference: str | None = None
    full: float = 1.0
    is_charted: bool = True

    def value(self, scores: Mapping[str, Any]) -> float | None:
        """Return the score, None where it is undefined."""
        block = self._block(scores)
        return None if block is None else block.get(self.name)

    def interval(self, scores: Mapping[str, Any]) -> list[float] | None:
        """Return the score's 95 % interval."""
        block = self._block(scores)
        return None if block is None else block.get("ci95", {}).get(self.name)

    def _block(self, scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
        block: Any = scores
        for key in self.group:
            block = block.get(key)
            if block is None:
                return None
        return dict(block)


def _pope(title: str, split: str, name: str, *, lower_is_better: bool | None = False) -> Column:
    group = ("overall",) if split == "overall" else ("splits", split)
    known = name in ("accuracy", "f1")
    return Column(
        title=title,
        group=group,
        name=name,
        lower_is_better=lower_is_better,
        difference=f"{split}/{name}" if known else None,
    )


def _same(title: str, path: str, *, lower_is_better: bool | None, full: float = 1.0) -> Column:
    """A column whose difference is named by its place in the scores: `mean/score`."""
    *group, name = path.split("/")
    return Column(
        title=title, group=tuple(group), name=name, lower_is_better=lower_is_better, difference=path, full=full
    )


def _rating(title: str, path: str) -> Column:
    return _same(title, path, lower_is_better=False, full=6.0)


def _type(name: str) -> Column:
    return Column(title=name, group=("types", name), name="score", lower_is_better=False, is_charted=False)


def _relative(title: str, category: str) -> Column:
    group = (category,) if category == "overall" else ("categories", category)
    return Column(
        title=title,
        group=group,
        name="relative",
        lower_is_better=False,
        difference=f"{category}/relative",
        full=120.0,
    )


_TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
_LLAVA_BENCH = (
    _relative("conversation", "conv"),
    _relative("detail", "detail"),
    _relative("complex", "complex"),
    _relative("overall", "overall"),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "pope": (
        _pope("accuracy, all", "overall", "accuracy"),
        _pope("random", "random", "accuracy"),
        _pope("popular", "popular", "accuracy"),
        _pope("adversarial", "adversarial", "accuracy"),
        _pope("F1, mean of splits", "overall", "mean_f1"),
        _pope("said yes", "overall", "yes_ratio", lower_is_better=None),
    ),
    "chair": (
        _same("CHAIR-i", "chair_i", lower_is_better=True),
        _same("CHAIR-s", "chair_s", lower_is_better=True),
        _same("recall", "recall", lower_is_better=False),
        Column(title="words", group=(), name="words", lower_is_better=None, difference="words", is_charted=False),
    ),
    "amber": (
        _same("CHAIR", "generative/chair", lower_is_better=True),
        _same("Cover", "generative/cover", lower_is_better=False),
        _same("Hal", "generative/hal", lower_is_better=True),
        _same("Cog", "generative/cog", lower_is_better=True),
        _same("accuracy", "discriminative/accuracy", lower_is_better=False),
        _same("F1", "discriminative/f1", lower_is_better=False),
        _same("AMBER score", "amber_score", lower_is_better=False),
    ),
    "mmhal": (
        _rating("score, 0 to 6", "score"),
        _same("hallucination rate", "hallucination_rate", lower_is_better=True),
        *map(_type, _TYPES),
    ),
    "mrhal": (
        _rating("score, cumulative", "cumulative/score"),
        _rating("score, mean", "mean/score"),
        _same("hallucination rate, cumulative", "cumulative/hallucination_rate", lower_is_better=True),
        _same("hallucination rate, mean", "mean/hallucination_rate", lower_is_better=True),
    ),
    "llava-bench": _LLAVA_BENCH,
    "llava-bench-wild": _LLAVA_BENCH,
}
TITLES = {
    "pope": "POPE: is the object there? (accuracy)",
    "chair": "CHAIR: objects named in descriptions that are not there",
    "amber": "AMBER: what descriptions invent, and yes/no questions",
    "mmhal": "MMHal-Bench: a judge's ratings of 96 answers, 0 to 6",
    "mrhal": "MRHal-Bench: a judge's ratings of every round of a dialogue, 0 to 6",
    "llava-bench": "LLaVA-Bench (COCO): score relative to the reference answer, %",
    "llava-bench-wild": "LLaVA-Bench (in the wild): score relative to the reference answer, %",
}
ITEMS = {"chair": "descriptions", "mrhal": "dialogues", "amber": "questions and descriptions"}
"""What a benchmark's items are, if not questions."""
DIGITS = {"words": 1, "relative": 1, "score": 2, "reference": 2, "model": 2}
"""Digits after the point by the last part of a score's name; 3 for the others."""


def digits_of(name: str) -> int:
    """Return how many digits after the point a score is shown with."""
    return DIGITS.get(name.rpartition("/")[2], 3)


def shown(value: float | None, bounds: Sequence[float] | None = None, *, name: str = "") -> str:
    """Return `0.850` and below it `0.831-0.868`, with the digits of the score `name`; a dash for the undefined."""
    if value is None:
        return "-"
    digits = digits_of(name)
    text = f"{value:.{digits}f}"
    return text if bounds is None else f"{text}\n{bounds[0]:.{digits}f}-{bounds[1]:.{digits}f}"


def score_tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return the tables of one evaluation, narrow enough for a terminal of 80 columns."""
    if scores["benchmark"] != "amber":
        return [_score_table(scores)]
    below = f"rule {scores['rule']}; below each score its 95 % interval"
    tables = []
    if described := scores["generative"]:
        names = ("chair", "cover", "hal", "cog")
        cells = [shown(described[name], described["ci95"][name]) for name in names]
        title = f"AMBER, descriptions; {below.replace(scores['rule'], described['rule'])}"
        tables.append((title, ["n", "CHAIR", "Cover", "Hal", "Cog"], [[str(described["n"]), *cells]]))
    if scores["discriminative"]:
        names = ("accuracy", "precision", "recall", "f1")
        blocks = {"all": scores["discriminative"], **scores["types"]}
        columns, rows = _block_rows(blocks, names)
        unparsed = f"{scores['discriminative']['unparsed']:,} answers unparsed"
        tables.append((f"AMBER, yes/no questions (no is the positive class), {unparsed}; {below}", columns, rows))
    return tables


def _score_table(scores: Mapping[str, Any]) -> Table:
    name = scores["benchmark"]
    title = f"{name.upper()}, rule {scores['rule']}; below each score its 95 % interval"
    if name == "pope":
        return title, *_pope_rows(scores)
    if name == "mmhal":
        blocks = {"all": scores, **scores["types"]}
        return title, *_block_rows(blocks, ("score", "hallucination_rate"))
    if name == "mrhal":
        rows = _block_rows({way: scores[way] for way in ("cumulative", "mean")}, ("score", "hallucination_rate"))
        return f"{title}\n{scores['n']} dialogues, {scores['rounds']} rounds, {scores['unscored']} unscored", *rows
    if name.startswith("llava-bench"):
        blocks = {**scores["categories"], "overall": scores["overall"]}
        return title, *_block_rows(blocks, ("relative", "reference", "model"))
    columns = [one for one in COLUMNS[name] if one.value(scores) is not None]
    row = [shown(one.value(scores), one.interval(scores), name=one.name) for one in columns]
    return title, ["n", *(one.title for one in columns)], [[str(scores["n"]), *row]]


def _pope_rows(scores: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    blocks = {**scores["splits"], "overall": scores["overall"]}
    rows = [["questions", *(str(block["n"]) for block in blocks.values())]]
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        cells = [shown(block[name], block["ci95"].get(name)) for block in blocks.values()]
        rows.append([name.replace("_", " "), *cells])
    rows.append(["unparsed", *(str(block["unparsed"]) for block in blocks.values())])
    return ["", *blocks], rows


def _block_rows(blocks: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each type, category or way of counting; how many items and how many unscored where it says."""
    counts = [count for count in ("n", "unscored") if all(count in block for block in blocks.values())]
    rows = [
        [
            group,
            *(shown(block[name], block["ci95"].get(name), name=name) for name in names),
            *(str(block[count]) for count in counts),
        ]
        for group, block in blocks.items()
    ]
    return ["", *(name.replace("_", " ") for name in names), *counts], rows


def method_sentence(scores: Mapping[str, Any]) -> str:
    """Say what else decides the numbers: who judged, how AMBER's objects were found, which images CHAIR took."""
    if scores.get("judge"):
        return _judge_sentence(scores)
    if scores.get("generative"):
        differences = " ".join(scores["generative"]["differences"]).removesuffix(".")
        return f"descriptions are not scored by AMBER's own script. {differences}"
    if sample := scores.get("sample"):
        return f"images: list '{sample['rule']}' of {sample['n']:,}, sha256 {sample['sha256'][:8]}"
    return ""


def _judge_sentence(scores: Mapping[str, Any]) -> str:
    """Say who judged, by which template, how often, and what could not be read."""
    judge = scores["judge"]
    names = ", ".join(judge["reported_models"]) or judge.get("model") or judge.get("file") or judge.get("kind", "?")
    template = judge.get("template")
    parts = [f"judged by {names}"]
    if template:
        parts.append(f"template {template['name']} ({template['origin']}, {template['sha256'][:8]})")
    if scores["repeats"] > 1:
        parts.append(f"{scores['repeats']} verdicts an item")
    if scores["unread_verdicts"]:
        parts.append(f"{scores['unread_verdicts']:,} of {judge['replies']:,} verdicts unreadable")
    if judge.get("cost") is not None:
        parts.append(f"cost {judge['cost']:.2f}")
    return "; ".join(parts)


def quoted_rows(benchmark: str) -> Table | None:
    """Return the paper's rows of a judged benchmark; None where it has none."""
    if benchmark not in JUDGED_ROWS:
        return None
    rows = JUDGED_ROWS[benchmark]
    titles = {one.difference: one.title for one in COLUMNS[benchmark]}
    columns = ["model", *(_shortened(titles[name]) for name in rows[0].scores)]
    return (
        f"Quoted: {TITLES[benchmark].partition(':')[0]}",
        columns,
        [[row.model, *(_as_printed(value, name) for name, value in row.scores.items())] for row in rows],
    )


def _shortened(title: str) -> str:
    """Return a heading narrow enough for five columns in 80 characters."""
    return title.replace("hallucination", "hal.").replace("cumulative", "cum.")


def _as_printed(value: float | None, name: str) -> str:
    """Return a number with the digits that the paper gives."""
    return "-" if value is None else f"{value:.{1 if name.endswith('relative') else 2}f}"
