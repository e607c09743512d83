"""Imports preferences of any known format into a result folder: items, embedded images, and what was refused."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.replacing import NAME, facts_in
from amp_cli.disk.run import make_whole
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import Choices
from amp_cli.preferences.formats.items import ImportedImages, items_of
from amp_cli.preferences.formats.source import Source, open_source
from amp_cli.preferences.reading import written_beside
from amp_cli.records import PreferenceItem

COMMAND = "prefs import"
PREFERENCES = "preferences.jsonl"
SOURCES = "sources.jsonl"
REJECTED = "rejected.jsonl"


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What an import gave. `file` holds preferences, or the sources of `amp generate-prefs` (`is_standard_only`)."""

    format: str
    items: int
    rejected: int
    levels: dict[str, int]
    warnings: tuple[str, ...]
    images: int  # embedded ones that were written
    file: Path
    is_standard_only: bool
    was_there: bool = False  # the folder held this very result already

    @property
    def rejected_file(self) -> Path:
        return self.file.parent / REJECTED

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "items": self.items,
            "rejected": self.rejected,
            "levels": self.levels,
            "warnings": list(self.warnings),
            "pictures": self.images,
            "sources" if self.is_standard_only else "preferences": str(self.file),
        }


def import_preferences(
    source: str | Path,
    out: Path,
    *,
    format: str = "auto",
    image_root: Path | None = None,
    split: str | None = None,
    choices: Choices | None = None,
    overwrite: bool = False,
    keep_same: bool = False,
) -> ImportResult:
    """Read a file, folder or hub data set in any known format into `out`, which appears when it is whole.

    Args:
        overwrite: replace what another import left in `out`.
        keep_same: but not when it was this very one.

    Raises:
        AmpError: the source cannot be read, its format is not known, no record gives an item, or `out` holds
            anything but this very import (which is then not repeated).
    """
    opened = open_source(source, format=format, image_root=image_root, split=split, choices=choices)
    settings = {
        "source": str(source),
        "format": opened.format.name,
        "image_root": None if image_root is None else str(image_root.resolve()),
        "split": split,
        "rating_weights": dict(opened.choices.weights),
        "ties": opened.choices.ties,
    }
    identity = {"data": _identity(opened), **settings}
    if keep_same and (out / NAME).is_file() and facts_in(out).get("identity") == identity:
        overwrite = False
    inputs = [Path(source) if opened.files else None, *opened.files, image_root]

    def write(part: Path) -> dict[str, Any]:
        images = ImportedImages(part, out)
        result = _write(opened, part, images)
        inputs.append(images.in_result)
        return {"result": result}

    run = make_whole(
        out,
        command=COMMAND,
        settings=settings,
        identity=identity,
        write=write,
        overwrite=overwrite,
        inputs=inputs,
    )
    return _result(out, opened, run.facts["result"], was_there=run.resumed)


def _result(out: Path, opened: Source, result: dict[str, Any], *, was_there: bool) -> ImportResult:
    return ImportResult(
        format=opened.format.name,
        items=result["items"],
        rejected=result["rejected"],
        levels=result["levels"],
        warnings=tuple(result["warnings"]),
        images=result["pictures"],
        file=out / _file_name(opened),
        is_standard_only=opened.format.is_standard_only,
        was_there=was_there,
    )


def _file_name(opened: Source) -> str:
    return SOURCES if opened.format.is_standard_only else PREFERENCES


def _identity(opened: Source) -> dict[str, str]:
    """Return what the data are known by: the files' hashes, or the hub's revision."""
    if opened.files:
        return {str(file.resolve()): content_hash(file) for file in opened.files}
    from huggingface_hub import HfApi

    from amp_cli.downloads.hub_files import explained

    return {opened.name: str(explained(lambda: HfApi().dataset_info(opened.name).sha, opened.name))}


def _write(opened: Source, part: Path, images: ImportedImages) -> dict[str, Any]:
    """Write the items and the refused records; return what `run.json` says of them."""
    notes, levels, first_reason = Counter[str](), Counter[int](), ""
    items = rejected = 0
    good_file, bad_file = part / _file_name(opened), part / REJECTED
    with written_beside(good_file) as good, written_beside(bad_file) as bad, _bar(opened) as advance:
        for found in items_of(opened, images.name, notes, unique_ids=True):
            advance()
            if isinstance(found, LeftOut):
                rejected += 1
                first_reason = first_reason or found.reason
                bad.write({"id": found.id, "reason": found.reason})
                continue
            items += 1
            if isinstance(found, PreferenceItem):
                levels[len(found.levels)] += 1
            good.write(found.to_json())
    if not items:
        raise AmpError(
            f"None of the {rejected} records of '{opened.name}' gives an item; the first: {first_reason}",
            hint=f"It was read as {opened.format.name}; another format can be named with --format",
        )
    return {
        "items": items,
        "rejected": rejected,
        "levels": {str(count): levels[count] for count in sorted(levels)},
        "warnings": [*_warnings(notes, images)],
        "pictures": images.written,
    }


def _warnings(notes: Counter[str], images: ImportedImages) -> Iterator[str]:
    for note, count in sorted(notes.items()):
        if count:
            yield f"{note} ({count:,} {'time' if count == 1 else 'times'})"
    if images.missing:
        subject = (
            "1 image is not where its path says"
            if images.missing == 1
            else (f"{images.missing:,} images are not where their paths say")
        )
        yield f"{subject}; --image-root says where the paths start"


@contextmanager
def _bar(opened: Source) -> Iterator[Any]:
    """Show how much of the files is read; yields what is called after every record."""
    size = opened.size
    with ui.byte_progress("Importing", size, 0) as advance:
        shown = 0

        def follow() -> None:
            nonlocal shown
            if opened.position - shown > 1 << 20 or opened.position == size:
                advance(opened.position - shown)
                shown = opened.position

        yield follow
