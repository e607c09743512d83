"""The paper's own numbers (arXiv 2405.11165), quoted beside a user's; not measured by this program."""

from dataclasses import dataclass
from typing import Any

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
    def f1_and_yes(self) -> tuple[float, ...]:
        """The row's numbers in the table's order."""
        return self.adversarial, self.popular, self.random, self.overall, self.yes_ratio

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
