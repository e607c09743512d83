"""The report as one self-contained HTML page: charts, tables, training curves, and the items to look at."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.files import image_file, image_folder
from amp_cli.benchmarks.margins import Distribution
from amp_cli.benchmarks.runner import read_item_scores
from amp_cli.benchmarks.showing import Column, Row, Table, digits_of, shown
from amp_cli.disk.run import Run
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.records import BenchmarkItem
from amp_cli.report.paper import QuotedTable, quoted_table
from amp_cli.report.runs import GatheredRun, sentences


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A score as text, its interval, and how it differs from the first run."""

    value: str
    interval: str = ""
    difference: str = ""
    p_value: str = ""
    judgement: str = ""  # "better", "worse", "other" or "" (may be chance)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of a chart: lengths are shares (0..1) of the chart's width."""

    name: str
    series: int
    length: float
    low: float | None
    high: float | None
    value: str
    interval: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One score over all runs."""

    title: str
    direction: str
    ticks: tuple[tuple[float, str], ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """How one run's probabilities of yes and no lie: dots of a reliability diagram, and bars of a histogram.

    Attributes:
        dots: (mean p(yes), share of true yes, radius in pixels, what a pointer shows) of each bin with questions.
        bars: (share of the highest bar for a true yes, for a true no, what a pointer shows) of each bin of margins.
        borders: of the first and last bar, nats. threshold: at balance, as a share of the width; None if undefined.
    """

    name: str
    asked: str
    ece: str
    dots: tuple[tuple[float, float, float, str], ...]
    bars: tuple[tuple[float, float, str], ...]
    borders: tuple[int, int]
    threshold: float | None
    threshold_text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A benchmark: its charts, its table, how to read them, and the paper's rows with the runs' own beside them."""

    title: str
    rule: str
    asked: str
    charts: tuple[Chart, ...]
    beliefs: tuple[Beliefs, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    has_p_values: bool
    reading: str
    quoted: QuotedTable | None
    measured: tuple[list[str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training run's plot, as a data address."""

    name: str
    source: str


def render_page(
    runs: Sequence[GatheredRun], *, title: str, notes: Sequence[str], commands: Sequence[str], max_items: int
) -> str:
    """Return the page. All text of models and data is escaped."""
    images, total = choose_images(runs, max_items)
    return _render(
        title=title,
        notes=list(notes),
        commands=list(commands),
        names=[run.name for run in runs],
        sections=[_section(name, runs) for name in BENCHMARKS if any(name in run.evaluations for run in runs)],
        curves=_curves(runs),
        images=images,
        shown_items=sum(image.count for image in images),
        differing=sum(image.differing for image in images),
        total_items=total.items,
        total_images=total.images,
        made=date.today().isoformat(),
        folders=[(run.name, str(run.path)) for run in runs],
    )


def render_summary(
    *, title: str, notes: Sequence[str], tables: Sequence[Table], sentences: Sequence[str], curves: Sequence[Curve]
) -> str:
    """Return a page of finished tables, sentences and plots, which is the same whenever it is made."""
    return _render(title=title, notes=list(notes), tables=list(tables), sentences=list(sentences), plots=list(curves))


def _render(**parts: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    template = template_path("report", "report.html.jinja")
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    absent: dict[str, Any] = dict.fromkeys(PARTS, ())
    return environment.get_template(template.name).render(absent | {"made": ""} | parts)


PARTS = (
    "notes", "names", "sections", "curves", "images", "commands", "folders", "tables", "sentences", "plots",
)  # fmt: skip
"""What a page may hold; what is not given is left out of it."""


def _section(name: str, runs: Sequence[GatheredRun]) -> Section:
    benchmark = BENCHMARKS[name]
    having = [(number, run) for number, run in enumerate(runs) if name in run.evaluations]
    columns = [
        column
        for column in benchmark.columns
        if any(column.value(run.evaluations[name].scores) is not None for _, run in having)
    ]
    scores = having[0][1].evaluations[name].scores
    rows = tuple((run.name, tuple(_cell(column, name, run) for column in columns)) for _, run in having)
    quoted = quoted_table(name)
    measure = None if quoted is None else quoted.measured
    return Section(
        title=benchmark.title,
        rule=scores["rule"],
        asked=f"{benchmark.count(scores):,} {benchmark.items}",
        charts=tuple(_chart(column, name, having) for column in columns if column.is_charted),
        beliefs=tuple(
            beliefs for _, run in having if (beliefs := _beliefs(run.name, benchmark, run.evaluations[name].scores))
        ),
        headings=tuple(column.title for column in columns),
        rows=rows,
        has_p_values=any(cell.p_value for _, cells in rows for cell in cells),
        reading=benchmark.reading,
        quoted=quoted,
        measured=tuple([run.name, *measure(run.evaluations[name].scores)] for _, run in having) if measure else (),
        notes=tuple(
            f"{run.name}: {sentence}" for _, run in having for sentence in sentences(benchmark, run.evaluations[name])
        ),
    )


def _beliefs(name: str, benchmark: Benchmark[Any], scores: Mapping[str, Any]) -> Beliefs | None:
    """Return what is drawn of a run's probabilities; None where it has none."""
    distribution = Distribution.of_scores(scores)
    if distribution is None:
        return None
    largest = max(one.n for one in distribution.calibration)
    dots = [
        (
            one.yes,
            one.true,
            2 + 5 * math.sqrt(one.n / largest),
            f"{one.n:,} questions: {shown(one.yes)} yes by the model, {shown(one.true)} in truth",
        )
        for one in distribution.calibration
        if one.yes is not None and one.true is not None
    ]
    low, high = distribution.borders[0], distribution.borders[-1]
    highest = max(*distribution.yes, *distribution.no)
    bars = [
        (yes / highest, no / highest, f"margin {start} to {end}: {yes:,} are truly yes, {no:,} are truly no")
        for (start, end), yes, no in zip(pairwise(distribution.borders), distribution.yes, distribution.no, strict=True)
    ]
    measured = {column.name: column.value(scores) for column in benchmark.columns}
    threshold = measured.get("threshold_at_balance")
    return Beliefs(
        name=name,
        asked=f"{distribution.n:,} questions",
        ece=shown(measured.get("ece")),
        dots=tuple(dots),
        bars=tuple(bars),
        borders=(low, high),
        threshold=None if threshold is None else min(max((threshold - low) / (high - low), 0.0), 1.0),
        threshold_text=shown(threshold, name="threshold_at_balance"),
    )


def _chart(column: Column, name: str, having: Sequence[tuple[int, GatheredRun]]) -> Chart:
    bars = []
    for number, run in having:
        scores = run.evaluations[name].scores
        value, bounds = column.value(scores), column.interval(scores)
        bars.append(
            Bar(
                name=run.name,
                series=number % 6,
                length=_share(value or 0.0, column.full),
                low=_share(bounds[0], column.full) if bounds else None,
                high=_share(bounds[1], column.full) if bounds else None,
                value=shown(value, name=column.name),
                interval=" to ".join(shown(bound, name=column.name) for bound in bounds) if bounds else "no interval",
            )
        )
    directions = {True: "lower is better", False: "higher is better", None: "about half should be"}
    ticks = tuple((share, f"{share * column.full:g}") for share in (0, 0.25, 0.5, 0.75, 1))
    return Chart(title=column.title, direction=directions[column.lower_is_better], ticks=ticks, bars=tuple(bars))


def _share(value: float, full: float) -> float:
    """Return the part of a chart's width that a value takes; what is beyond the scale ends at its end."""
    return min(value / full, 1.0)


def _cell(column: Column, name: str, run: GatheredRun) -> Cell:
    evaluation = run.evaluations[name]
    value, bounds = column.value(evaluation.scores), column.interval(evaluation.scores)
    whole = shown(value, bounds, name=column.name)
    text, _, interval = whole.partition("\n")
    difference = next((one for one in evaluation.differences if one.name == column.difference), None)
    if difference is None or difference.difference is None or difference.ci95 is None:
        return Cell(value=text, interval=interval)
    return Cell(
        value=text,
        interval=interval,
        difference=difference_text(difference),
        p_value=p_value_text(difference),
        judgement=_judgement(difference, column.lower_is_better),
    )


def difference_text(difference: Difference) -> str:
    """Return `+0.029 [+0.011, +0.047]`."""
    if difference.difference is None or difference.ci95 is None:
        return ""
    digits = digits_of(difference.name)
    low, high = difference.ci95
    return f"{difference.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def p_value_text(difference: Difference) -> str:
    """Return `p = 0.004, corrected 0.012`; McNemar's p where that is the test."""
    if difference.p_value is None:
        return ""
    corrected = "" if difference.adjusted is None else f", corrected {_p(difference.adjusted).removeprefix('= ')}"
    return f"p {_p(difference.p_value)}{corrected}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _judgement(difference: Difference, lower_is_better: bool | None) -> str:
    if not difference.is_clear or difference.difference is None:
        return ""
    if lower_is_better is None:
        return "other"
    return "better" if (difference.difference < 0) == lower_is_better else "worse"


def _curves(runs: Sequence[GatheredRun]) -> list[Curve]:
    """Return the plots of the training runs among `runs`, each once."""
    plots = {folder / "curves.png": run for run in runs for folder in run.training}
    return [
        Curve(
            name=f"{run.name}: {Run.read(plot.parent).settings.get('method', 'training')}",
            source="data:image/png;base64," + base64.b64encode(plot.read_bytes()).decode("ascii"),
        )
        for plot, run in plots.items()
        if plot.is_file()
    ]


THUMBNAIL = 240  # pixels of the longer side


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


@dataclass(frozen=True, kw_only=True)
class Total:
    """How much there is, shown or not."""

    items: int
    images: int


def choose_images(runs: Sequence[GatheredRun], max_items: int) -> tuple[list[ShownImage], Total]:
    """Return the images to list, those first in which most answers differ, until `max_items` questions are listed."""
    rows: dict[str | Path, list[Row]] = {}
    for name in sorted(BENCHMARKS, key=_brevity):
        having = [run for run in runs if name in run.evaluations]
        if not having:
            continue
        of_benchmark = rows_of(name, having)
        folder = _folder(having[0].evaluations[name].folder, of_benchmark)
        for row in of_benchmark:  # two benchmarks may ask about one file, or give one name to two files
            rows.setdefault(_find(row.images, folder) or ", ".join(row.images), []).append(row)
    total = Total(items=sum(map(len, rows.values())), images=len(rows))
    chosen: list[ShownImage] = []
    listed = 0
    for place, of_image in sorted(rows.items(), key=lambda entry: -sum(row.differs for row in entry[1])):
        if chosen and listed + len(of_image) > max_items:
            break
        listed += len(of_image)
        chosen.append(
            ShownImage(
                name=", ".join(of_image[0].images),
                source=_thumbnail(place) if isinstance(place, Path) else "",
                descriptions=tuple(row for row in of_image if not row.is_short),
                questions=tuple(row for row in of_image if row.is_short),
            )
        )
    return chosen, total


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


def _thumbnail(path: Path) -> str:
    """Return a small copy as a data address: PNG for drawings as small as the limit, else JPEG."""
    image = open_image(path)
    kind = "PNG" if max(image.size) <= THUMBNAIL else "JPEG"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, kind, **({"optimize": True} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
