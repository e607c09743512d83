"""CHAIR: which objects does a description name, and which of them are not in the image?"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.files import add_answer, check_complete, own_answers, records_of
from amp_cli.benchmarks.intervals import METHOD, ratio, score_intervals
from amp_cli.benchmarks.mentions import Mention, Vocabulary, count_words, find_mentions, names_in
from amp_cli.benchmarks.pope import label_file
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.disk.jsonl import read_json
from amp_cli.disk.templates import template_path
from amp_cli.downloads.places import benchmark_folder
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array


COUNTS = ("descriptions", "with_invented", "mentions", "invented", "present", "recalled", "words")
SCORES = ("chair_s", "chair_i", "recall", "words")


@dataclass(frozen=True, kw_only=True)
class ChairScore:
    """One description's result.

    `mentions` are in reading order, `present` is the truth, `sample` says which list of images this one is of.
    """

    id: str
    images: tuple[str, ...]
    question: str
    answer: str
    mentions: tuple[Mention, ...]
    present: tuple[str, ...]
    rule: str
    sample: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> tuple[Mention, ...]:
        """The mentions that assert something: the rule `plain` counts denials too, as the original script does."""
        return tuple(mention for mention in self.mentions if self.rule == "plain" or not mention.denied)

    @property
    def invented(self) -> tuple[Mention, ...]:
        """The counted mentions of objects that are not in the image."""
        return tuple(mention for mention in self.counted if mention.name not in self.present)

    @property
    def missed(self) -> tuple[str, ...]:
        """The image's objects that the description does not name."""
        named = {mention.name for mention in self.counted}
        return tuple(name for name in self.present if name not in named)

    def counts(self) -> tuple[int, ...]:
        """What this image adds to each of COUNTS."""
        recalled = len(self.present) - len(self.missed)
        invented = len(self.invented)
        return (1, invented > 0, len(self.counted), invented, len(self.present), recalled, count_words(self.answer))

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "images": list(self.images),
            "question": self.question,
            "answer": self.answer,
            "mentions": [
                {"name": one.name, "start": one.start, "end": one.end, "denied": one.denied} for one in self.mentions
            ],
            "present": list(self.present),
            "mentioned": sorted({mention.name for mention in self.counted}),
            "hallucinated": sorted({mention.name for mention in self.invented}),
            "missed": list(self.missed),
            "rule": self.rule,
            "sample": self.sample,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "ChairScore":
        return cls(
            id=record["id"],
            images=tuple(record["images"]),
            question=record["question"],
            answer=record["answer"],
            mentions=tuple(Mention(**mention) for mention in record["mentions"]),
            present=tuple(record["present"]),
            rule=record["rule"],
            sample=record.get("sample", {}),  # evaluations of earlier versions lack it
        )


def load(data: Path, settings: EvalSettings) -> LoadedBenchmark:
    """Read COCO annotations: images, the objects in them, and the objects that their reference captions name."""
    files = find_annotations(data, settings.synonyms)
    names, images, objects = read_instances(files.instances)
    vocabulary = read_vocabulary(files.synonyms, names)
    sample = choose_images(images, settings.sample, settings.limit, data)
    identity = sample.to_json()
    captions = captions_by_image(files.captions, sample.ids)
    items = tuple(
        BenchmarkItem(
            id=str(image_id),
            images=(images[image_id],),
            questions=(settings.prompt,),
            reference={
                "present": sorted(objects[image_id] | names_in(captions.get(image_id, ()), vocabulary)),
                "vocabulary": vocabulary,
                "sample": identity,
            },
        )
        for image_id in sample.ids
    )
    facts = {
        "images": len(items),
        "sample": identity,
        "categories": len(names),
        "reference_captions": files.captions is not None,
        "words": str(files.synonyms) if files.synonyms else "built in, for COCO's 80 classes",
    }
    return LoadedBenchmark(items=items, files=files.truth, facts=facts)


def ask(item: BenchmarkItem, settings: EvalSettings) -> tuple[str, ...]:
    """Return the request for a description."""
    return item.questions


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings) -> dict[str, Answer]:
    """Read our own answers, or CHAIR's `{"image_id", "caption"}` records."""
    records = records_of(path)
    if all("answers" in record for record in records):
        answers = own_answers(records, path)
    else:
        answers = {}
        for record in records:
            if "image_id" not in record or not isinstance(record.get("caption"), str):
                raise AmpError(f"'{path}' holds a record without `image_id` and `caption`: {record!r:.120}")
            add_answer(answers, Answer(id=str(record["image_id"]), answers=(record["caption"],)), path)
    check_complete(items, answers, path)
    return answers


def score(item: BenchmarkItem, answer: Answer, rule: str) -> ChairScore:
    """Find the objects that a description names and hold them against the truth."""
    vocabulary: Vocabulary = item.reference["vocabulary"]
    text = answer.answers[0]
    return ChairScore(
        id=item.id,
        images=item.images,
        question=item.questions[0],
        answer=text,
        mentions=tuple(find_mentions(text, vocabulary)),
        present=tuple(item.reference["present"]),
        rule=rule,
        sample=item.reference["sample"],
    )


def summarise(scores: Sequence[ChairScore], rule: str) -> dict[str, Any]:
    """Return CHAIR-s, CHAIR-i, recall and mean length in words, with intervals. An undefined ratio is None."""
    units = image_counts(scores)
    intervals = score_intervals(units, rates)
    summary: dict[str, Any] = {"benchmark": "chair", "rule": rule}
    for name, value in rates(units.sum(axis=0, keepdims=True)).items():
        summary[name] = None if value[0] != value[0] else float(value[0])
    summary["n"] = len(scores)
    summary["counts"] = dict(zip(COUNTS[1:-1], (int(total) for total in units.sum(axis=0)[1:-1]), strict=True))
    summary["ci95"] = {name: intervals.get(name) for name in SCORES}
    summary["sample"] = scores[0].sample if scores else {}
    return summary | {"interval": METHOD}


def image_counts(scores: Sequence[ChairScore]) -> "Array":
    """Return (images, counts), the columns named by COUNTS."""
    import numpy as np

    return np.array([one.counts() for one in scores], dtype=np.float64).reshape(len(scores), len(COUNTS))


def rates(sums: "Array") -> dict[str, "Array"]:
    """Return the scores of (draws, counts) sums. CHAIR-i counts every mention, recall each object of an image once."""
    descriptions, with_invented, mentions, invented, present, recalled, words = sums.T
    return {
        "chair_s": ratio(with_invented, descriptions),
        "chair_i": ratio(invented, mentions),
        "recall": ratio(recalled, present),
        "words": ratio(words, descriptions),
    }


NO_OBJECT = "(no object)"
"""The key of a word file under which stand names that hold an object's word and are no such object ("bus stop")."""


PINNED = 500
"""How many of COCO's images papers describe; which ones differs from paper to paper, so it is pinned here."""
SALT = "amp chair "
_POPE_SPLITS = ("random", "popular", "adversarial")


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
        raise AmpError(f"No word file at '{synonyms}'", hint='--synonyms takes a JSON file {"car": ["car", "cars"]}')
    beside = next(iter(sorted(data.rglob("synonyms.json"))), None)
    return AnnotationFiles(
        instances=found[0], captions=captions if captions.is_file() else None, synonyms=synonyms or beside
    )


def read_instances(file: Path) -> tuple[list[str], dict[Any, str], dict[Any, set[str]]]:
    """Return the names of the object classes, image id -> file name, and image id -> names of the objects in it."""
    instances = read_json(file)
    if not isinstance(instances, dict) or not all(key in instances for key in ("images", "annotations", "categories")):
        raise AmpError(f"'{file}' is no COCO instances file: images, annotations and categories are needed")
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in instances["categories"]}
        images = {entry["id"]: str(entry["file_name"]) for entry in instances["images"]}
        objects: dict[Any, set[str]] = {image_id: set() for image_id in images}
        for entry in instances["annotations"]:
            if entry["image_id"] in objects and entry["category_id"] in categories:
                objects[entry["image_id"]].add(categories[entry["category_id"]])
    except (KeyError, TypeError) as error:
        raise AmpError(f"'{file}' is no COCO instances file: an entry lacks {error}") from error
    if not images:
        raise AmpError(f"'{file}' names no images")
    return list(categories.values()), images, objects


def read_vocabulary(file: Path | None, categories: Sequence[str]) -> Vocabulary:
    """Return the words for the objects: from `file`, else the built-in table as far as it knows the categories."""
    path = file or template_path("chair", "coco_words.json")
    words = read_json(path)
    if not isinstance(words, dict) or not all(map(_are_texts, words.values())):
        raise AmpError(
            f"'{path}' is no word file", hint='Its form is {"car": ["car", "cars"], "person": ["man", "woman"]}'
        )
    not_objects = words.pop(NO_OBJECT, [])
    known = {name: words.get(name, ()) for name in categories}
    if file is not None:
        known = words | known
    return Vocabulary(known, not_objects)


def _are_texts(phrases: object) -> bool:
    return isinstance(phrases, list) and all(isinstance(phrase, str) for phrase in phrases)


def choose_images(images: Mapping[Any, str], sample: str, limit: int | None, data: Path) -> Sample:
    """Return the images to describe: the same ones for everybody who has the same annotations.

    A file of at most PINNED images is taken whole. Of a larger one (COCO has 40,504) `pope` takes POPE's images,
    `hash` the PINNED whose ids' salted SHA-256 come first, `all` every one. `limit` takes the first so many in the
    order of the hashes.
    """
    rule = "all" if len(images) <= PINNED else sample
    if rule == "pope":
        wanted = pope_images(data)
        chosen = [image_id for image_id, name in images.items() if _number(name) in wanted]
        if not chosen:
            raise AmpError(
                f"None of {len(images):,} annotated images is one of POPE's",
                hint="Give --sample hash, or --data with COCO val2014's annotations",
            )
    else:
        chosen = list(images)
    if limit is None and rule == "all":
        return Sample(rule=rule, ids=tuple(chosen))
    number = PINNED if limit is None and rule == "hash" else limit
    return Sample(rule=rule, ids=tuple(sorted(chosen, key=_place)[:number]))


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
    found = ([file for split in _POPE_SPLITS if (file := label_file(folder, split))] for folder in folders)
    return next((files for files in found if files), [])


def _number(name: str) -> str:
    """Return `000000000042` of `val2014/COCO_val2014_000000000042.jpg`."""
    return PurePosixPath(name).stem.rpartition("_")[2]


def _place(image_id: Any) -> bytes:
    return hashlib.sha256(f"{SALT}{image_id}".encode()).digest()


def captions_by_image(file: Path | None, wanted: Collection[Any]) -> dict[Any, list[str]]:
    """Return the reference captions of each wanted image; empty without a file."""
    captions: dict[Any, list[str]] = {}
    if file is None:
        return captions
    among = set(wanted)
    for entry in read_json(file).get("annotations", ()):
        if entry["image_id"] in among:
            captions.setdefault(entry["image_id"], []).append(str(entry["caption"]))
    return captions
