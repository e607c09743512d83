"""The browsable part of the report: each picture with what was asked about it and what every run answered."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amp_cli.benchmarks.pictures import picture_file, picture_folder
from amp_cli.benchmarks.report_rows import READERS, Row, rows_of
from amp_cli.benchmarks.report_runs import GatheredRun
from amp_cli.core.images import open_image
from amp_cli.core.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem

THUMBNAIL = 240  # pixels of the longer side


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
    def runs(self) -> list[str]:
        """The runs that answered any of the yes/no questions: the columns of their table."""
        return list(dict.fromkeys(reply.run for row in self.questions for reply in row.replies))

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
    rows: dict[str | Path, list[Row]] = {}
    for name in READERS:
        having = [run for run in runs if name in run.evaluations]
        if not having:
            continue
        of_benchmark = rows_of(name, having)
        folder = _folder(having[0].evaluations[name].folder, of_benchmark)
        for row in of_benchmark:  # two benchmarks may ask about one file, or give one name to two files
            rows.setdefault(_find(row.images, folder) or ", ".join(row.images), []).append(row)
    total = Total(items=sum(map(len, rows.values())), pictures=len(rows))
    chosen: list[Picture] = []
    listed = 0
    for place, of_picture in sorted(rows.items(), key=lambda entry: -sum(row.differs for row in entry[1])):
        if chosen and listed + len(of_picture) > max_items:
            break
        listed += len(of_picture)
        chosen.append(
            Picture(
                name=", ".join(of_picture[0].images),
                source=_thumbnail(place) if isinstance(place, Path) else "",
                descriptions=tuple(row for row in of_picture if not row.is_short),
                questions=tuple(row for row in of_picture if row.is_short),
            )
        )
    return chosen, total


def _folder(evaluation: Path, rows: Sequence[Row]) -> Path | None:
    """Return the folder of an evaluation's pictures: where they were when it ran, or where they would be found now."""
    run = Run.read(evaluation)
    if "image_folder" in run.facts:
        return Path(run.facts["image_folder"])
    root, data = run.settings.get("image_root"), run.settings.get("data")
    if data is None or not Path(root or data).is_dir():
        return None
    items = [BenchmarkItem(id=str(number), images=row.images, questions=()) for number, row in enumerate(rows[:20])]
    return picture_folder(items, Path(data), Path(root) if root else None)


def _find(images: Sequence[str], folder: Path | None) -> Path | None:
    """Return the file of an item's first picture; None where it is gone, which the page says."""
    if folder is None or not images:
        return None
    try:
        return picture_file(images[0], folder)
    except AmpError:
        return None


def _thumbnail(path: Path) -> str:
    """Return a small copy as a data address: PNG for drawings as small as the limit, else JPEG."""
    image = open_image(path)
    kind = "PNG" if max(image.size) <= THUMBNAIL else "JPEG"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, kind, **({"optimize": True} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
