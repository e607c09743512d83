"""Object HalBench: 300 COCO images described at length; how many answers, and how many objects, are invented.

The set of RLHF-V (arXiv 2312.00849), counted as RLAIF-V's `eval_gpt_obj_halbench.py` does: of the answers that name any
of COCO's objects, the share that names one which is not in the image (response), and the share of such among all named
objects (object). Here the objects are found by CHAIR's rule; a judge finds them in `object_halbench_judged`.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import chair
from amp_cli.benchmarks.answer_files import LAYOUTS, GivenAnswer, image_key, read_answers
from amp_cli.benchmarks.benchmark import Benchmark, LoadedBenchmark, Option, rule_option
from amp_cli.benchmarks.chair import ChairScore
from amp_cli.benchmarks.coco import captions_by_image, find_annotations, read_instances
from amp_cli.benchmarks.comparing import (
    METHOD,
    Difference,
    chosen_differences,
    paired_differences,
    ratio,
    score_intervals,
    score_values,
)
from amp_cli.benchmarks.files import add_answer, records_of, text_field
from amp_cli.benchmarks.mentions import names_in
from amp_cli.benchmarks.pope import label_file
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import Table, column, one_line
from amp_cli.benchmarks.vocabulary import read_vocabulary
from amp_cli.disk.jsonl import content_hash, write_bytes
from amp_cli.downloads.places import benchmark_folder, cache_folder
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings

FILE = "obj_halbench_300_with_image.jsonl"
WORDS = "synonyms_refine.txt"
COUNT = 300
SCORES = ("response", "object", "recall", "words")
_HINT = f"Give --data the folder with {FILE}, or run `amp download object-halbench` first"


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read the questions, and what COCO's annotations and reference captions say is in the images.

    The annotations are looked for below `data`, else among CHAIR's downloaded files. Objects are looked for by the
    words of --synonyms, else by `synonyms_refine.txt` below `data`, else by the built-in ones.
    """
    file = label_file(data, FILE, _HINT)
    if file is None:
        raise AmpError(f"No {FILE} below '{data}'", hint=_HINT)
    records = records_of(file)
    place = data if next(data.rglob("instances*.json"), None) else benchmark_folder("chair")
    if not place.is_dir():
        raise AmpError(
            f"No COCO annotations (instances_val2014.json) below '{data}'",
            hint="Put COCO's annotations there, or run `amp download chair` first",
        )
    refined = next(iter(sorted(data.rglob(WORDS))), None)
    files = find_annotations(place, settings.synonyms or refined)
    names, images, objects = read_instances(files.instances)
    vocabulary = read_vocabulary(files.synonyms, names)
    numbers = [_number(record, f"'{file}', record {number},") for number, record in enumerate(records, start=1)]
    if unknown := [number for number in numbers if number not in images]:
        raise AmpError(
            f"'{files.instances}' does not know {len(unknown):,} of the images, first {unknown[0]}",
            hint="Give COCO val2014's annotations",
        )
    captions = captions_by_image(files.captions, numbers)
    items = tuple(
        BenchmarkItem(
            id=str(image_id),
            images=(images[image_id],),
            questions=(text_field(record, "question", f"'{file}': image {image_id}"),),
            reference={
                "present": sorted(objects[image_id] | names_in(captions.get(image_id, ()), vocabulary)),
                "vocabulary": vocabulary,
                "sample": {},
                "answers": [""],
            },
        )
        for image_id, record in zip(numbers, records, strict=True)
    )
    return LoadedBenchmark(
        items=items,
        files=(file, *files.truth),
        facts={"questions": len(items), "words": str(files.synonyms) if files.synonyms else "built in"},
        warnings=() if len(items) == COUNT else (f"'{file}' holds {len(items)} questions, not {COUNT}",),
    )


def _number(record: Mapping[str, Any], where: str) -> int:
    try:
        return int(record["image_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise AmpError(f"{where} has no number `image_id`", hint=_HINT) from error


def with_images(settings: "EvalSettings") -> "EvalSettings":
    """Unpack the images that the questions' file holds, once, and say where they are, unless --image-root does."""
    data = settings.data
    file = None if data is None or settings.image_root is not None else label_file(data, FILE, _HINT)
    records = [] if file is None else records_of(file)
    if file is None or not records or "image" not in records[0]:
        return settings
    folder = cache_folder() / "unpacked" / f"object-halbench-{content_hash(file)[-16:]}"
    for number, record in enumerate(records, start=1):
        where = f"'{file}', record {number},"
        target = folder / f"COCO_val2014_{_number(record, where):012d}.jpg"
        if not target.is_file():
            _unpack(text_field(record, "image", where), target, where)
    return replace(settings, image_root=folder)


def _unpack(text: str, target: Path, where: str) -> None:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise AmpError(f"{where} holds no image in base64: {error}", hint=_HINT) from error
    write_bytes(target, content)


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or the official code's lines with `image_id`, `prompt` and `text`."""

    def join(given: Sequence[GivenAnswer]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for one in given:
            if one.image is None:
                raise AmpError(f"{one.where}: no `image_id` says which image it is", hint=LAYOUTS)
            text = one.text.replace("Assistant:", "").strip()
            add_answer(answers, Answer(id=image_key(one.image), answers=(text,)), path)
        return answers

    return read_answers(path, join)


def counts(scores: Sequence[ChairScore]) -> "Array":
    """Return (answers, CHAIR's counts and whether any object is named)."""
    import numpy as np

    units = chair.image_counts(scores)
    return np.concatenate([units, units[:, 2:3] > 0], axis=1)


def rates(sums: "Array") -> dict[str, "Array"]:
    """Return the scores of (draws, counts) sums."""
    answers, with_invented, mentions, invented, present, recalled, words, naming = sums.T
    return {
        "response": ratio(with_invented, naming),
        "object": ratio(invented, mentions),
        "recall": ratio(recalled, present),
        "words": ratio(words, answers),
    }


def summarise(scores: Sequence[ChairScore], rule: str) -> dict[str, Any]:
    """Return the shares of invention, recall and length, with intervals."""
    units = counts(scores)
    bounds = score_intervals(units, rates)
    n = sum(one.is_scored for one in scores)
    return {
        **score_values(units, rates),
        "n": n,
        "naming": int(units[:, -1].sum()),
        "unscored": len(scores) - n,
        "ci95": {name: bounds.get(name) for name in SCORES},
        "interval": METHOD,
    }


def compare(pairs: Sequence[tuple[ChairScore, ChairScore]], rule: str) -> list[Difference]:
    """Compare every score over the images that both runs described."""
    return chosen_differences(paired_differences(pairs, counts, rates), SCORES)


COLUMNS = (
    column("responses that invent", "response", lower_is_better=True),
    column("objects that are invented", "object", lower_is_better=True),
    column("recall", "recall"),
    replace(column("words", "words", lower_is_better=None), is_charted=False),
)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return one line: how many answers, how many of them name an object, and every score."""
    return [one_line(scores, {"n": scores["n"], "naming an object": scores["naming"]}, COLUMNS)]


SAMPLING = Sampling(strata=lambda item: item.questions)
"""The eight prompts keep their shares."""
DATA = (
    Option(name="data", help=f"Folder with {FILE}; COCO's annotations there or where CHAIR's are."),
    Option(
        name="synonyms",
        help=f'JSON {{"car": ["car", "cars"]}} or lines of words (default: {WORDS} below --data, else built in).',
        panel="Scoring",
    ),
)
READING = (
    "“Responses that invent” is the share, among answers that name any of COCO's objects, of those that name one which "
    "is not in the image; “objects that are invented” the share among the named objects. Short answers invent less: "
    "read both beside recall and length."
)
BEAMS = Decoding(num_beams=3, max_new_tokens=1024)
"""As RLAIF-V's script decodes."""

BENCHMARK = Benchmark(
    name="object-halbench",
    title="Object HalBench: objects in 300 descriptions that are not there",
    help="""Ask Object HalBench's 300 questions and count invented objects by CHAIR's rule, without a judge.

    Its own script has a model list the objects first: that is `amp eval object-halbench-judged`.

    Example: amp eval object-halbench --model 7b --out runs/base-objhal
    """,
    options=(
        *DATA,
        rule_option("strict", "plain", help='plain counts "there is no dog" as a dog, as the script without a judge.'),
    ),
    decoding=BEAMS,
    files=(FILE,),
    settle=with_images,
    load=load,
    sampling=SAMPLING,
    adopt=adopt,
    score=chair.score,
    summarise=summarise,
    read_score=ChairScore.from_json,
    is_scored=lambda one: one.is_scored,
    is_readable=lambda one: one.is_scored and bool(one.mentions),
    unreadable="answers name none of the objects looked for, or are not in English and unscored",
    compare=compare,
    row=chair.row,
    tables=tables,
    columns=COLUMNS,
    items="descriptions",
    about=lambda scores: "objects are found by CHAIR's rule, not listed by a judge as in published numbers",
    reading=READING,
)
