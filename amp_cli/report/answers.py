"""What was asked and answered, image by image: the items on which the runs differ most, and the one to show first."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.files import image_file, image_folder
from amp_cli.benchmarks.runner import read_item_scores
from amp_cli.benchmarks.showing import Reply, Row
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.records import BenchmarkItem
from amp_cli.report.runs import GatheredRun

THUMBNAIL = 240  # pixels of the longer side
FIRST_IMAGE = 480  # of the one that the page opens with

Place = Path | str
"""An image's file; its name where the file is gone."""


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """An image with its questions. `source` is a data address, "" where the file is not there any more."""

    name: str
    source: str
    descriptions: tuple[Row, ...]
    questions: tuple[Row, ...]

    @property
    def count(self) -> int:
        """The number of questions and descriptions."""
        return len(self.descriptions) + len(self.questions)

    @property
    def runs(self) -> list[str]:
        """The runs that answered any of the yes/no questions: the columns of their table."""
        return list(dict.fromkeys(reply.run for row in self.questions for reply in row.replies))

    @property
    def differing(self) -> int:
        """In how many of them the runs differ."""
        return sum(row.differs for row in (*self.descriptions, *self.questions))

    @property
    def seen(self) -> str:
        """The image in words: what is known to be in it, else its name."""
        return seen_in((*self.descriptions, *self.questions), self.name)


def seen_in(rows: Sequence[Row], name: str) -> str:
    """Return an image in words: what the truth of a description says is in it, else its name alone."""
    told = next((row.truth for row in rows if not row.is_short and row.truth and row.truth_is == "In the image"), "")
    there = [row.question for row in rows if row.is_short and row.truth == "yes"]
    if told:
        return f"{name}, in which there is: {told}"
    return f"{name}, for which yes is right to: {' '.join(there[:3])}" if there else f"The image {name}"


@dataclass(frozen=True, kw_only=True)
class Total:
    """How much there is, shown or not."""

    items: int
    images: int


def rows_by_image(runs: Sequence[GatheredRun]) -> dict[Place, list[Row]]:
    """Return all rows of all benchmarks by image; two benchmarks may ask about one file."""
    rows: dict[Place, list[Row]] = {}
    for name in sorted(BENCHMARKS, key=_brevity):
        having = [run for run in runs if name in run.evaluations]
        if not having:
            continue
        of_benchmark = rows_of(name, having)
        folder = _folder(having[0].evaluations[name].folder, of_benchmark)
        for row in of_benchmark:  # one name may also stand for two files
            rows.setdefault(_find(row.images, folder) or ", ".join(row.images), []).append(row)
    return rows


def choose_images(rows: Mapping[Place, Sequence[Row]], max_items: int) -> tuple[list[ShownImage], Total]:
    """Return the images to list, those first on which the runs differ most, until `max_items` questions are listed."""
    total = Total(items=sum(map(len, rows.values())), images=len(rows))
    chosen: list[ShownImage] = []
    listed = 0
    for place, of_image in sorted(rows.items(), key=lambda entry: _distance(entry[1]), reverse=True):
        if chosen and listed + len(of_image) > max_items:
            break
        listed += len(of_image)
        in_order = sorted(of_image, key=lambda row: (row.difference, row.differs), reverse=True)
        chosen.append(
            ShownImage(
                name=", ".join(of_image[0].images),
                source=_thumbnail(place, THUMBNAIL) if isinstance(place, Path) else "",
                descriptions=tuple(row for row in in_order if not row.is_short),
                questions=tuple(row for row in in_order if row.is_short),
            )
        )
    return chosen, total


def _distance(rows: Sequence[Row]) -> tuple[float, int]:
    """Return how far the runs are apart on an image: in what is wrong with their answers, then in how many answers."""
    return sum(row.difference for row in rows), sum(row.differs for row in rows)


def _brevity(name: str) -> int:
    """Rank what is listed first below an image: judged answers, then descriptions, then answers of one word."""
    benchmark = BENCHMARKS[name]
    if benchmark.judge is not None:
        return 0
    return 2 if benchmark.items == "questions" else 1


def rows_of(name: str, runs: Sequence[GatheredRun]) -> list[Row]:
    """Return the rows of one benchmark; the items are those of the first run, each with every run that has it."""
    benchmark = BENCHMARKS[name]
    by_run = [(run.name, read_item_scores(run.evaluations[name].folder, benchmark)) for run in runs]
    return [
        replace(
            benchmark.row(first, [(run, scores[item_id]) for run, scores in by_run if item_id in scores]),
            benchmark=name,
        )
        for item_id, first in by_run[0][1].items()
    ]


@dataclass(frozen=True, kw_only=True)
class Example:
    """The item that the page opens with: its image, the answers before and after, and why it was chosen.

    `source` is a data address, "" where the file is not there any more; `seen` is the image in words.
    """

    source: str
    seen: str
    row: Row
    replies: tuple[Reply, ...]
    why: str


def choose_example(rows: Mapping[Place, Sequence[Row]], base: str, other: str | None) -> Example | None:
    """Return an item in which the base invents and the other run does not, else the one in which they differ most.

    Args:
        other: the run to set against the base; without one, an item in which the base invents is shown.
    """
    names = [base] if other is None else [base, other]
    paired = [
        (place, row, replies)
        for place, of_image in rows.items()
        for row in of_image
        if len(replies := [reply for name in names if (reply := row.reply_of(name))]) == len(names)
    ]
    if not paired:
        return None
    place, row, replies = max(paired, key=lambda one: _tells(*one))
    return Example(
        source=_thumbnail(place, FIRST_IMAGE) if isinstance(place, Path) else "",
        seen=seen_in([row], ", ".join(row.images)),
        row=row,
        replies=tuple(replies),
        why=_why(names, [(row, replies) for _, row, replies in paired]),
    )


def _tells(place: Place, row: Row, replies: Sequence[Reply]) -> tuple[float, ...]:
    """Rank an item as the first to show: an invention that is gone, marked words, an image, how much is told."""
    invents = [row.invents(reply) for reply in replies]
    is_gone = invents[0] and not invents[-1] if len(invents) > 1 else invents[0]
    kinds = [{piece.kind for piece in reply.pieces} for reply in replies]
    return (
        is_gone and replies[-1].verdict != "unclear",
        is_gone and "invented" in kinds[0] and ("right" in kinds[-1] or len(kinds) == 1),
        isinstance(place, Path),
        abs(replies[0].fault - replies[-1].fault),
        row.differs,
        -sum(len(piece.text) for reply in replies for piece in reply.pieces),
    )


def _why(names: Sequence[str], paired: Sequence[tuple[Row, Sequence[Reply]]]) -> str:
    """Say why the example was chosen, and how often it is so, and the other way round."""
    invents = [[row.invents(reply) for reply in replies] for row, replies in paired]
    everything = f"{len(paired):,} answered items"
    if len(names) == 1:
        found = sum(one[0] for one in invents)
        if found:
            return f"{names[0]} says something that is not there in {found:,} of {everything}; this is one of them."
        return f"Nothing invented was found in {everything}; this is one of them."
    base, other = names
    gone, come = sum(one[0] and not one[1] for one in invents), sum(one[1] and not one[0] for one in invents)
    if gone:
        return (
            f"Chosen because {base} invents something here and {other} does not. That is so in {gone:,} of "
            f"{everything}; in {come:,} it is the other way round."
        )
    shown = (
        "this is the one in which their answers differ most"
        if any(row.difference for row, _ in paired)
        else "nor do they differ in what is scored anywhere"
    )
    return (
        f"There is no item in which {base} invents something and {other} does not; {shown}. The other way round it is "
        f"so in {come:,} of {everything}."
    )


def _folder(evaluation: Path, rows: Sequence[Row]) -> Path | None:
    """Return the folder of an evaluation's images: where they were when it ran, or where they would be found now."""
    run = Run.read(evaluation)
    if "image_folder" in run.facts:
        return Path(run.facts["image_folder"])
    root, data = (run.settings.get(name) for name in ("image_root", "data"))
    if not isinstance(data, str) or not isinstance(root, str | None) or not Path(root or data).is_dir():
        return None
    items = [BenchmarkItem(id=str(number), images=row.images, questions=()) for number, row in enumerate(rows[:20])]
    return image_folder(items, Path(data), Path(root) if root else None)


def _find(images: Sequence[str], folder: Path | None) -> Path | None:
    """Return the file of an item's first image; None where it is gone, which the page says."""
    if folder is None or not images:
        return None
    try:
        return image_file(images[0], folder)
    except AmpError:
        return None


def _thumbnail(path: Path, side: int) -> str:
    """Return a copy of at most `side` pixels as a data address: PNG for drawings as small as the limit, else JPEG."""
    image = open_image(path)
    kind = "PNG" if max(image.size) <= THUMBNAIL else "JPEG"
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, kind, **({"optimize": True} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
