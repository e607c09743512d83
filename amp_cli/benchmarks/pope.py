"""POPE: is an object in the image, yes or no? Three splits, by how the absent objects were chosen."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from amp_cli.benchmarks.answer_files import question_key
from amp_cli.benchmarks.benchmark import LoadedBenchmark, Option
from amp_cli.benchmarks.files import records_of
from amp_cli.benchmarks.pope_answers import SPLITS, adopt, answered
from amp_cli.benchmarks.sampling import Sampling, about_images
from amp_cli.benchmarks.showing import column
from amp_cli.benchmarks.yes_no import yes_no_benchmark
from amp_cli.disk.jsonl import content_hash
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings

VERSIONS = {
    2910: "2,910 random questions (8,910 in all; the one LLaVA links)",
    3000: "3,000 random questions (9,000 in all)",
}
QUESTIONS = Option(
    name="questions", help="JSONL with question_id, image, text, and category or one split (default: found)."
)
SAMPLING = Sampling(whole=about_images, unit="images")
"""All questions about an image, in every split, are asked or none, so that half of the answers stay yes."""


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read the label files `coco_pope_{random,popular,adversarial}.json`, wherever they lie below `data`.

    Where COCO's are not there, those of GQA or A-OKVQA are read.
    """
    stem = _stem(data)
    what = "POPE's label files (output/coco of its repository)"
    loaded = load_splits(data, settings, stem, what, is_official=settings.rule == "official")
    if stem != COCO:
        return replace(loaded, facts={"data_version": f"POPE's questions of {stem}", **loaded.facts})
    questions = loaded.facts["questions"]
    version = VERSIONS.get(questions["random"], "another size") if "random" in questions else "without the random split"
    return replace(loaded, facts={"data_version": version, **loaded.facts})


COCO = "coco_pope"
_LABELS = re.compile(rf"(.+_pope(?:_\w+)?)_(?:{'|'.join(SPLITS)})\.json")


def _stem(data: Path) -> str:
    """Return how the names of the label files below `data` begin: `coco_pope`, else the one other there is."""
    files = data.rglob("*_pope_*.json") if data.is_dir() else ()
    stems = sorted({match[1] for file in files if (match := _LABELS.fullmatch(file.name))})
    if len(stems) > 1 and COCO not in stems:
        raise AmpError(
            f"Label files of several sets below '{data}': {', '.join(stems)}",
            hint="Point --data at one of their folders",
        )
    return stems[0] if stems and COCO not in stems else COCO


def load_splits(
    data: Path, settings: "EvalSettings", stem: str, what: str, *, is_official: bool = False
) -> LoadedBenchmark:
    """Read the label files `STEM_{random,popular,adversarial}.json`; those that are absent are named in a warning.

    Args:
        what: what they are, and where they come from, for the hint.
        is_official: whether a label is no only if it is exactly `no`, and everything else yes, as in POPE's script.
    """
    hint = f"Give --data the folder with {what}"
    files = {split: file for split in SPLITS if (file := label_file(data, f"{stem}_{split}.json", hint))}
    if not files:
        names = [f"{stem}_{split}.json" for split in SPLITS]
        raise AmpError(f"No {', '.join(names[:-1])} or {names[-1]} below '{data}'", hint=hint)
    odd: list[str] = []
    items = [
        item for split, file in files.items() for item in labelled_items(file, split, odd=odd if is_official else None)
    ]
    absent = [split for split in SPLITS if split not in files]
    return LoadedBenchmark(
        items=tuple(items),
        files=tuple(files.values()),
        facts={"questions": dict(Counter(str(item.reference["split"]) for item in items))},
        warnings=tuple(_warnings(absent, odd)),
    )


def _warnings(absent: Sequence[str], odd: Sequence[str]) -> Iterator[str]:
    if absent:
        yield f"No label file of the split(s) {', '.join(absent)}: `overall` is over the others"
    if odd:
        yield f"{len(odd):,} labels are neither yes nor no and count as yes, as in POPE's script. First: {odd[0]}"


def label_file(data: Path, name: str, hint: str) -> Path | None:
    """Return the one file of that name at or below `data`; None where there is none.

    Raises:
        AmpError: there is no such folder, or there are several such files with different content.
    """
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint=hint)
    found = sorted(data.rglob(name))
    if len({content_hash(file) for file in found}) > 1:
        listed = ", ".join(f"'{file}'" for file in found)
        raise AmpError(
            f"{len(found)} different {name} below '{data}': {listed}", hint="Point --data at one of their folders"
        )
    return found[0] if found else None


def labelled_items(file: Path, split: str, *, odd: list[str] | None = None) -> list[BenchmarkItem]:
    """Return a split's items. Their ids come from their content, so that they outlive another order of the file.

    Args:
        odd: takes a note of each label that is neither `yes` nor `no`, which then counts as yes; without it, such a
            label is refused, apart from case and white space.
    """
    items: list[BenchmarkItem] = []
    labels: dict[tuple[str, str], str] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for number, record in enumerate(records_of(file), start=1):
        where = f"'{file}', record {number}"
        lacking = [name for name in ("image", "text") if not isinstance(record.get(name), str)]
        if lacking or "label" not in record:
            raise AmpError(f"{where}: no text in {', '.join(lacking) or 'label'}", hint=_FORM)
        label = _label(record["label"], where, odd)
        content = (record["image"], question_key(record["text"]))
        if labels.setdefault(content, label) != label:
            raise AmpError(
                f"'{file}' labels {record['text']!r} for '{record['image']}' both yes and no",
                hint="Keep the right one of the two lines",
            )
        seen[content] += 1
        items.append(
            BenchmarkItem(
                id=_item_id(split, *content, seen[content]),
                images=(record["image"],),
                questions=(record["text"],),
                reference={"split": split, "label": label, "number": str(record.get("question_id", number))},
            )
        )
    return items


_FORM = 'A label file has lines {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}'


def _label(said: object, where: str, odd: list[str] | None) -> str:
    if odd is not None:
        if said not in ("yes", "no"):
            odd.append(f"{where}: {said!r:.60}")
        return "no" if said == "no" else "yes"
    label = said.strip().lower() if isinstance(said, str) else ""
    if label not in ("yes", "no"):
        raise AmpError(f"{where}: the label is {said!r:.60}, not yes or no", hint=_FORM)
    return label


def _item_id(split: str, image: str, key: str, occurrence: int) -> str:
    digest = hashlib.sha256(f"{image}\n{key}".encode()).hexdigest()[:8]
    item_id = f"{split}-{PurePosixPath(image).stem}-{digest}"
    return item_id if occurrence == 1 else f"{item_id}-{occurrence}"


BENCHMARK = yes_no_benchmark(
    name="pope",
    title="POPE: is the object there? (accuracy)",
    help="""Ask POPE's yes/no questions about objects and score accuracy, F1 and yes ratio of each split.

    Example: amp eval pope --model 7b --data POPE/output/coco --image-root val2014 --out runs/base-pope
    """,
    options=(
        Option(name="data", help="Folder with coco_pope_{random,popular,adversarial}.json."),
        QUESTIONS,
    ),
    splits=SPLITS,
    files=("coco_pope_*.json", "*_pope_*.json"),
    load=load,
    adopt=adopt,
    answered=answered,
    sampling=SAMPLING,
    curves=(column("POPE accuracy", "overall/accuracy"),),
)
