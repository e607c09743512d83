"""The comparison as one self-contained HTML page: every item with its images and the answers side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.compare.questions import ComparedQuestions
from amp_cli.disk.jsonl import write_text
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.preferences.page import make_thumbnails

if TYPE_CHECKING:
    from amp_cli.compare.comparing import CompareResult

LONGER_SIDE = 512
"""Pixels of an image on the page."""
TOLD = (
    ("right", "right"), ("wrong", "wrong"), ("unclear", "unclear"), ("supported", "supported mentions"),
    ("unsupported", "unsupported mentions"), ("answers_with_unsupported", "answers with unsupported ones"),
    ("words", "mean words"),
)  # fmt: skip
"""What is counted of a side -> what its row is called."""


def write_comparison(path: Path, result: "CompareResult", questions: ComparedQuestions) -> None:
    """Write the page; an image that cannot be shown is named in its place."""
    made = make_thumbnails((image for item in result.items for image in item.images), LONGER_SIDE)
    write_text(path, render_comparison(result, questions, made))


def render_comparison(result: "CompareResult", questions: ComparedQuestions, images: dict[Path, str | AmpError]) -> str:
    """Return the page; all text of models and data is escaped. `images` are JPEGs in base64, or why there is none."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    template = template_path("report", "compare.html.jinja")
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    kinds = {
        piece.kind for item in result.items for one in item.rounds for reply in one.replies for piece in reply.pieces
    }
    return environment.get_template(template.name).render(
        names=[side.name for side in result.sides],
        sides=result.sides,
        items=result.items,
        total=result.total,
        rejected=len(result.rejected),
        differing=result.differing,
        counted=count_rows(result.totals),
        kinds=kinds,
        about=_about(questions),
        pictures={path: one for path, one in images.items() if isinstance(one, str)},
    )


def count_rows(totals: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return a row for each thing that was counted: its name, and each side's number."""
    rows = []
    for key, title in TOLD:
        values = [of_side[key] for of_side in totals.values()]
        if any(value is not None for value in values):
            rows.append((title, [_shown(value) for value in values]))
    return rows


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def _about(questions: ComparedQuestions) -> str:
    """Say what the words were held against."""
    if questions.benchmark is not None and questions.benchmark.score is not None:
        return f"marked by {questions.benchmark.name}, rule {questions.rule}"
    if any(one.standard for one in questions.wanted):
        return "marked by the noun chunks of the reference answers"
    return "without a reference: the words that differ are marked"


def shown_pieces(pieces: Sequence[Any], kinds: dict[str, str]) -> str:
    """Return an answer as plain text in which marked pieces stand in brackets; `kinds` -> the sign before them."""
    return "".join(f"[{kinds[one.kind]}{one.text}]" if one.kind in kinds else one.text for one in pieces)
