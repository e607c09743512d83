"""The paper's own numbers (arXiv 2405.11165), quoted beside a user's; not measured by this program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.showing import shown

PAPER = "arXiv 2405.11165"
SOURCE = f"{PAPER}, on COCO photographs"
JUDGE_NOTE = "judged by GPT-4 with the official prompts; other judges rate otherwise"


@dataclass(frozen=True, kw_only=True)
class QuotedPope:
    """A row of the paper's POPE table: F1 by split, over all, and the share of yes answers; 0..1."""

    model: str
    adversarial: float
    popular: float
    random: float
    overall: float
    yes_ratio: float

    @property
    def cells(self) -> list[str]:
        """The row as text, in the table's order."""
        numbers = (self.adversarial, self.popular, self.random, self.overall, self.yes_ratio)
        return [self.model, *map(shown, numbers)]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "f1": {
                "adversarial": self.adversarial,
                "popular": self.popular,
                "random": self.random,
                "overall": self.overall,
            },
            "yes_ratio": self.yes_ratio,
            "quoted": SOURCE,
        }


def _row(model: str, *percent: float) -> QuotedPope:
    adversarial, popular, random, overall, yes = (round(value / 100, 3) for value in percent)
    return QuotedPope(
        model=model, adversarial=adversarial, popular=popular, random=random, overall=overall, yes_ratio=yes
    )


POPE_ROWS = (
    _row("LLaVA-v1.5-7B", 84.5, 86.0, 87.2, 85.9, 42.2),
    _row("AMP-MEG-7B", 83.4, 87.7, 89.6, 86.9, 48.0),
    _row("AMP-MEG-13B", 83.4, 88.0, 90.3, 87.2, 49.8),
    _row("AMP-IG-7B", 82.3, 87.0, 87.7, 85.7, 45.1),
    _row("AMP-IG-13B", 83.0, 86.0, 89.6, 86.2, 46.3),
)


@dataclass(frozen=True, kw_only=True)
class QuotedRow:
    """A row of the paper's other tables: a model and its scores by the names that `amp report` compares them under."""

    model: str
    scores: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "scores": self.scores, "quoted": f"{PAPER}, {JUDGE_NOTE}"}


_NAMES = {
    "mmhal": ("score", "hallucination_rate"),
    "mrhal": ("cumulative/score", "mean/score", "cumulative/hallucination_rate", "mean/hallucination_rate"),
    "llava-bench": ("conv/relative", "detail/relative", "complex/relative"),
}


def _rows(**models: tuple[float | None, ...]) -> dict[str, tuple[QuotedRow, ...]]:
    """Spread each model's nine numbers over the three benchmarks."""
    tables: dict[str, list[QuotedRow]] = {name: [] for name in _NAMES}
    for model, numbers in models.items():
        left = list(numbers)
        for benchmark, names in _NAMES.items():
            scores = {name: left.pop(0) for name in names}
            tables[benchmark].append(QuotedRow(model=model, scores=scores))
    return {name: tuple(rows) for name, rows in tables.items()}


# MMHal score and rate, MRHal score (cumulative, mean) and rate (likewise), LLaVA-Bench conversation, detail, complex
JUDGED_ROWS = _rows(
    **{
        "LLaVA-v1.5-7B": (2.01, 0.61, 3.38, 3.39, 0.32, 0.29, 80.2, 75.9, 89.2),
        "LLaVA-v1.5-13B": (2.44, 0.53, 3.58, 3.59, 0.29, 0.27, 81.6, 75.5, 95.2),
        "LLaVA-RLHF-7B": (2.04, 0.68, 3.58, 3.56, 0.34, 0.29, 85.3, 74.7, 105.6),
        "LLaVA-RLHF-13B": (2.53, 0.57, 3.26, 3.27, 0.45, 0.38, 93.8, 74.3, 111.4),
        "RLHF-V": (2.66, 0.52, 2.54, 2.60, 0.52, 0.56, 93.1, 75.3, 91.6),
        "SILKIE": (3.02, None, 3.71, 3.70, 0.30, 0.29, 86.3, 76.4, 95.3),
        "AMP-MEG-7B": (3.17, 0.35, 4.07, 4.06, 0.20, 0.15, 89.7, 89.1, 98.8),
        "AMP-MEG-13B": (3.23, 0.34, 4.21, 4.21, 0.15, 0.11, 94.4, 91.2, 95.6),
        "AMP-IG-7B": (3.12, 0.41, 4.02, 4.04, 0.22, 0.13, 90.2, 85.9, 99.8),
        "AMP-IG-13B": (3.18, 0.36, 3.96, 4.01, 0.22, 0.20, 91.3, 86.8, 99.4),
    }
)


def quoted_rows() -> dict[str, list[dict[str, Any]]]:
    """Return all quoted rows by benchmark, as `amp report --json` prints them."""
    judged = {name: [row.to_json() for row in rows] for name, rows in JUDGED_ROWS.items()}
    return {"pope": [row.to_json() for row in POPE_ROWS], **judged}


@dataclass(frozen=True, kw_only=True)
class QuotedTable:
    """The paper's rows of a benchmark: what they are, where they come from, and columns, `model` being the first."""

    what: str
    heading: str
    source: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    measured: Callable[[Mapping[str, Any]], list[str]] | None = None
    """A run's own numbers in these columns, where the report's own table does not have them."""


def quoted_table(benchmark: str) -> QuotedTable | None:
    """Return the paper's rows of a benchmark; None where it has none."""
    if benchmark == "pope":
        return QuotedTable(
            what="POPE F1",
            heading="F1 beside the paper’s",
            source=SOURCE,
            note=f"{SOURCE}. They are comparable only with runs over the same questions and images",
            columns=["model", "adversarial", "popular", "random", "mean", "said yes"],
            rows=[row.cells for row in POPE_ROWS],
            measured=_f1_and_yes,
        )
    if benchmark not in JUDGED_ROWS:
        return None
    rows = JUDGED_ROWS[benchmark]
    titles = {one.difference: one.title for one in BENCHMARKS[benchmark].columns}
    return QuotedTable(
        what=BENCHMARKS[benchmark].title.partition(":")[0],
        heading="The paper’s rows",
        source=f"{PAPER};\n{JUDGE_NOTE}",
        note=f"{PAPER}, {JUDGE_NOTE}",
        columns=["model", *(_shortened(titles[name]) for name in rows[0].scores)],
        rows=[[row.model, *(_as_printed(value, name) for name, value in row.scores.items())] for row in rows],
    )


def _f1_and_yes(scores: Mapping[str, Any]) -> list[str]:
    """Return a run's numbers in the columns of the paper's table of POPE."""
    f1 = {split: block["f1"] for split, block in scores["splits"].items()}
    overall = scores["overall"]
    numbers = (*(f1.get(split) for split in ("adversarial", "popular", "random")), overall["mean_f1"])
    return [*map(shown, numbers), shown(overall["yes_ratio"])]


def _shortened(title: str) -> str:
    """Return a heading narrow enough for five columns in 80 characters."""
    return title.replace("hallucination", "hal.").replace("cumulative", "cum.")


def _as_printed(value: float | None, name: str) -> str:
    """Return a number with the digits that the paper gives."""
    return "-" if value is None else f"{value:.{1 if name.endswith('relative') else 2}f}"
