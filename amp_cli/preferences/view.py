"""Writes a page to browse preferences in: one file, pictures inside, that a browser opens without a server."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.core.store import write_text
from amp_cli.core.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.preferences.autocheck import Mark
from amp_cli.preferences.figures import dataset_of
from amp_cli.preferences.overview import Overview
from amp_cli.preferences.reading import Refused
from amp_cli.preferences.thumbnails import make_thumbnails
from amp_cli.records import PreferenceItem

SHOWN_ITEMS = 5000
"""The page stays fluid so far; measured in Chromium."""
THUMBNAIL_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class ShownItem:
    """An item for the page: its pictures' files, why others have none, and the noun chunks by level and round."""

    item: PreferenceItem
    images: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    marks: tuple[tuple[tuple[Mark, ...], ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of an answer's characters: `supported`, `unsupported` or `plain`."""

    text: str
    state: str


def write_page(
    path: Path, shown: Sequence[ShownItem], overview: Overview, *, thumbnail: int = THUMBNAIL_SIDE
) -> list[Refused]:
    """Write the page; return the items that are shown without one of their pictures, with the reason.

    All content travels as JSON and is put into the page as text by prefs.js, so nothing in an answer can become markup.

    Args:
        thumbnail: longest side of the pictures, in pixels.
    """
    from jinja2 import Environment, StrictUndefined

    made = make_thumbnails((image for one in shown for image in one.images), thumbnail)
    pictures = {image: small for image, small in made.items() if isinstance(small, str)}
    numbers = {image: number for number, image in enumerate(pictures)}
    failed = {image: small.message for image, small in made.items() if isinstance(small, AmpError)}
    items = [_for_page(one, numbers, failed) for one in shown]

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Jinja's tojson writes <, >, & and ' as \u003c and so on; beyond ASCII, json does the same
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    template = environment.from_string(_template("prefs.html.jinja"))
    page = template.render(
        overview=overview,
        data={"items": items, "overview": overview.to_json()},
        pictures=list(pictures.values()),
        style=_template("prefs.css"),
        script=_template("prefs.js"),
    )
    write_text(path, page)
    return [
        Refused(id=one.item.id, reason=f"shown without a picture: {reason}")
        for one, for_page in zip(shown, items, strict=True)
        for reason in for_page["missing"]
    ]


def _template(name: str) -> str:
    return template_path("report", name).read_text(encoding="utf-8")


def split_at_marks(answer: str, marks: Sequence[Mark]) -> list[Segment]:
    """Cut an answer into runs of one state; where chunks are nested, the innermost decides."""
    states = ["plain"] * len(answer)
    for mark in sorted(marks, key=lambda mark: mark.start - mark.end):
        if mark.supported is not None:
            state = "supported" if mark.supported else "unsupported"
            states[mark.start : mark.end] = [state] * (mark.end - mark.start)
    segments: list[Segment] = []
    start = 0
    for end in range(1, len(answer) + 1):
        if end == len(answer) or states[end] != states[start]:
            segments.append(Segment(text=answer[start:end], state=states[start]))
            start = end
    return segments


def _for_page(shown: ShownItem, numbers: dict[Path, int], failed: dict[Path, str]) -> dict[str, Any]:
    """Return an item as prefs.js reads it; a picture is its place in the list of pictures."""
    item = shown.item
    marks = shown.marks or tuple(() for _ in item.levels)
    meta = {name: value for name, value in item.meta.items() if name != "dataset"}
    return {
        "id": item.id,
        "dataset": dataset_of(item),
        "questions": item.questions,
        "pictures": [numbers[image] for image in shown.images if image in numbers],
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
