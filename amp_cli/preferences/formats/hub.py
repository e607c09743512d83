"""A folder for the Hugging Face hub: items, images, and a data card with what the data says of itself."""

import filecmp
import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amp_cli import __version__
from amp_cli.disk.jsonl import disk_errors_explained, write_text
from amp_cli.disk.lock import alone_in, rename_held
from amp_cli.disk.replacing import own_facts, refuse_inputs, refuse_others, remove_files, sort_files
from amp_cli.disk.run import place_beside
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.models.images import image_content
from amp_cli.preferences.formats.export import Exported, ExportSettings, list_rejected, refuse_nothing, sound_items
from amp_cli.preferences.reading import find_images, refuse_unnamed_folders, written_beside
from amp_cli.records import PreferenceItem

DATA = "data"
ITEMS = "preferences.jsonl"
CARD = "README.md"


@dataclass(kw_only=True)
class Sums:
    """What the card tells of one level or one source: how many responses, and their words together."""

    responses: int = 0
    words: int = 0
    levels: Counter[int] = field(default_factory=Counter)

    @property
    def mean_words(self) -> float:
        return self.words / self.responses


@dataclass(kw_only=True)
class CardFacts:
    """Everything the card says, summed up item by item."""

    rounds: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    by_level: dict[int, Sums] = field(default_factory=dict)
    by_source: dict[str, Sums] = field(default_factory=dict)
    has_meta: bool = False

    def take(self, item: PreferenceItem) -> None:
        self.rounds[len(item.questions)] += 1
        self.images[len(item.images)] += 1
        self.has_meta = self.has_meta or bool(item.meta)
        for number, level in enumerate(item.levels):
            words = sum(len(answer.split()) for answer in level.answers)
            for sums in (self.by_level.setdefault(number, Sums()), self.by_source.setdefault(level.source, Sums())):
                sums.responses += 1
                sums.words += words
                sums.levels[number] += 1


def export_folder(settings: ExportSettings) -> Exported:
    """Write the folder whole: `data/preferences.jsonl`, `data/images/`, `README.md`.

    Raises:
        AmpError: the place is taken, the source cannot be read, or no item can be written.
    """
    with alone_in(place_beside(settings.out), "prefs export", for_out=settings.out):
        _refuse_taken(settings)
        return _exported(settings, _cleared_part(settings))


def _exported(settings: ExportSettings, part: Path) -> Exported:
    result, facts = Exported(out=settings.out), CardFacts()
    copies = ImageCopies(part / DATA)
    try:
        with written_beside(part / DATA / ITEMS) as writer:
            for item in sound_items(settings, result):
                try:
                    images = find_images(item, settings.root)
                    refuse_unnamed_folders(images, settings.folders)
                    names = [copies.copy(image) for image in images]
                except AmpError as error:
                    result.rejected.append((item.id, error.message))
                    continue
                writer.write(_uniform(item, names))
                facts.take(item)
                result.take(item, 1)
            refuse_nothing(result, settings.source)
        result.images = copies.count
        write_text(part / CARD, _card(facts, result, settings))
        _put_in_place(part, settings, copies)
    except BaseException:
        remove_files(part, sort_files(part, WRITTEN)[0])
        raise
    list_rejected(result)
    return result


WRITTEN = (CARD, f"{DATA}/{ITEMS}", f"{DATA}/images/??/*-????????*")
"""What an export writes; images end in a part of their content's hash."""


def _refuse_taken(settings: ExportSettings) -> None:
    """Refuse to replace what is no earlier export, or holds what is read."""
    out = settings.out
    if not _is_taken(out):
        return
    if not ((out / DATA / ITEMS).is_file() and _is_our_card(out / CARD)):
        raise AmpError(f"'{out}' is not empty, and it is not an earlier export", hint="Choose a new folder with --out")
    refuse_inputs(out, [Path(settings.source), settings.image_root])
    refuse_others(out, "prefs export", sort_files(out, WRITTEN)[1])


def _is_our_card(card: Path) -> bool:
    return card.is_file() and "\nMade by amp " in card.read_text(encoding="utf-8", errors="replace")


def _cleared_part(settings: ExportSettings) -> Path:
    """Return the place beside `out` where the folder is made, without what a kill left there."""
    part = place_beside(settings.out)
    ours, others = sort_files(part, WRITTEN)
    if others:
        raise AmpError(
            f"'{part}' is in the way: it holds files that are not ours", hint="Move it, or choose another --out"
        )
    remove_files(part, ours)
    return part


def _put_in_place(part: Path, settings: ExportSettings, copies: "ImageCopies") -> None:
    _refuse_taken(settings)
    out = settings.out
    if _is_taken(out):
        if not settings.overwrite:
            _refuse_difference(part, out)
            return
        refuse_inputs(out, copies.sources)
        remove_files(out, sort_files(out, WRITTEN)[0])
    disk_errors_explained(lambda: rename_held(part, out), out)


def _is_taken(out: Path) -> bool:
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def _refuse_difference(part: Path, out: Path) -> None:
    """Keep a folder that this very export wrote before, as when it was killed after its last step; refuse another."""
    made, there = ({str(file.relative_to(one)) for file in sort_files(one, WRITTEN)[0]} for one in (part, out))
    if made != there or any(filecmp.cmpfiles(part, out, made, shallow=False)[1:]):
        raise AmpError(
            f"'{out}' is not empty, and holds something else",
            hint="Choose a new folder with --out, or replace an earlier export with --overwrite",
        )
    remove_files(part, sort_files(part, WRITTEN)[0])


def _uniform(item: PreferenceItem, images: list[str]) -> dict[str, Any]:
    """Return the item with the same fields in every line: `datasets` refuses a file whose later lines have new ones."""
    levels = [
        {
            "answers": list(level.answers),
            "source": level.source,
            "accuracy": level.accuracy,
            "score": level.score,
        }
        for level in item.levels
    ]
    record: dict[str, Any] = {"id": item.id, "images": images, "questions": list(item.questions), "levels": levels}
    return {**record, "meta": item.meta}


def _card(facts: CardFacts, result: Exported, settings: ExportSettings) -> str:
    """Return the data card's Markdown."""
    from jinja2 import Environment, StrictUndefined

    text = template_path("report", "data_card.md.jinja").read_text(encoding="utf-8")
    source = Path(settings.source)
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(
        name=settings.out.resolve().name,
        facts=facts,
        result=result,
        size=_size_category(result.items),
        run=own_facts(source if source.is_dir() else source.parent),
        version=__version__,
    )


def _size_category(items: int) -> str:
    """Return the hub's word for the number of items."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((word for bound, word in bounds if items < bound), "1M<n<10M")


SHORT_HASH = 8


class ImageCopies:
    """Copies images into `folder`, each content once, in subfolders that stay small enough for the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[Path, str] = {}
        self._by_content: dict[str, str] = {}

    @property
    def sources(self) -> Collection[Path]:
        """The images that were copied."""
        return self._names.keys()

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self._by_content)

    def copy(self, image: Path) -> str:
        """Return the copy's path from `folder`.

        Raises:
            AmpError: it cannot be decoded; so nothing but an image gets there.
        """
        if image not in self._names:
            content, _ = image_content(image)
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self._by_content:
                self._by_content[digest] = self._written(image, content, digest)
            self._names[image] = self._by_content[digest]
        return self._names[image]

    def _written(self, image: Path, content: bytes, digest: str) -> str:
        name = f"images/{digest[:2]}/{image.stem}-{digest[:SHORT_HASH]}{image.suffix}"
        place = self.folder / name

        def write() -> None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)

        disk_errors_explained(write, place)
        return name
