"""Writes preferences.html: pictures, questions, and the levels side by side with their noun chunks marked."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.core.images import open_image
from amp_cli.core.store import write_text
from amp_cli.core.templates import template_path
from amp_cli.preferences.autocheck import Mark
from amp_cli.records import PreferenceItem

SHOWN_ITEMS = 200
"""Pictures are inlined, so a page of all items of a large set would not open."""
THUMBNAIL_SIDE = 360
JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class ShownItem:
    """An item for the page: its pictures' files, and per level and round the marks of the answer's noun chunks."""

    item: PreferenceItem
    images: tuple[Path, ...]
    marks: tuple[tuple[tuple[Mark, ...], ...], ...]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of an answer's characters: `supported`, `unsupported` or `plain`."""

    text: str
    state: str


def write_page(path: Path, shown: Sequence[ShownItem], stats: dict[str, Any]) -> None:
    """Write one self-contained file: no scripts, nothing fetched."""
    from jinja2 import Environment, StrictUndefined

    source = template_path("report", "prefs.html.jinja").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    write_text(path, template.render(items=[_for_template(one) for one in shown], stats=stats))


def _for_template(shown: ShownItem) -> dict[str, Any]:
    item = shown.item
    rounds = [
        {
            "question": question,
            "answers": [
                split_at_marks(level.answers[number], marks[number] if marks else ())
                for level, marks in zip(item.levels, shown.marks, strict=True)
            ],
        }
        for number, question in enumerate(item.questions)
    ]
    return {
        "id": item.id,
        "pictures": [inlined_thumbnail(image) for image in shown.images],
        "levels": item.levels,
        "rounds": rounds,
    }


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


def inlined_thumbnail(path: Path) -> str:
    """Return the picture as the data URI of a small JPEG."""
    with open_image(path) as image:
        small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
