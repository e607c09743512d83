"""DASH-B: 2,682 yes/no questions about objects, half of them about images chosen to mislead (arXiv 2503.23573)."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import yes_no
from amp_cli.benchmarks.answer_files import LAYOUTS
from amp_cli.benchmarks.benchmark import LoadedBenchmark, Option
from amp_cli.benchmarks.comparing import Difference, paired_differences, ratio, score_intervals
from amp_cli.benchmarks.files import add_answer, own_answers, records_of, text_field
from amp_cli.benchmarks.pope import label_file
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import Table, column, shown
from amp_cli.benchmarks.yes_no import YesNoScore, yes_no_benchmark
from amp_cli.benchmarks.yes_no_reading import read_letters
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings

SPLITS = {"neg": "no", "pos": "yes"}
"""A split's label; in `neg` the object is not there. `dash_benchmark_SPLIT.json` says {source: {object: images}}."""
COUNT = 1341
_HINT = "Give --data the folder `images` of the DASH-B repository, or run `amp download dashb` first"


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read `dash_benchmark_neg.json` and `dash_benchmark_pos.json`, wherever they lie below `data`.

    An image lies at `neg/SOURCE/OBJECT/FILE`, as the official archives unpack.
    """
    files = {split: file for split in SPLITS if (file := label_file(data, f"dash_benchmark_{split}.json", _HINT))}
    if len(files) < len(SPLITS):
        absent = " and ".join(f"dash_benchmark_{split}.json" for split in SPLITS if split not in files)
        raise AmpError(f"No {absent} below '{data}'", hint=_HINT)
    items = tuple(item for split, file in files.items() for item in _items(file, split))
    counts = Counter(str(item.reference["split"]) for item in items)
    odd = {split: counts[split] for split in SPLITS if counts[split] != COUNT}
    return LoadedBenchmark(
        items=items,
        files=tuple(files.values()),
        facts={"questions": dict(counts)},
        warnings=(f"DASH-B has {COUNT:,} questions of each split, these files have {dict(counts)}",) if odd else (),
    )


def _items(file: Path, split: str) -> list[BenchmarkItem]:
    by_source = read_json(file)
    form = f"'{file}' does not hold objects of images: " + '{"coco": {"backpack": ["1.jpg"]}}'
    if not isinstance(by_source, dict) or not all(isinstance(named, dict) for named in by_source.values()):
        raise AmpError(form, hint=_HINT)
    items = []
    for source, named in by_source.items():
        for thing, images in named.items():
            if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
                raise AmpError(form, hint=_HINT)
            items += [_item(split, source, thing, image) for image in images]
    return items


def _item(split: str, source: str, thing: str, image: str) -> BenchmarkItem:
    path = f"{split}/{source}/{thing}/{image}"
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    return BenchmarkItem(
        id=f"{split}-{re.sub(r'[^a-z0-9]+', '-', thing.lower())}-{PurePosixPath(image).stem}-{digest}",
        images=(path,),
        questions=(f"Can you see a {thing} in this image? Please answer only with yes or no.",),
        reference={"split": split, "label": SPLITS[split], "object": thing},
    )


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or the list that DASH-B's script writes: img_id, object_name, gt, response."""
    records = records_of(path)
    if all("answers" in record for record in records):
        return own_answers(records, path)
    wanted = {_key(item): item.id for item in items}
    answers: dict[str, Answer] = {}
    for number, record in enumerate(records, start=1):
        where = f"'{path}', record {number},"
        if not {"img_id", "object_name", "gt", "response"} <= record.keys():
            raise AmpError(
                f"{where} has no img_id, object_name, gt and response",
                hint="Give the NAME_answers.json of DASH-B's script, not its responses by question_id. " + LAYOUTS,
            )
        image, thing, label = (text_field(record, name, where).strip() for name in ("img_id", "object_name", "gt"))
        item_id = wanted.get((label, thing, image), f"{label}: {thing} in {image}")
        add_answer(answers, Answer(id=item_id, answers=(text_field(record, "response", where),)), path)
    return answers


def _key(item: BenchmarkItem) -> tuple[str, str, str]:
    return item.reference["label"], item.reference["object"], PurePosixPath(item.images[0]).name


def score(item: BenchmarkItem, answer: Answer, rule: str) -> YesNoScore:
    """Read one answer; under `official`, one without the letters of yes or no is wrong, as in DASH-B's script."""
    found = yes_no.score(item, answer, rule, official=read_letters)
    return replace(found, reading=not found.label) if rule == "official" and found.reading is None else found


def summarise(scores: Sequence[YesNoScore], rule: str) -> dict[str, Any]:
    """Return the scores of yes/no questions and, over all, the harmonic mean of both splits' accuracies."""
    summary = yes_no.summarise(scores, rule)
    units = yes_no.image_counts(scores, tuple(SPLITS))
    overall = summary["overall"]
    value = float(harmonic(units.sum(axis=0, keepdims=True))["overall/harmonic_mean"][0])
    overall["harmonic_mean"] = None if value != value else value
    overall["ci95"]["harmonic_mean"] = score_intervals(units, harmonic).get("overall/harmonic_mean")
    return summary


def harmonic(sums: "Array") -> dict[str, "Array"]:
    """Return the harmonic mean of the shares of right answers where the object is there and where it is not.

    Args:
        sums: (draws, splits * 4) counts of tp, fp, tn, fn.
    """
    tp, fp, tn, fn = sums.reshape(len(sums), -1, 4).sum(axis=1).T
    there, absent = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {"overall/harmonic_mean": ratio(2 * (there * absent), there + absent)}


def compare(pairs: Sequence[tuple[YesNoScore, YesNoScore]], rule: str) -> list[Difference]:
    """Compare what yes/no questions are compared by, and the harmonic mean."""
    paired = paired_differences(pairs, lambda scores: yes_no.image_counts(scores, tuple(SPLITS)), harmonic)
    return [*yes_no.compare(pairs, rule), *paired.values()]


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return the table of yes/no questions with a line for the harmonic mean."""
    ((title, columns, rows),) = yes_no.tables(scores)
    overall = scores["overall"]
    mean = shown(overall["harmonic_mean"], overall["ci95"]["harmonic_mean"])
    return [(title, columns, [*rows, ["harmonic mean of neg and pos", *("" for _ in columns[2:]), mean]])]


_COLUMNS = yes_no.columns(tuple(SPLITS))

BENCHMARK = yes_no_benchmark(
    name="dashb",
    title="DASH-B: objects that models see where they are not",
    help="""Ask DASH-B's 2,682 yes/no questions; half of the images lack the object and mislead many models.

    Scored are accuracy, that of images without the object (neg) and with it (pos), and the harmonic mean of both.

    Example: amp eval dashb --model 7b --out runs/base-dashb
    """,
    options=(Option(name="data", help="Folder with dash_benchmark_neg.json and dash_benchmark_pos.json."),),
    splits=tuple(SPLITS),
    suffix="",
    decoding=Decoding(max_new_tokens=15),
    files=("dash_benchmark_*.json",),
    load=load,
    adopt=adopt,
    sampling=Sampling(strata=lambda item: (item.reference["label"], item.reference["object"])),
    score=score,
    curves=(column("DASH-B harmonic mean", "overall/harmonic_mean"),),
    summarise=summarise,
    compare=compare,
    tables=tables,
    columns=(
        _COLUMNS[0],
        column("harmonic mean of neg and pos", "overall/harmonic_mean"),
        *(one for one in _COLUMNS[1:] if one.name != "mean_f1"),
    ),
)
