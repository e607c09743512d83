"""Makes the page of a preference file: its first items, their images, and their noun chunks where asked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.disk.one_file import alone_writing, is_page, is_rejected_list, refuse_foreign_file
from amp_cli.errors import AmpError
from amp_cli.models.images import find_image
from amp_cli.preferences.autocheck import Checker, Mark, RankedCandidate, check_items
from amp_cli.preferences.figures import Figures
from amp_cli.preferences.formats.source import open_source
from amp_cli.preferences.measuring import refuse_empty
from amp_cli.preferences.page import ShownItem, overview_of_figures, write_page
from amp_cli.preferences.reading import read_items
from amp_cli.records import PreferenceItem


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """What to show and where; `checker` marks noun chunks, `thumbnail` is an image's longest side in pixels."""

    prefs: str
    out: Path
    image_root: Path | None
    limit: int
    thumbnail: int
    checker: Checker | None

    @property
    def rejected_file(self) -> Path:
        """Where entries are listed that could not be shown."""
        return self.out.with_suffix(".rejected.jsonl")

    def __post_init__(self) -> None:
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise AmpError(f"--out must be an HTML file, not '{self.out}'", hint="For example: --out preferences.html")
        if self.out.is_dir():
            raise AmpError(f"'{self.out}' is a folder", hint="Give a file, for example: --out preferences.html")
        if self.rejected_file.resolve() == Path(self.prefs).resolve():
            raise AmpError(f"'{self.prefs}' would be replaced", hint="Give the page another name with --out")


@dataclass(frozen=True, kw_only=True)
class ViewResult:
    """What the page holds, and what it does not."""

    out: Path
    items: int
    more: bool
    images: int
    refused: LeftOutLog

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`; `more` says that the file has items beyond the limit."""
        return {
            "out": str(self.out),
            "items": self.items,
            "more": self.more,
            "pictures": self.images,
            "rejected": self.refused.count,
            "bytes": self.out.stat().st_size,
        }


def view_preferences(settings: ViewSettings) -> ViewResult:
    """Write the page of a file's first `limit` items.

    Raises:
        AmpError: the file cannot be read or holds no item, or the page cannot be written.
    """
    inputs = [Path(settings.prefs), *open_source(settings.prefs, image_root=settings.image_root).files]
    with alone_writing(settings.out, command="prefs view", is_ours=is_page, inputs=inputs):
        refuse_foreign_file(settings.rejected_file, is_ours=is_rejected_list, inputs=inputs)
        return _view(settings)


def _view(settings: ViewSettings) -> ViewResult:
    refused = LeftOutLog.begin(settings.rejected_file)
    items, more = _first_items(settings, refused)
    refuse_empty(settings.prefs, len(items), refused)
    figures = Figures()
    for item in items:
        figures.add(item)
    marks = _marks_of(items, settings.checker) if settings.checker else [()] * len(items)
    root = settings.image_root or _folder_of(settings.prefs)
    shown = [_locate(item, root, its_marks) for item, its_marks in zip(items, marks, strict=True)]
    overview = overview_of_figures(
        figures.to_json(),
        title=Path(settings.prefs).name,
        notes=(f"The first {len(items):,} items are shown; the file has more.",) if more else (),
        rejected=refused.count,
    )
    for one in write_page(settings.out, shown, overview, thumbnail=settings.thumbnail):
        refused.add(one)
    return ViewResult(
        out=settings.out,
        items=len(items),
        more=more,
        images=len({image for one in shown for image in one.images}),
        refused=refused,
    )


def _first_items(settings: ViewSettings, refused: LeftOutLog) -> tuple[list[PreferenceItem], bool]:
    """Return up to `limit` items, and whether there are more; the file is not read beyond."""
    items: list[PreferenceItem] = []
    for one in read_items(settings.prefs, image_root=settings.image_root):
        if isinstance(one, LeftOut):
            refused.add(one)
        elif len(items) == settings.limit:
            return items, True
        else:
            items.append(one)
    return items, False


def _folder_of(prefs: str) -> Path:
    path = Path(prefs)
    return path if path.is_dir() else path.parent


def _locate(item: PreferenceItem, root: Path, marks: tuple[tuple[tuple[Mark, ...], ...], ...]) -> ShownItem:
    found: list[Path] = []
    missing: list[str] = []
    for name in item.images:
        try:
            found.append(find_image(name, root).resolve())
        except AmpError as error:
            missing.append(error.message)
    return ShownItem(item=item, images=tuple(found), missing=tuple(missing), marks=marks)


def _marks_of(items: Sequence[PreferenceItem], checker: Checker) -> list[tuple[tuple[tuple[Mark, ...], ...], ...]]:
    """Return per item and level the noun chunks of each answer, compared with the best level's."""

    def compared() -> Iterator[list[RankedCandidate]]:
        return check_items(
            ((item.levels[0].answers, [level.answers for level in item.levels[1:]]) for item in items), checker
        )

    marks: list[tuple[tuple[tuple[Mark, ...], ...], ...]] = []
    with ui.progress("Noun chunks", len(items)) as advance:
        for ranked in compared():
            marks.append(((), *(one.marks for one in sorted(ranked, key=lambda one: one.index))))
            advance()
    return marks
