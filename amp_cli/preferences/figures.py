"""Counts a preference set in one pass: how many levels, how long they are, who wrote them, which images repeat."""

import random
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from amp_cli import ui
from amp_cli.dialogues.language import can_be
from amp_cli.dialogues.pair_style import CLEAR, FEWEST_ITEMS, PairDifferences, words_of
from amp_cli.errors import AmpError
from amp_cli.preferences.nounchunks import ChunkParser
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
    """Takes items one by one; memory grows by 8 bytes for each image that an item names, beyond a sample of items."""

    def __init__(self) -> None:
        self.items = 0
        self.levels: Counter[int] = Counter()
        self.rounds: Counter[int] = Counter()
        self.images: Counter[int] = Counter()
        self.datasets: Counter[str] = Counter()
        self.per_level: dict[int, _LevelFigures] = {}
        self.per_source: dict[str, _LevelFigures] = {}
        self.differences: dict[str, Counter[int]] = {"adjacent": Counter(), "best_and_worst": Counter()}
        self.style = PairStyle()
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
        self.style.take(item)

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
            "pair_style": self.style.to_json(),
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


SAMPLED = 200
"""Items whose noun chunks are counted, drawn at random: parsing takes some milliseconds an answer."""


class PairStyle:
    """Collects how the better side of pairs is written; words of all items, noun chunks of a sample that is kept."""

    def __init__(self) -> None:
        self.words = PairDifferences()
        self.chunks: PairDifferences | None = None
        self.why_no_chunks: str | None = "they were not looked for"
        self._seen = 0
        self._sample: list[PreferenceItem] = []
        self._chance = random.Random(0)

    def take(self, item: PreferenceItem) -> None:
        """Take in one item."""
        self.words.take([words_of(level) for level in item.levels])
        self._seen += 1
        if len(self._sample) < SAMPLED:
            self._sample.append(item)
        elif (place := self._chance.randrange(self._seen)) < SAMPLED:
            self._sample[place] = item

    def count_chunks(self, parser: ChunkParser | None = None) -> None:
        """Count the noun chunks of the sample's answers, or note why there are none to count.

        Args:
            parser: of the language that the answers are in; None is our own, for English.
        """
        try:
            parser = parser or ChunkParser()
            readable = [item for item in self._sample if can_be(_answers_of(item), parser.language)]
            if not readable:
                self.why_no_chunks = f"no answer is in the language of {parser.model} ({parser.language})"
                return
            self.chunks = PairDifferences()
            with ui.progress("Noun chunks", len(readable)) as advance:
                for item in readable:
                    parsed = iter(parser.parse(_answers_of(item)))
                    self.chunks.take([sum(len(next(parsed).chunks) for _ in level.answers) for level in item.levels])
                    advance()
            self.why_no_chunks = None
        except AmpError as error:  # no parser is installed; nothing else needs it here
            self.chunks, self.why_no_chunks = None, error.message

    def finding(self) -> str | None:
        """Return what pairs with level 0 teach of length, where that is clear."""
        lean = self.words.with_level_0
        if not lean.is_clear:
            return None
        others = self.words.among_others
        beside = f"; among the others it is {others.told()}" if others.difference.pairs else ""
        return f"in pairs with level 0 the better side is {lean.told()}{beside}: pairs with the standard teach length"

    def to_json(self) -> dict[str, Any]:
        """Return differences of better minus worse, in words and in noun chunks, summed over an item's rounds."""
        return {
            "words": self.words.to_json(),
            "noun_chunks": None if self.chunks is None else self.chunks.to_json(),
            "why_no_noun_chunks": self.why_no_chunks,
            "threshold": {"relative": CLEAR, "items": FEWEST_ITEMS},
        }


STYLE_TITLE = "How the better side of pairs is written, against the worse (95 % interval)"
STYLE_HEADS = ("pairs", "how many", "words", "shorter in", "noun chunks", "fewer in", "more in")


def style_rows(style: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table of `PairStyle.to_json` under `STYLE_HEADS`."""
    rows: list[tuple[str, ...]] = []
    for kind, name in (("with_level_0", "with level 0"), ("among_others", "among the others")):
        words = style["words"][kind]
        if not words["pairs"]:
            continue
        chunks = (style["noun_chunks"] or {}).get(kind) or {}
        rows.append(
            (
                name,
                f"{words['pairs']:,}",
                _with_interval(words),
                _share(words["better_has_less"]),
                _with_interval(chunks),
                _share(chunks.get("better_has_less")),
                _share(chunks.get("better_has_more")),
            )
        )
    return rows


def _with_interval(differences: Mapping[str, Any]) -> str:
    if differences.get("difference") is None:
        return "–"
    interval = differences["ci95"]
    return f"{differences['difference']:+.1f}" + (f" ({interval[0]:+.1f} to {interval[1]:+.1f})" if interval else "")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _answers_of(item: PreferenceItem) -> list[str]:
    return [answer for level in item.levels for answer in level.answers]


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


def summarise(
    figures: Figures,
    tally: Tally,
    *,
    rejected: int,
    check: dict[str, Any] | None,
    parser: ChunkParser | None = None,
) -> dict[str, Any]:
    """Return the content of `stats.json`: the figures that `amp prefs stats` gives too, and what led to the levels.

    Args:
        check: what auto-check compared with, or None where it was off.
        parser: counts noun chunks; None where auto-check was off: they are not counted.
    """
    if parser is None:
        figures.style.why_no_chunks = "auto-check, which parses the answers, was off"
    else:
        figures.style.count_chunks(parser)
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
