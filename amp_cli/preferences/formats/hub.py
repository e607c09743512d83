"""A folder for the Hugging Face hub: items, images, and a data card with what the data says of itself."""

import filecmp
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amp_cli import __version__
from amp_cli.disk.jsonl import content_hash, disk_errors_explained, read_json, write_text
from amp_cli.disk.run import NAME, put_in_place
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.export import Exported, ExportSettings, list_rejected, refuse_nothing, sound_items
from amp_cli.preferences.image_paths import find_images
from amp_cli.preferences.reading import written_beside
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
    part = _free_part(settings)
    result, facts = Exported(out=settings.out), CardFacts()
    copies = ImageCopies(part / DATA)
    try:
        with written_beside(part / DATA / ITEMS) as writer:
            for item in sound_items(settings, result):
                try:
                    images = find_images(item, settings.root)
                except AmpError as error:
                    result.rejected.append((item.id, error.message))
                    continue
                writer.write(_uniform(item, [copies.copy(image) for image in images]))
                facts.take(item)
                result.take(item, 1)
            refuse_nothing(result, settings.source)
        result.images = copies.count
        write_text(part / CARD, _card(facts, result, settings))
        if _is_taken(settings.out) and not settings.overwrite:
            _refuse_difference(part, settings.out)
        else:
            put_in_place(part, settings.out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    list_rejected(result)
    return result


def _free_part(settings: ExportSettings) -> Path:
    """Return the place beside `out` where the folder is made; refuse to replace what is no result of ours."""
    out = settings.out
    is_ours = (out / DATA / ITEMS).is_file() and (out / CARD).is_file()
    is_taken = _is_taken(out)
    if is_taken and not is_ours:
        raise AmpError(
            f"'{out}' is not empty",
            hint="Choose a new folder with --out, or replace an earlier export with --overwrite",
        )
    source = Path(settings.source).resolve()
    if is_taken and source.is_relative_to(out.resolve()):
        raise AmpError(f"'{settings.source}' lies in '{out}', which would be replaced", hint="Choose a new folder")
    part = out.with_name(out.name + ".part")
    if part.exists():
        if not part.is_dir() or any(one.name not in (DATA, CARD, f"{CARD}.part") for one in part.iterdir()):
            raise AmpError(
                f"'{part}' is in the way: it holds files that are not ours", hint="Move it, or choose another --out"
            )
        disk_errors_explained(lambda: shutil.rmtree(part), part)
    return part


def _is_taken(out: Path) -> bool:
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def _refuse_difference(part: Path, out: Path) -> None:
    """Keep a folder that this very export wrote before, as when it was killed after its last step; refuse another."""
    files = [{str(file.relative_to(one)) for file in one.rglob("*") if file.is_file()} for one in (part, out)]
    is_same = files[0] == files[1] and not any(filecmp.cmpfiles(part, out, files[0], shallow=False)[1:])
    if not is_same:
        raise AmpError(
            f"'{out}' is not empty, and holds something else",
            hint="Choose a new folder with --out, or replace an earlier export with --overwrite",
        )
    shutil.rmtree(part)


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
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(
        name=settings.out.resolve().name,
        facts=facts,
        result=result,
        size=_size_category(result.items),
        run=_how_made(Path(settings.source)),
        version=__version__,
    )


def _how_made(source: Path) -> Mapping[str, Any] | None:
    """Return the `run.json` beside the source, if it was made by us."""
    run = (source if source.is_dir() else source.parent) / NAME
    if not run.is_file():
        return None
    facts = read_json(run)
    return facts if isinstance(facts, dict) and "command" in facts else None


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
    def count(self) -> int:
        """How many files there are."""
        return len(self._by_content)

    def copy(self, image: Path) -> str:
        """Return the copy's path from `folder`."""
        if image not in self._names:
            content = content_hash(image)
            if content not in self._by_content:
                self._by_content[content] = self._copied(image, content)
            self._names[image] = self._by_content[content]
        return self._names[image]

    def _copied(self, image: Path, content: str) -> str:
        name = f"images/{content[:2]}/{image.stem}-{content[:SHORT_HASH]}{image.suffix}"
        place = self.folder / name

        def write() -> None:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, place)

        disk_errors_explained(write, place)
        return name
