"""What the page says of a set as a whole: sentences, single numbers and tables."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class OverviewTable:
    """Rows of ready texts under their heads."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The page's name, its remarks, and its numbers as (value, what it counts)."""

    title: str
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    tables: tuple[OverviewTable, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def overview_of_run(stats: Mapping[str, Any], shown: int) -> Overview:
    """Describe what `amp generate-prefs` made; `stats` is its stats.json, `shown` how many items the page has."""
    check = stats["auto_check"]
    notes = [] if check else ["Auto-check was off: the order is the given one."]
    if shown < stats["items"]:
        notes.append(f"The first {shown:,} of {stats['items']:,} items are shown; all are in preferences.jsonl.")
    facts = [(f"{stats['items']:,}", "items"), *_levels(stats["levels"])]
    if check:
        facts += [
            (f"{check['reordered']:,}", "reordered by auto-check"),
            (f"{check['items_without_chunk']:,}", "without a noun chunk"),
        ]
    facts += [
        (f"{stats['dropped']['identical']:,}", "identical levels merged"),
        (f"{stats['dropped']['items']:,}", "items dropped"),
        (f"{stats['rejected']:,}", "rejected"),
    ]
    return Overview(title="Preferences", notes=tuple(notes), facts=tuple(facts), tables=_tables(stats))


def overview_of_figures(figures: Mapping[str, Any], *, title: str, notes: tuple[str, ...], rejected: int) -> Overview:
    """Describe the items of a page by their figures (`Figures.to_json`)."""
    facts = (
        (f"{figures['items']:,}", "items"),
        *_levels(figures["levels"]),
        (f"{figures['pictures']['distinct']:,}", "different pictures"),
        (f"{rejected:,}", "rejected"),
    )
    return Overview(title=title, notes=notes, facts=facts, tables=_tables(figures))


def _levels(levels: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(f"{count:,}", f"with {number} levels") for number, count in levels.items()]


def _tables(stats: Mapping[str, Any]) -> tuple[OverviewTable, ...]:
    heads = ("answers", "mean words", "accuracy", "score")
    levels = tuple((str(row["level"]), *_cells(row)) for row in stats["per_level"])
    sources = tuple(
        (source, *_cells(row), _digits(row["mean_level"], 2)) for source, row in stats["per_source"].items()
    )
    return (
        OverviewTable(title="By level; 0 is the best", columns=("level", *heads), rows=levels),
        OverviewTable(title="By source", columns=("source", *heads, "mean level"), rows=sources),
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    words = row["words"]["mean"] if isinstance(row["words"], Mapping) else row["words"]
    return f"{row['n']:,}", _digits(words, 1), _digits(row["accuracy"], 3), _digits(row["score"], 3)


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
