"""Counts a preference set in one pass: how many levels, how long they are, who wrote them, which images repeat."""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from amp_cli.records import Level, PreferenceItem

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(kw_only=True)
class _LevelFigures:
    """Sums over the levels of one place or one source."""

    words: Counter[int] = field(default_factory=Counter)
    places: int = 0
    accuracy: list[float] = field(default_factory=lambda: [0.0, 0.0])
    score: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, level: Level, words: int, place: int) -> None:
        self.words[words] += 1
        self.places += place
        for sums, value in ((self.accuracy, level.accuracy), (self.score, level.score)):
            if value is not None:
                sums[0] += value
                sums[1] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.words.total(),
            "words": spread(self.words),
            "accuracy": _mean_of(self.accuracy),
            "score": _mean_of(self.score),
        }


class Figures:
    """Takes items one by one; memory grows by 8 bytes for each image that an item names, and with nothing else."""

    def __init__(self) -> None:
        self.items = 0
        self.levels: Counter[int] = Counter()
        self.rounds: Counter[int] = Counter()
        self.images: Counter[int] = Counter()
        self.datasets: Counter[str] = Counter()
        self.per_level: dict[int, _LevelFigures] = {}
        self.per_source: dict[str, _LevelFigures] = {}
        self.differences: dict[str, Counter[int]] = {"adjacent": Counter(), "best_and_worst": Counter()}
        self._image_names = array("Q")

    def add(self, item: PreferenceItem) -> None:
        """Count one item."""
        self.items += 1
        self.levels[len(item.levels)] += 1
        self.rounds[len(item.questions)] += 1
        self.images[len(item.images)] += 1
        self.datasets[dataset_of(item)] += 1
        for name in set(item.images):
            digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self._image_names.append(int.from_bytes(digest))
        words = [words_of(level) for level in item.levels]
        for place, (level, count) in enumerate(zip(item.levels, words, strict=True)):
            self.per_level.setdefault(place, _LevelFigures()).add(level, count, place)
            self.per_source.setdefault(level.source, _LevelFigures()).add(level, count, place)
        self.differences["adjacent"].update(better - worse for better, worse in pairwise(words))
        self.differences["best_and_worst"][words[0] - words[-1]] += 1

    def to_json(self) -> dict[str, Any]:
        """Return all figures; words are summed over an item's rounds, differences are better minus worse, in words."""
        return {
            "items": self.items,
            "levels": _by_number(self.levels),
            "rounds": _by_number(self.rounds),
            "pictures": {"per_item": _by_number(self.images), **self._repeats()},
            "datasets": dict(self.datasets.most_common()),
            "per_level": [{"level": place, **self.per_level[place].to_json()} for place in sorted(self.per_level)],
            "per_source": {
                source: {**one.to_json(), "mean_level": one.places / one.words.total()}
                for source, one in sorted(self.per_source.items(), key=lambda pair: -pair[1].words.total())
            },
            "length_differences": {name: _difference(counts) for name, counts in self.differences.items()},
        }

    def _repeats(self) -> dict[str, int]:
        """Count images by name: how many there are, how many stand in several items, and in how many at most."""
        import numpy as np

        _, items_each = np.unique(np.frombuffer(self._image_names, dtype=np.uint64), return_counts=True)  # (names,)
        return {
            "distinct": len(items_each),
            "in_several_items": int((items_each > 1).sum()),
            "most_items": int(items_each.max(initial=0)),
        }


def dataset_of(item: PreferenceItem) -> str:
    """Return the data set an item says it is from, '' where it says nothing."""
    name = item.meta.get("dataset")
    return name if isinstance(name, str) else ""


def words_of(level: Level) -> int:
    """Return the words of a level's answers, all rounds together."""
    return sum(len(answer.split()) for answer in level.answers)


def spread(counts: Mapping[int, int]) -> dict[str, float]:
    """Return mean, quartiles and ends of numbers that are given as number -> how often."""
    import numpy as np

    values = np.array(sorted(counts))  # (different,)
    weights = np.array([counts[value] for value in values.tolist()])
    ends_and_quartiles = np.quantile(values, QUARTERS, weights=weights, method="inverted_cdf")
    names = ("min", "q1", "median", "q3", "max")
    return {
        "mean": float(np.average(values, weights=weights)),
        **{name: int(value) for name, value in zip(names, ends_and_quartiles, strict=True)},
    }


def _difference(counts: Counter[int]) -> dict[str, Any] | None:
    total = counts.total()
    if not total:
        return None
    return {
        "pairs": total,
        **spread(counts),
        "better_is_longer": sum(count for words, count in counts.items() if words > 0) / total,
        "equally_long": counts[0] / total,
    }


def _mean_of(sums: list[float]) -> float | None:
    return sums[0] / sums[1] if sums[1] else None


def _by_number(counts: Counter[int]) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}


@dataclass(kw_only=True)
class Tally:
    """Counts what happens to the items on their way to levels."""

    reordered: int = 0
    without_chunk: int = 0
    other_language: int = 0
    dropped_levels: Counter[str] = field(default_factory=lambda: Counter({"identical": 0, "empty": 0}))
    dropped_sources: Counter[str] = field(default_factory=Counter)
    dropped_items: list[dict[str, str]] = field(default_factory=list)

    def drop_level(self, reason: str, source: str) -> None:
        self.dropped_levels[reason] += 1
        self.dropped_sources[source] += 1

    def drop_item(self, item_id: str, reason: str) -> None:
        self.dropped_items.append({"id": item_id, "reason": reason})


def summarise(figures: Figures, tally: Tally, *, rejected: int, check: dict[str, Any] | None) -> dict[str, Any]:
    """Return the content of `stats.json`: the figures that `amp prefs stats` gives too, and what led to the levels.

    Args:
        check: what auto-check compared with, or None where it was off.
    """
    counts = {
        "reordered": tally.reordered,
        "items_without_chunk": tally.without_chunk,
        "items_in_other_languages": tally.other_language,
    }
    return {
        **figures.to_json(),
        "rejected": rejected,
        "auto_check": None if check is None else {**check, **counts},
        "dropped": {**tally.dropped_levels, "items": len(tally.dropped_items)},
        "dropped_per_source": dict(sorted(tally.dropped_sources.items())),
        "dropped_items": tally.dropped_items,
    }
