"""COCO's annotations, and which of its images are described: the same ones for everybody."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from amp_cli.benchmarks.files import records_of
from amp_cli.benchmarks.pope import label_file
from amp_cli.benchmarks.pope_answers import SPLITS
from amp_cli.benchmarks.sampling import place_of
from amp_cli.benchmarks.vocabulary import HINT
from amp_cli.disk.parsing import read_json, read_object
from amp_cli.downloads.places import benchmark_folder
from amp_cli.errors import AmpError

PINNED = 500
"""How many of COCO's images papers describe; which ones differs from paper to paper, so it is pinned here."""
SALT = "amp chair "


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The images to describe, and the rule that chose them."""

    rule: str
    ids: tuple[Any, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the list: equal hashes are equal lists."""
        listed = "\n".join(sorted(str(image_id) for image_id in self.ids))
        return {"rule": self.rule, "n": len(self.ids), "sha256": hashlib.sha256(listed.encode()).hexdigest()}


@dataclass(frozen=True, kw_only=True)
class AnnotationFiles:
    """Where the truth about the images stands; the last two may be absent."""

    instances: Path
    captions: Path | None
    synonyms: Path | None

    @property
    def truth(self) -> tuple[Path, ...]:
        """The files that say what is in the images."""
        return (self.instances, self.captions) if self.captions else (self.instances,)


def find_annotations(data: Path, synonyms: Path | None) -> AnnotationFiles:
    """Find `instances*.json` below `data`, and the captions and words that belong to it."""
    if not data.is_dir():
        raise AmpError(
            f"There is no folder '{data}'", hint="Give --data a folder with COCO annotations (instances*.json)"
        )
    found = sorted(data.rglob("instances*.json"))
    if len(found) > 1:  # COCO's own folder holds the training images' file too
        found = [file for file in found if "val" in file.name] or found
    if len(found) != 1:
        listed = ", ".join(f"'{file.relative_to(data)}'" for file in found) or "none"
        raise AmpError(
            f"One COCO instances file (instances*.json) is needed below '{data}', found: {listed}",
            hint="Point --data at a folder with one of them",
        )
    captions = found[0].with_name(found[0].name.replace("instances", "captions", 1))
    if synonyms is not None and not synonyms.is_file():
        raise AmpError(f"No word file at '{synonyms}'", hint=HINT)
    beside = next(iter(sorted(data.rglob("synonyms.json"))), None)
    return AnnotationFiles(
        instances=found[0], captions=captions if captions.is_file() else None, synonyms=synonyms or beside
    )


def read_instances(file: Path) -> tuple[list[str], dict[Any, str], dict[Any, set[str]]]:
    """Return the names of the object classes, image id -> file name, and image id -> names of the objects in it."""
    instances = read_json(file)
    if not isinstance(instances, dict) or not all(key in instances for key in ("images", "annotations", "categories")):
        raise AmpError(
            f"'{file}' is not a COCO instances file: it needs images, annotations and categories",
            hint="Give COCO's instances_val2014.json, or a file of the same form",
        )
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in instances["categories"]}
        images = {entry["id"]: str(entry["file_name"]) for entry in instances["images"]}
        objects: dict[Any, set[str]] = {image_id: set() for image_id in images}
        for entry in instances["annotations"]:
            if entry["image_id"] in objects and entry["category_id"] in categories:
                objects[entry["image_id"]].add(categories[entry["category_id"]])
    except (KeyError, TypeError) as error:
        raise AmpError(
            f"'{file}' is not a COCO instances file: an entry lacks {error}",
            hint="Give COCO's instances_val2014.json, or a file of the same form",
        ) from error
    if not images:
        raise AmpError(
            f"'{file}' names no images", hint="Give COCO's instances_val2014.json, or a file of the same form"
        )
    return list(categories.values()), images, objects


def choose_images(images: Mapping[Any, str], sample: str, limit: int | None, data: Path, seed: int = 0) -> Sample:
    """Return the images to describe: the same ones for everybody who has the same annotations.

    A file of at most PINNED images is taken whole. Of a larger one (COCO has 40,504) `pope` takes POPE's images,
    `hash` the PINNED whose ids' salted SHA-256 come first, `all` every one. `limit` takes the first so many in the
    order of the hashes, which is another one with another seed.
    """
    rule = "all" if len(images) <= PINNED else sample
    chosen = _chosen(images, rule, limit, data, seed)
    if rule == "pope" and not chosen:
        raise AmpError(
            f"None of {len(images):,} annotated images is one of POPE's",
            hint="Give --sample hash, or --data with COCO val2014's annotations",
        )
    return Sample(rule=rule, ids=chosen)


def _chosen(images: Mapping[Any, str], rule: str, limit: int | None, data: Path, seed: int) -> tuple[Any, ...]:
    wanted = pope_images(data) if rule == "pope" else None
    among = [image_id for image_id, name in images.items() if wanted is None or _number(name) in wanted]
    if limit is None and rule == "all":
        return tuple(among)
    number = PINNED if limit is None and rule == "hash" else limit
    return tuple(sorted(among, key=_place_by(0 if limit is None else seed))[:number])


DESCRIBED = "described"
"""The rule that takes the images that an answer file describes, whichever they are."""


def described_images(
    images: Mapping[Any, str], described: Collection[str], limit: int | None, data: Path, seed: int = 0
) -> Sample:
    """Return those of the images that are described, under the name of the list that they are, if they are one.

    Args:
        described: ids as texts.
    """
    wanted = set(described)
    ids: tuple[Any, ...] = tuple(image_id for image_id in images if str(image_id) in wanted)
    if limit is not None:
        ids = tuple(sorted(ids, key=_place_by(seed))[:limit])
    for rule in ("all", "hash", *(("pope",) if _pope_files(data) else ())):
        chosen = _chosen(images, rule, limit, data, seed)
        if set(chosen) == set(ids):
            return Sample(rule=rule, ids=chosen)
    return Sample(rule=DESCRIBED, ids=ids)


def resolve_sample(sample: str, data: Path | None) -> str:
    """Return what `auto` means here: POPE's images if its files are at hand, else those that come first by hash."""
    if sample != "auto":
        return sample
    return "pope" if _pope_files(data) else "hash"


def pope_images(data: Path) -> set[str]:
    """Return the numbers of the images that POPE asks about, read from its files."""
    files = _pope_files(data)
    if not files:
        raise AmpError(
            f"No coco_pope_random.json below '{data}', and POPE was not downloaded",
            hint="Run `amp download pope`, or give --sample hash",
        )
    return {_number(str(record.get("image", ""))) for file in files for record in records_of(file)}


def _pope_files(data: Path | None) -> list[Path]:
    """Return POPE's label files below `data`, or where `amp download` puts them."""
    folders = [folder for folder in (data, benchmark_folder("pope")) if folder is not None and folder.is_dir()]
    names = [f"coco_pope_{split}.json" for split in SPLITS]
    found = ([file for name in names if (file := label_file(folder, name, "Give --data"))] for folder in folders)
    return next((files for files in found if files), [])


def _number(name: str) -> str:
    """Return `000000000042` of `val2014/COCO_val2014_000000000042.jpg`."""
    return PurePosixPath(name).stem.rpartition("_")[2]


def _place_by(seed: int) -> Callable[[Any], bytes]:
    return lambda image_id: place_of(f"{SALT}{image_id}", seed)


def captions_by_image(file: Path | None, wanted: Collection[Any]) -> dict[Any, list[str]]:
    """Return the reference captions of each wanted image; empty without a file."""
    captions: dict[Any, list[str]] = {}
    if file is None:
        return captions
    among = set(wanted)
    try:
        for entry in read_object(file, annotations=list)["annotations"]:
            if entry["image_id"] in among:
                captions.setdefault(entry["image_id"], []).append(str(entry["caption"]))
    except (KeyError, TypeError) as error:
        raise AmpError(
            f"'{file}' is not a COCO captions file: an entry lacks {error}", hint="Fetch it again, or move it away"
        ) from error
    return captions
