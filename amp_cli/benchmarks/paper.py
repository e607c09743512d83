"""The paper's own numbers (arXiv 2405.11165), quoted beside a user's; not measured by this program."""

from dataclasses import dataclass
from typing import Any

SOURCE = "arXiv 2405.11165, on COCO photographs"


@dataclass(frozen=True, kw_only=True)
class QuotedPope:
    """A row of the paper's POPE table: F1 by split, over all, and the share of yes answers; 0..1."""

    model: str
    adversarial: float
    popular: float
    random: float
    overall: float
    yes_ratio: float

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
