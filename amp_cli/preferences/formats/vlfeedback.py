"""VLFeedback (SILKIE): four answers, each rated in three aspects; levels by the weighted mean of the ratings."""

from typing import Any

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.errors import RecordError
from amp_cli.preferences.formats.draft import (
    ASPECTS,
    Choices,
    Draft,
    Format,
    kept,
    levels_by_rating,
    number_of,
    text_of,
)
from amp_cli.records import Level


def describes(record: Record) -> bool:
    rows = _rows(record.get("completions"))
    return (
        isinstance(record.get("prompt"), str)
        and bool(rows)
        and all(isinstance(row, dict) and "response" in row and "annotations" in row for row in rows)
    )


def convert(record: Record, choices: Choices) -> list[Draft]:
    rows = _rows(record.get("completions"))
    if not rows:
        raise RecordError("'completions' must be a list of answers, or an object of such lists")
    answers, given = [], {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RecordError(f"answer {number} of 'completions' is not an object")
        ratings = _ratings(row.get("annotations"))
        source = own_id(row, "model") or f"answer {number}"
        given[source] = ratings
        answers.append((Level(answers=(text_of(row, "response"),), source=source), _mean(ratings, choices)))
    rated = levels_by_rating(answers, ties=choices.ties)
    return [
        Draft(
            id=own_id(record, "id"),
            images=images_of(record, "img_path", "image", "images"),
            questions=(text_of(record, "prompt"),),
            levels=rated.levels,
            meta={**kept(record, "img_path_source"), "ratings": list(rated.ratings), "given_ratings": given},
            notes=rated.notes,
        )
    ]


def _rows(completions: object) -> list[Any]:
    """Return one object per answer, of a list of objects as of an object of lists (as `datasets` gives it)."""
    if isinstance(completions, list):
        return completions
    if not isinstance(completions, dict) or not isinstance(completions.get("response"), list):
        return []
    return [_row(completions, number) for number in range(len(completions["response"]))]


def _row(columns: Any, number: int) -> Any:
    """Return entry `number` of an object of lists, of objects of lists, and so on."""
    if isinstance(columns, list):
        return columns[number] if number < len(columns) else None
    if isinstance(columns, dict):
        return {name: _row(column, number) for name, column in columns.items()}
    return columns


def _ratings(annotations: object) -> dict[str, object]:
    """Return aspect -> the rating as it is given."""
    if not isinstance(annotations, dict):
        raise RecordError(f"'annotations' must be an object, not {annotations!r:.80}")
    ratings = {}
    for ours, theirs in ASPECTS.items():
        aspect = annotations.get(theirs)
        ratings[ours] = aspect.get("Rating") if isinstance(aspect, dict) else aspect
    return ratings


def _mean(ratings: dict[str, object], choices: Choices) -> float | None:
    """Return the weighted mean; None where a rating that counts is no number: means of other aspects do not compare."""
    weights = {aspect: weight for aspect, weight in choices.weights.items() if weight > 0}
    numbers = {aspect: number_of(ratings[aspect]) for aspect in weights}
    total = sum(weights.values())
    weighted = [weights[aspect] * number for aspect, number in numbers.items() if number is not None]
    return sum(weighted) / total if len(weighted) == len(weights) else None


FORMAT = Format(
    name="vlfeedback",
    title="VLFeedback (SILKIE): prompt, img_path, completions with ratings",
    describes=describes,
    convert=convert,
)
