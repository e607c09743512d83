"""Writes a page to browse preferences in: one file, images inside, that a browser opens without a server."""

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.jsonl import write_text
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.preferences.autocheck import Mark
from amp_cli.preferences.figures import STYLE_HEADS, STYLE_TITLE, dataset_of, style_rows
from amp_cli.records import PreferenceItem


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
        if others := check.get("items_in_other_languages"):  # earlier versions did not look
            facts.append((f"{others:,}", f"not in '{check['language']}': order of the experts kept"))
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
        (f"{figures['pictures']['distinct']:,}", "different images"),
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
        OverviewTable(title=STYLE_TITLE, columns=STYLE_HEADS, rows=tuple(style_rows(stats["pair_style"]))),
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    words = row["words"]["mean"]
    return f"{row['n']:,}", _digits(words, 1), _digits(row["accuracy"], 3), _digits(row["score"], 3)


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


JPEG_QUALITY = 80


def make_thumbnails(paths: Iterable[Path], side: int) -> dict[Path, str | AmpError]:
    """Return of each file a JPEG of at most `side` x `side` pixels as base64 text, or why there is none.

    Pillow decodes and scales outside Python's lock, so threads are enough.
    """
    different = list(dict.fromkeys(paths))

    def make(path: Path) -> str | AmpError:
        try:
            return _thumbnail(path, side)
        except AmpError as error:
            return error

    made: dict[Path, str | AmpError] = {}
    with (
        ui.progress("Thumbnails", len(different), unit="images") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            for path, thumbnail in zip(different, pool.map(make, different), strict=True):
                made[path] = thumbnail
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return made


def _thumbnail(path: Path, side: int) -> str:
    with open_image(path) as image:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


SHOWN_ITEMS = 5000
"""The page stays fluid so far; measured in Chromium."""
THUMBNAIL_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class ShownItem:
    """An item for the page: its images' files, why others have none, and the noun chunks by level and round."""

    item: PreferenceItem
    images: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    marks: tuple[tuple[tuple[Mark, ...], ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class MarkedText:
    """A run of an answer's characters: `supported`, `unsupported` or `plain`."""

    text: str
    state: str


def write_page(
    path: Path, shown: Sequence[ShownItem], overview: Overview, *, thumbnail: int = THUMBNAIL_SIDE
) -> list[LeftOut]:
    """Write the page; return the items that are shown without one of their images, with the reason.

    All content travels as JSON and is put into the page as text by prefs.js, so nothing in an answer can become markup.

    Args:
        thumbnail: longest side of the images, in pixels.
    """
    from jinja2 import Environment, StrictUndefined

    made = make_thumbnails((image for one in shown for image in one.images), thumbnail)
    images = {image: small for image, small in made.items() if isinstance(small, str)}
    numbers = {image: number for number, image in enumerate(images)}
    failed = {image: small.message for image, small in made.items() if isinstance(small, AmpError)}
    items = [_for_page(one, numbers, failed) for one in shown]

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Jinja's tojson writes <, >, & and ' as \u003c and so on; beyond ASCII, json does the same
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    template = environment.from_string(_template("prefs.html.jinja"))
    page = template.render(
        overview=overview,
        data={"items": items, "overview": overview.to_json()},
        images=list(images.values()),
        style=_template("prefs.css"),
        script=_template("prefs.js"),
    )
    write_text(path, page)
    return [
        LeftOut(id=one.item.id, reason=f"shown without an image: {reason}")
        for one, for_page in zip(shown, items, strict=True)
        for reason in for_page["missing"]
    ]


def _template(name: str) -> str:
    return template_path("report", name).read_text(encoding="utf-8")


def split_at_marks(answer: str, marks: Sequence[Mark]) -> list[MarkedText]:
    """Cut an answer into runs of one state; where chunks are nested, the innermost decides."""
    states = ["plain"] * len(answer)
    for mark in sorted(marks, key=lambda mark: mark.start - mark.end):
        if mark.supported is not None:
            state = "supported" if mark.supported else "unsupported"
            states[mark.start : mark.end] = [state] * (mark.end - mark.start)
    segments: list[MarkedText] = []
    start = 0
    for end in range(1, len(answer) + 1):
        if end == len(answer) or states[end] != states[start]:
            segments.append(MarkedText(text=answer[start:end], state=states[start]))
            start = end
    return segments


def _for_page(shown: ShownItem, numbers: dict[Path, int], failed: dict[Path, str]) -> dict[str, Any]:
    """Return an item as prefs.js reads it; an image is its place in the list of images."""
    item = shown.item
    marks = shown.marks or tuple(() for _ in item.levels)
    meta = {name: value for name, value in item.meta.items() if name != "dataset"}
    return {
        "id": item.id,
        "dataset": dataset_of(item),
        "questions": item.questions,
        "images": [numbers[image] for image in shown.images if image in numbers],
        "missing": [*shown.missing, *(failed[image] for image in shown.images if image in failed)],
        "levels": [
            {
                "source": level.source,
                "answers": _answers_for_page(level.answers, of_level),
                "accuracy": level.accuracy,
                "score": level.score,
            }
            for level, of_level in zip(item.levels, marks, strict=True)
        ],
        "meta": json.dumps(meta, ensure_ascii=False, indent=1) if meta else "",
    }


def _answers_for_page(answers: Sequence[str], marks: Sequence[Sequence[Mark]]) -> list[Any]:
    """Return each answer as a text, or as runs `[text, state]` where it was compared."""
    if not marks:
        return list(answers)
    return [
        [[segment.text, segment.state] for segment in split_at_marks(answer, its)]
        for answer, its in zip(answers, marks, strict=True)
    ]
