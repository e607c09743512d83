"""CHAIR: which objects does a description name, and which of them are not in the image?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.answer_files import LAYOUTS, GivenAnswer, given_on_disk, image_key, read_answers
from amp_cli.benchmarks.benchmark import Benchmark, LoadedBenchmark, Option, rule_option
from amp_cli.benchmarks.coco import (
    DESCRIBED,
    Sample,
    captions_by_image,
    choose_images,
    described_images,
    find_annotations,
    read_instances,
    resolve_sample,
)
from amp_cli.benchmarks.comparing import (
    METHOD,
    Difference,
    chosen_differences,
    paired_differences,
    ratio,
    score_intervals,
    score_values,
)
from amp_cli.benchmarks.files import add_answer
from amp_cli.benchmarks.mentions import Mention, Vocabulary, count_words, find_mentions, names_in
from amp_cli.benchmarks.showing import (
    Given,
    Reply,
    Row,
    Table,
    column,
    description_reply,
    kind_of,
    one_line,
)
from amp_cli.benchmarks.vocabulary import read_vocabulary
from amp_cli.dialogues.language import can_be
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings


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

    @property
    def is_scored(self) -> bool:
        """Whether the description can be in English, as the words looked for are; `plain` counts as the script does."""
        return self.rule == "plain" or can_be(self.answer, "en")

    def counts(self) -> tuple[int, ...]:
        """What this image adds to each of COUNTS; an unscored one adds nothing."""
        if not self.is_scored:
            return (0,) * len(COUNTS)
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


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read COCO annotations: images, the objects in them, and the objects that their reference captions name."""
    files = find_annotations(data, settings.synonyms)
    names, images, objects = read_instances(files.instances)
    vocabulary = read_vocabulary(files.synonyms, names)
    sample = _sample(images, files.instances, data, settings)
    whole = None
    if settings.limit is not None:
        whole = len(_sample(images, files.instances, data, replace(settings, limit=None)).ids)
    identity = sample.to_json()
    captions = captions_by_image(files.captions, sample.ids)
    is_plain = settings.rule == "plain"
    items = tuple(
        BenchmarkItem(
            id=str(image_id),
            images=(images[image_id],),
            questions=(settings.prompt,),
            reference={
                "present": sorted(
                    objects[image_id] | names_in(captions.get(image_id, ()), vocabulary, with_denied=is_plain)
                ),
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
    warnings = []
    if sample.rule == DESCRIBED:
        warnings.append(
            f"Scored are the {len(items):,} of {len(images):,} images that are described, a list of their own"
        )
    return LoadedBenchmark(items=items, files=files.truth, facts=facts, warnings=tuple(warnings), whole=whole)


def _sample(images: Mapping[Any, str], file: Path, data: Path, settings: "EvalSettings") -> Sample:
    """Return which images are to be described, or which are described in a file of answers, now or when it was read."""
    limit, seed = settings.limit, settings.limit_seed
    given = given_on_disk(settings) if settings.answers is None else _read(settings.answers, images)
    if given is None:
        return choose_images(images, settings.sample, limit, data, seed)
    sample = described_images(images, given, limit, data, seed)
    if not sample.ids:
        raise AmpError(
            f"'{file}' has none of the {len(given):,} images that are described, first '{next(iter(given), '')}'",
            hint="Descriptions and annotations must be of the same images",
        )
    return sample


def _read(path: Path, images: Mapping[Any, str]) -> dict[str, Answer]:
    """Return image id -> description; the image of a record is its `image_id` or `image`, else its `question_id`."""
    ids = {image_key(name): str(image_id) for image_id, name in images.items()}
    ids |= {str(image_id): str(image_id) for image_id in images}

    def join(given: Sequence[GivenAnswer]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for one in given:
            name = one.image if one.image is not None else one.number
            if name is None:
                raise AmpError(
                    f"{one.where}: neither `image_id` nor `question_id` says which image it is", hint=LAYOUTS
                )
            add_answer(answers, Answer(id=ids.get(name, ids.get(image_key(name), name)), answers=(one.text,)), path)
        return answers

    return read_answers(path, join)


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, CHAIR's `{"image_id", "caption"}`, or LLaVA's `{"question_id", "text"}`."""
    answers = _read(path, {item.id: item.images[0] for item in items})
    if settings.limit is None:
        return answers
    return {item.id: answers[item.id] for item in items if item.id in answers}


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
    summary: dict[str, Any] = {**score_values(units, rates)}
    summary["n"] = sum(one.is_scored for one in scores)
    summary["unscored"] = len(scores) - summary["n"]
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


def compare(pairs: Sequence[tuple[ChairScore, ChairScore]], rule: str) -> list[Difference]:
    """Compare every score over the images that both runs described."""
    return chosen_differences(paired_differences(pairs, image_counts, rates), SCORES)


def row(first: ChairScore, given: Given[ChairScore]) -> Row:
    """Return an image's descriptions side by side."""
    named = {(frozenset(m.name for m in one.counted), frozenset(m.name for m in one.invented)) for _, one in given}
    return Row(
        images=first.images,
        question=first.question,
        truth=", ".join(first.present) or "none of the objects looked for",
        note="",
        replies=tuple(_reply(name, one) for name, one in given),
        differs=len(named) > 1,
        is_short=False,
    )


def _reply(run: str, one: ChairScore) -> Reply:
    spans = [
        (
            mention.start,
            mention.end,
            kind_of(is_counted=mention in one.counted, is_invented=mention.name not in one.present),
        )
        for mention in one.mentions
    ]
    invented = sorted({mention.name for mention in one.invented})
    return description_reply(run, one.answer, spans, invented=invented, missed=one.missed)


COLUMNS = (
    column("CHAIR-i", "chair_i", lower_is_better=True),
    column("CHAIR-s", "chair_s", lower_is_better=True),
    column("recall", "recall"),
    replace(column("words", "words", lower_is_better=None), is_charted=False),
)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return one line: how many descriptions, and every score."""
    return [one_line(scores, {"n": scores["n"]}, COLUMNS)]


def about(scores: Mapping[str, Any]) -> str:
    """Say which images were described, and in what the rule `plain` differs from the original script."""
    sample = scores.get("sample")  # evaluations of earlier versions lack it
    said = [f"images: list '{sample['rule']}' of {sample['n']:,}, sha256 {sample['sha256'][:8]}"] if sample else []
    return ". ".join([*said, PLAIN] if scores["rule"] == "plain" else said)


PLAIN = (
    "The rule plain is not the original script: it counts as that does, denials included, but finds singulars by rule "
    "instead of the library `pattern`, takes an orange shirt for no fruit, and its words are amp's own unless "
    "--synonyms gives the script's synonyms.txt"
)


BENCHMARK = Benchmark(
    name="chair",
    title="CHAIR: objects named in descriptions that are not there",
    help="""Have images described and count the objects that are named but not there (CHAIR-i, CHAIR-s), and recall.

    Example: amp eval chair --model 7b --data coco --image-root coco/val2014 --limit 500 --out runs/base-chair
    """,
    options=(
        Option(name="data", help="Folder with COCO's instances*.json (captions*.json beside it)."),
        Option(
            name="sample",
            help="Which of COCO's images: POPE's 500, the first 500 by hash, or all; auto is pope if it is at hand.",
            default="auto",
            choices=("auto", "pope", "hash", "all"),
        ),
        Option(
            name="synonyms",
            help='JSON {"car": ["car", "cars"]} or CHAIR\'s synonyms.txt (default: synonyms.json below --data, or a '
            "table for COCO).",
            panel="Scoring",
        ),
        rule_option("strict", "plain", help='plain counts "there is no dog" as a dog; not the original script.'),
        Option(
            name="prompt", help="What the model is asked.", default="Describe this image in detail.", panel="Decoding"
        ),
    ),
    files=("instances*.json",),
    images_of="pope",
    settle=lambda settings: replace(settings, sample=resolve_sample(settings.sample, settings.data)),
    load=load,
    adopt=adopt,
    score=score,
    summarise=summarise,
    read_score=ChairScore.from_json,
    sampling=None,
    is_scored=lambda one: one.is_scored,
    is_readable=lambda one: one.is_scored and bool(one.mentions),
    unreadable="descriptions name none of the objects looked for, or are not in English and unscored",
    compare=compare,
    row=row,
    tables=tables,
    columns=COLUMNS,
    curves=(
        column("CHAIR-i (lower is better)", "chair_i", lower_is_better=True),
        column("recall of objects", "recall"),
        column("words in a description", "words", lower_is_better=None),
    ),
    tradeoff=(
        column("CHAIR-i, the share of named objects that are not there", "chair_i", lower_is_better=True),
        column("recall of objects", "recall"),
    ),
    items="descriptions",
    about=about,
    reading="CHAIR-i is the share of named objects that are not there, CHAIR-s the share of descriptions with at least "
    "one such object. Short descriptions invent less: read both beside recall and length.",
)
