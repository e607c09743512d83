"""Turns scores into table rows for people: each number with its interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a benchmark's table. `lower_is_better` is None where neither end is good."""

    title: str
    group: tuple[str, ...]
    name: str
    lower_is_better: bool | None
    difference: str | None = None

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
        Column(title="CHAIR-i", group=(), name="chair_i", lower_is_better=True, difference="chair_i"),
        Column(title="CHAIR-s", group=(), name="chair_s", lower_is_better=True, difference="chair_s"),
        Column(title="recall", group=(), name="recall", lower_is_better=False, difference="recall"),
        Column(title="words", group=(), name="words", lower_is_better=None, difference="words"),
    ),
}
TITLES = {
    "pope": "POPE: is the object there? (accuracy)",
    "chair": "CHAIR: objects named in descriptions that are not there",
}


def shown(value: float | None, bounds: list[float] | None = None, *, name: str = "") -> str:
    """Return `0.850` and below it `0.831-0.868`; lengths in words with one digit, a dash for what is undefined."""
    if value is None:
        return "-"
    digits = 1 if name == "words" else 3
    text = f"{value:.{digits}f}"
    return text if bounds is None else f"{text}\n{bounds[0]:.{digits}f}-{bounds[1]:.{digits}f}"


def score_rows(scores: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Return title, columns and rows of one evaluation, narrow enough for a terminal of 80 columns."""
    title = f"{scores['benchmark'].upper()}, rule {scores['rule']}; below each score its 95 % interval"
    if scores["benchmark"] == "chair":
        columns = COLUMNS["chair"]
        row = [shown(one.value(scores), one.interval(scores), name=one.name) for one in columns]
        return title, ["n", *(one.title for one in columns)], [[str(scores["n"]), *row]]
    blocks = {**scores["splits"], "overall": scores["overall"]}
    rows = [["questions", *(str(block["n"]) for block in blocks.values())]]
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        cells = [shown(block[name], block["ci95"].get(name)) for block in blocks.values()]
        rows.append([name.replace("_", " "), *cells])
    rows.append(["unparsed", *(str(block["unparsed"]) for block in blocks.values())])
    return title, ["", *blocks], rows
