"""Mixes preference files: samples each, drops what occurs twice, shuffles, and holds items out by image."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from amp_cli.disk.jsonl import content_hash, disk_errors_explained, full_disk_told, write_records
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.images import hold_out
from amp_cli.preferences.formats.source import open_source
from amp_cli.preferences.reading import find_images, image_root, name_from, read_items, written_beside
from amp_cli.ranges import MANY
from amp_cli.records import PreferenceItem

COMMAND = "prefs mix"
ITEMS = "preferences.jsonl"
HELD_OUT = "held_out.jsonl"
REJECTED = "rejected.jsonl"
SPILL = "mix.part"


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One source of a mix, and how many of its items are asked for (None: all)."""

    source: str
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and not 1 <= self.count <= MANY:
            asked = "no item" if self.count < 1 else f"more than {MANY:,} items"
            raise AmpError(f"'{self.source}:{self.count:.6g}' asks for {asked}", hint="Give a number, or none: all")

    @classmethod
    def parse(cls, text: str) -> "Ingredient":
        """Read `SOURCE` or `SOURCE:COUNT`."""
        source, colon, count = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(source=text)
        if not count.isdecimal():
            raise AmpError(f"'{text}' has no number after the colon", hint=f"Such as {source or 'FILE'}:1000")
        return cls(source=source, count=int(count[:20]))

    @property
    def label(self) -> str:
        """What stands before ids that clash: the file's name, or its folder's where all files are called alike."""
        path = Path(self.source)
        return path.resolve().parent.name if path.name == ITEMS else path.stem


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """What to mix into which folder; `held_out` is the share of items that is put aside (0: none)."""

    ingredients: tuple[Ingredient, ...]
    out: Path
    seed: int = 0
    held_out: float = 0.0
    image_root: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise AmpError(
                f"--held-out must be a share from 0 to below 1, not {self.held_out:g}", hint="E.g. --held-out 0.1"
            )


@dataclass(kw_only=True)
class Taken:
    """What one source gave: its usable items, repeats among them, and how many went into the mix."""

    source: str
    asked: int | None
    found: int = 0
    repeated: int = 0
    rejected: int = 0
    mixed: int = 0
    renamed: int = 0

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(kw_only=True)
class Mixed:
    """The result: what each source gave, and the files."""

    taken: list[Taken]
    items: int
    held_out: int
    out: Path
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "held_out": self.held_out,
            "rejected": len(self.rejected),
            "sources": [one.to_json() for one in self.taken],
            "preferences": str(self.out / ITEMS),
        }


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A chosen item: where it stands in the spilled file, its images, and its id."""

    place: int
    id: str
    images: tuple[Path, ...]


def mix(settings: MixSettings) -> Mixed:
    """Write `preferences.jsonl`, and `held_out.jsonl` where asked for; the same settings and data give the same bytes.

    Raises:
        AmpError: a source cannot be read, the folder is taken, or nothing is left to mix.
    """
    with _run(settings) as run, _spill(settings.out / SPILL) as stream:
        sampler = _Sampler(settings, stream)
        taken = [sampler.sample(number) for number in range(len(settings.ingredients))]
        kept = sampler.kept
        if not kept:
            first = f"; the first reason: {sampler.rejected[0][1]}" if sampler.rejected else ""
            raise AmpError(f"There is nothing to mix{first}", hint="Look at the sources with `amp prefs check`")
        held = set()
        if settings.held_out:
            held = hold_out([one.images for one in kept], settings.held_out, settings.seed)
            if len(held) == len(kept):
                raise AmpError("All items would be held out", hint="Give a smaller --held-out")
        order = list(range(len(kept)))
        random.Random(f"{settings.seed} order").shuffle(order)
        ids = _unique_ids(kept, taken, settings.ingredients)
        for name, numbers in (
            (ITEMS, [number for number in order if number not in held]),
            (HELD_OUT, [number for number in order if number in held]),
        ):
            if name == HELD_OUT and not settings.held_out:
                (settings.out / name).unlink(missing_ok=True)
                continue
            with written_beside(settings.out / name) as writer:
                for number in numbers:
                    stream.seek(kept[number].place)
                    writer.write({**json.loads(stream.readline()), "id": ids[number]})
        write_records(settings.out / REJECTED, ({"id": one, "reason": reason} for one, reason in sampler.rejected))
        result = Mixed(
            taken=taken,
            items=len(kept) - len(held),
            held_out=len(held),
            out=settings.out,
            rejected=sampler.rejected,
        )
        run.finish(result=result.to_json())
    return result


def _run(settings: MixSettings) -> Run:
    sources = [open_source(one.source, image_root=settings.image_root) for one in settings.ingredients]
    for one, opened in zip(settings.ingredients, sources, strict=True):
        if any(file.resolve().is_relative_to(settings.out.resolve()) for file in opened.files):
            raise AmpError(f"'{one.source}' lies in the result's folder '{settings.out}'", hint="Choose another --out")
    return Run.start(
        settings.out,
        command=COMMAND,
        settings={
            "sources": [{"source": one.source, "count": one.count} for one in settings.ingredients],
            "held_out": settings.held_out,
            "image_root": settings.image_root,
            "seed": settings.seed,
        },
        identity={
            one.source: [content_hash(file) for file in opened.files]
            for one, opened in zip(settings.ingredients, sources, strict=True)
        },
        seed=settings.seed,
        overwrite=settings.overwrite,
        inputs=[settings.image_root, *(file for opened in sources for file in opened.files)],
    )


@contextmanager
def _spill(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file for the chosen items, so that they need not be in memory; it is gone afterwards."""
    stream = disk_errors_explained(lambda: path.open("w+b"), path)
    try:
        with full_disk_told(path), stream:
            yield stream
    finally:
        path.unlink(missing_ok=True)


class _Sampler:
    """Draws from one source after the other; an item with the content of an earlier one is not drawn again.

    Each source is read once: a reservoir holds the places of the drawn items in the spilled file.
    """

    def __init__(self, settings: MixSettings, stream: IO[bytes]) -> None:
        self.settings = settings
        self.kept: list[Kept] = []
        self.rejected: list[tuple[str, str]] = []
        self._stream = stream
        self._seen: dict[bytes, list[tuple[Path, ...]]] = {}

    def sample(self, number: int) -> Taken:
        """Draw from the source of that number."""
        one = self.settings.ingredients[number]
        taken = Taken(source=one.source, asked=one.count)
        chance = random.Random(f"{self.settings.seed} source {number}")
        drawn: list[Kept] = []
        for item, images in self._usable(one, taken):
            place = len(drawn)
            if one.count is not None and taken.found > one.count:
                place = chance.randrange(taken.found)
                if place >= one.count:
                    continue
            kept = self._spilled(item, images)
            if place == len(drawn):
                drawn.append(kept)
            else:
                drawn[place] = kept
        taken.mixed = len(drawn)
        self.kept += drawn
        return taken

    def _usable(self, one: Ingredient, taken: Taken) -> Iterator[tuple[PreferenceItem, tuple[Path, ...]]]:
        root = image_root(one.source, self.settings.image_root)
        for item in read_items(one.source, image_root=self.settings.image_root):
            reason = ""
            images: tuple[Path, ...] = ()
            if isinstance(item, LeftOut):
                reason = item.reason
            else:
                try:
                    images = find_images(item, root)
                except AmpError as error:
                    reason = error.message
            if isinstance(item, LeftOut) or reason:
                taken.rejected += 1
                self.rejected.append((item.id, f"{one.source}: {reason}"))
            elif self._occurred(item, images):
                taken.repeated += 1
            else:
                taken.found += 1
                yield item, images

    def _occurred(self, item: PreferenceItem, images: tuple[Path, ...]) -> bool:
        """Say whether an item with the same texts and the same images (by content) was seen before."""
        texts = [list(item.questions), [list(level.answers) for level in item.levels]]
        digest = blake2b(json.dumps(texts).encode(), digest_size=16).digest()
        earlier = self._seen.setdefault(digest, [])
        if any(_same_images(images, others) for others in earlier):
            return True
        earlier.append(images)
        return False

    def _spilled(self, item: PreferenceItem, images: tuple[Path, ...]) -> Kept:
        record = {**item.to_json(), "images": [name_from(self.settings.out, image) for image in images]}
        place = self._stream.tell()
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        disk_errors_explained(lambda: self._stream.write(line), self.settings.out / SPILL)
        return Kept(place=place, id=item.id, images=images)


def _same_images(ours: Sequence[Path], others: Sequence[Path]) -> bool:
    """Compare by path first; files of equal size also by content."""
    if len(ours) != len(others):
        return False
    return all(
        one == other or (one.stat().st_size == other.stat().st_size and content_hash(one) == content_hash(other))
        for one, other in zip(ours, others, strict=True)
    )


def _unique_ids(kept: Sequence[Kept], taken: Sequence[Taken], ingredients: Sequence[Ingredient]) -> list[str]:
    """Return the items' ids; one that an earlier item has gets its source's name in front, and a number if need be."""
    ids: list[str] = []
    used = set()
    own = {one.id for one in kept}
    start = 0
    for one, ingredient in zip(taken, ingredients, strict=True):
        for item in kept[start : start + one.mixed]:
            unique, number = item.id, 1
            while unique in used or (unique != item.id and unique in own):
                unique = f"{ingredient.label}-{item.id}" if number == 1 else f"{ingredient.label}-{number}-{item.id}"
                number += 1
            one.renamed += unique != item.id
            used.add(unique)
            ids.append(unique)
        start += one.mixed
    return ids
