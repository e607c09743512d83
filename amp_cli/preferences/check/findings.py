"""What a check finds: faults (the item cannot be used) and warnings (it can, but should be looked at)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amp_cli.errors import AmpError

EXAMPLES = 10
"""Ids that are named for each check; the list of all is written with --out."""
CHECKS = {
    "schema": "entries that are not preference items",
    "empty-answer": "items with an empty answer",
    "id": "items whose id occurs before",
    "image": "items whose image is missing or cannot be read",
    "image-place": "items with '<image>' in a text, which marks an image's place",
    "duplicate-item": "items that ask the same of the same images as an earlier one",
    "duplicate-answer": "items with (nearly) the same response at two levels",
    "wordless-answer": "items with an answer without a letter or digit",
    "image-token": "items with a model's image token in a text",
    "prompt-leak": "items whose answer repeats the question or holds role tags or template text",
    "truncation": "items longer than the context",
    "leakage": "items that share an image with a benchmark",
    "length-bias": "the best answers have another length than the others",
    "pair-length": "pairs with level 0 whose better side has another length",
    "style-shift": "sources write in different styles",
    "language": "answers that are not in English, whose style is not compared",
}
"""Every check and what it says of the items it found; the last four speak of the data as a whole."""
FAULTS = ("schema", "empty-answer", "id", "image", "image-place")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found: a sentence, how many items (or comparisons), and the ids of the first."""

    check: str
    message: str
    count: int
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise AmpError(f"There is no check '{self.check}'", hint="See `amp prefs check --help`")

    @property
    def is_fault(self) -> bool:
        return self.check in FAULTS

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "message": self.message,
            "count": self.count,
            "examples": list(self.examples),
        }


class Findings:
    """Counts what the checks find, item by item, and keeps the first ids and the first reason of each check.

    `listed` takes every single finding, `{"id", "check", "fault", "reason"}`, as it is made.
    """

    def __init__(self, listed: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self._listed = listed
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._reasons: dict[str, str] = {}
        self._whole: list[Finding] = []

    def add(self, check: str, item_id: str, reason: str) -> None:
        """Note a finding about one item, once for each check."""
        self._counts[check] = self._counts.get(check, 0) + 1
        examples = self._examples.setdefault(check, [])
        if len(examples) < EXAMPLES:
            examples.append(item_id)
        self._reasons.setdefault(check, reason)
        if self._listed is not None:
            self._listed({"id": item_id, "check": check, "fault": check in FAULTS, "reason": reason})

    def add_whole(self, finding: Finding) -> None:
        """Note a finding about the data as a whole."""
        self._whole.append(finding)

    def all(self) -> list[Finding]:
        """Return the findings in the order of `CHECKS`."""
        single = [
            Finding(
                check=check,
                message=f"{CHECKS[check]}; the first: {self._reasons[check]}",
                count=count,
                examples=tuple(self._examples[check]),
            )
            for check, count in self._counts.items()
        ]
        return sorted([*single, *self._whole], key=lambda finding: list(CHECKS).index(finding.check))
