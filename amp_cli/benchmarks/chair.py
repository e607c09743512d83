"""CHAIR: which objects does a description name, and which of them are not in the picture?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.answers import add_answer, check_complete, own_answers, records_of
from amp_cli.benchmarks.chair_files import (
    captions_by_image,
    choose_images,
    find_annotations,
    read_instances,
    read_vocabulary,
)
from amp_cli.benchmarks.intervals import METHOD, ratio, score_intervals
from amp_cli.benchmarks.mentions import Mention, Vocabulary, count_words, find_mentions, names_in
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.intervals import Array

COUNTS = ("descriptions", "with_invented", "mentions", "invented", "present", "recalled", "words")
SCORES = ("chair_s", "chair_i", "recall", "words")


@dataclass(frozen=True, kw_only=True)
class ChairScore:
    """One description's result.

    `mentions` are in reading order, `present` is the truth, `sample` says which list of pictures this one is of.
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
        """The counted mentions of objects that are not in the picture."""
        return tuple(mention for mention in self.counted if mention.name not in self.present)

    @property
    def missed(self) -> tuple[str, ...]:
        """The picture's objects that the description does not name."""
        named = {mention.name for mention in self.counted}
        return tuple(name for name in self.present if name not in named)

    def counts(self) -> tuple[int, ...]:
        """What this picture adds to each of COUNTS."""
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
    """Read COCO annotations: pictures, the objects in them, and the objects that their reference captions name."""
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
    """Return (pictures, counts), the columns named by COUNTS."""
    import numpy as np

    return np.array([one.counts() for one in scores], dtype=np.float64).reshape(len(scores), len(COUNTS))


def rates(sums: "Array") -> dict[str, "Array"]:
    """Return the scores of (draws, counts) sums. CHAIR-i counts every mention, recall each object of a picture once."""
    descriptions, with_invented, mentions, invented, present, recalled, words = sums.T
    return {
        "chair_s": ratio(with_invented, descriptions),
        "chair_i": ratio(invented, mentions),
        "recall": ratio(recalled, present),
        "words": ratio(words, descriptions),
    }
