"""The numbers of a set of preferences: levels, accuracy and score, what auto-check changed, what was dropped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amp_cli.records import Level, PreferenceItem


@dataclass(kw_only=True)
class Tally:
    """Counts what happens to the items on their way to levels."""

    reordered: int = 0
    without_chunk: int = 0
    dropped_levels: Counter[str] = field(default_factory=lambda: Counter({"identical": 0, "empty": 0}))
    dropped_sources: Counter[str] = field(default_factory=Counter)
    dropped_items: list[dict[str, str]] = field(default_factory=list)

    def drop_level(self, reason: str, source: str) -> None:
        self.dropped_levels[reason] += 1
        self.dropped_sources[source] += 1

    def drop_item(self, item_id: str, reason: str) -> None:
        self.dropped_items.append({"id": item_id, "reason": reason})


def summarise(
    items: Sequence[PreferenceItem], tally: Tally, *, rejected: int, check: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the content of `stats.json`; means are over the levels that auto-check could compare.

    Args:
        check: what auto-check compared with, or None where it was off.
    """
    by_level: dict[int, list[Level]] = {}
    by_source: dict[str, list[tuple[int, Level]]] = {}
    for item in items:
        for number, level in enumerate(item.levels):
            by_level.setdefault(number, []).append(level)
            by_source.setdefault(level.source, []).append((number, level))
    lengths = Counter(len(item.levels) for item in items)
    return {
        "items": len(items),
        "rejected": rejected,
        "levels": {str(count): lengths[count] for count in sorted(lengths)},
        "auto_check": None
        if check is None
        else {**check, "reordered": tally.reordered, "items_without_chunk": tally.without_chunk},
        "per_level": [{"level": number, **_means(levels)} for number, levels in sorted(by_level.items())],
        "per_source": {
            source: {**_means([level for _, level in placed]), "mean_level": _mean([number for number, _ in placed])}
            for source, placed in by_source.items()
        },
        "dropped": {**tally.dropped_levels, "items": len(tally.dropped_items)},
        "dropped_per_source": dict(sorted(tally.dropped_sources.items())),
        "dropped_items": tally.dropped_items,
    }


def _means(levels: Sequence[Level]) -> dict[str, Any]:
    return {
        "n": len(levels),
        "accuracy": _mean([level.accuracy for level in levels if level.accuracy is not None]),
        "score": _mean([level.score for level in levels if level.score is not None]),
        "words": _mean([sum(len(answer.split()) for answer in level.answers) for level in levels]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
