"""The browsable part of the report: each picture with what was asked about it and what every run answered."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amp_cli.benchmarks.chair import ChairScore
from amp_cli.benchmarks.compare import chair_scores, pope_scores
from amp_cli.benchmarks.pictures import picture_folder
from amp_cli.benchmarks.pope import PopeScore
from amp_cli.benchmarks.report_runs import GatheredRun
from amp_cli.core.images import find_image, open_image
from amp_cli.core.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem

THUMBNAIL = 240  # pixels of the longer side


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an answer; `kind` is "invented", "right", "denied" or "" for plain text."""

    text: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One run's answer to a question. `verdict` is "right", "wrong" or "unclear", "" for a description."""

    run: str
    pieces: tuple[Piece, ...]
    verdict: str = ""
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question, the truth, and the runs' answers side by side."""

    question: str
    truth: str
    note: str
    replies: tuple[Reply, ...]
    differs: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with its questions. `source` is a data address, "" where the file is not there any more."""

    name: str
    source: str
    descriptions: tuple[Row, ...]
    questions: tuple[Row, ...]

    @property
    def count(self) -> int:
        """The number of questions and descriptions."""
        return len(self.descriptions) + len(self.questions)

    @property
    def differing(self) -> int:
        """In how many of them the runs differ."""
        return sum(row.differs for row in (*self.descriptions, *self.questions))


@dataclass(frozen=True, kw_only=True)
class Total:
    """How much there is, shown or not."""

    items: int
    pictures: int


def choose_pictures(runs: Sequence[GatheredRun], max_items: int) -> tuple[list[Picture], Total]:
    """Return the pictures to list, those first in which most answers differ, until `max_items` questions are listed."""
    descriptions: dict[str, list[Row]] = {}
    questions: dict[str, list[Row]] = {}
    files: dict[str, Path | None] = {}
    for name, rows in (("chair", descriptions), ("pope", questions)):
        having = [run for run in runs if name in run.evaluations]
        if not having:
            continue
        for images, row in _chair_rows(having) if name == "chair" else _pope_rows(having):
            files.setdefault(images, None)
            rows.setdefault(images, []).append(row)
        folder = _folder(having[0].evaluations[name].folder, list(rows))
        files |= {image: found for image in rows if (found := _find(image, folder)) is not None}
    bare = [
        Picture(
            name=image,
            source="",
            descriptions=tuple(descriptions.get(image, ())),
            questions=tuple(questions.get(image, ())),
        )
        for image in files
    ]
    total = Total(items=sum(picture.count for picture in bare), pictures=len(bare))
    chosen: list[Picture] = []
    listed = 0
    for picture in sorted(bare, key=lambda picture: -picture.differing):
        if chosen and listed + picture.count > max_items:
            break
        listed += picture.count
        chosen.append(
            Picture(
                name=picture.name,
                source=_thumbnail(files[picture.name]),
                descriptions=picture.descriptions,
                questions=picture.questions,
            )
        )
    return chosen, total


def _chair_rows(runs: Sequence[GatheredRun]) -> list[tuple[str, Row]]:
    by_run = [(run.name, chair_scores(run.evaluations["chair"].folder)) for run in runs]
    rows = []
    for item_id, first in by_run[0][1].items():
        given = [(name, scores[item_id]) for name, scores in by_run if item_id in scores]
        named = {(frozenset(m.name for m in one.counted), frozenset(m.name for m in one.invented)) for _, one in given}
        row = Row(
            question=first.question,
            truth=", ".join(first.present),
            note="",
            replies=tuple(_description(name, one) for name, one in given),
            differs=len(named) > 1,
        )
        rows.append((", ".join(first.images), row))
    return rows


def _description(run: str, one: ChairScore) -> Reply:
    pieces = []
    position = 0
    for mention in one.mentions:
        pieces.append(Piece(text=one.answer[position : mention.start]))
        if mention not in one.counted:
            kind = "denied"
        else:
            kind = "right" if mention.name in one.present else "invented"
        pieces.append(Piece(text=one.answer[mention.start : mention.end], kind=kind))
        position = mention.end
    pieces.append(Piece(text=one.answer[position:]))
    invented = sorted({mention.name for mention in one.invented})
    summary = f"not in the picture: {', '.join(invented)}" if invented else "nothing invented"
    if one.missed:
        summary += f"; not mentioned: {', '.join(one.missed)}"
    return Reply(run=run, pieces=tuple(piece for piece in pieces if piece.text), summary=summary)


def _pope_rows(runs: Sequence[GatheredRun]) -> list[tuple[str, Row]]:
    by_run = [(run.name, pope_scores(run.evaluations["pope"].folder)) for run in runs]
    rows = []
    for item_id, first in by_run[0][1].items():
        given = [(name, scores[item_id]) for name, scores in by_run if item_id in scores]
        row = Row(
            question=first.question,
            truth="yes" if first.label else "no",
            note=first.split,
            replies=tuple(_yes_no(name, one) for name, one in given),
            differs=len({one.reading for _, one in given}) > 1,
        )
        rows.append((", ".join(first.images), row))
    return rows


def _yes_no(run: str, one: PopeScore) -> Reply:
    verdict = {True: "right", False: "wrong", None: "unclear"}[one.correct]
    return Reply(run=run, pieces=(Piece(text=one.answer or "(empty answer)"),), verdict=verdict)


def _folder(evaluation: Path, images: Sequence[str]) -> Path | None:
    """Return the folder of an evaluation's pictures: where they were when it ran, or where they would be found now."""
    run = Run.read(evaluation)
    if "image_folder" in run.facts:
        return Path(run.facts["image_folder"])
    root, data = run.settings.get("image_root"), run.settings.get("data")
    if data is None or not Path(root or data).is_dir():
        return None
    items = [BenchmarkItem(id=image, images=(image,), questions=()) for image in images[:20]]
    return picture_folder(items, Path(data), Path(root) if root else None)


def _find(image: str, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    try:
        return find_image(image, folder)
    except AmpError:  # the page says that the picture is not there
        return None


def _thumbnail(path: Path | None) -> str:
    """Return a small copy as a data address: PNG for drawings as small as the limit, else JPEG."""
    if path is None:
        return ""
    image = open_image(path)
    kind = "PNG" if max(image.size) <= THUMBNAIL else "JPEG"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, kind, **({"optimize": True} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
