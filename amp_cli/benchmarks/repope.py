"""RePOPE: POPE's questions with corrected labels; the ambiguous ones are left out (arXiv 2504.15707)."""

from pathlib import Path
from typing import TYPE_CHECKING

from amp_cli.benchmarks.benchmark import LoadedBenchmark, Option
from amp_cli.benchmarks.pope import QUESTIONS, SAMPLING, load_splits
from amp_cli.benchmarks.pope_answers import SPLITS, adopt, answered
from amp_cli.benchmarks.yes_no import yes_no_benchmark
from amp_cli.benchmarks.yes_no_reading import read_letters

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read the label files `coco_repope_{random,popular,adversarial}.json`, wherever they lie below `data`.

    An item has the id that the same question has in POPE, so that answers made for POPE fit.
    """
    return load_splits(data, settings, "coco_repope", "RePOPE's label files, or run `amp download repope` first")


BENCHMARK = yes_no_benchmark(
    name="repope",
    title="RePOPE: POPE with corrected labels (accuracy)",
    help="""Ask POPE's yes/no questions and score them by RePOPE's corrected labels; ambiguous questions are left out.

    Answers made for POPE are scored again with --answers POPE_RUN/answers.jsonl; those to questions that RePOPE dropped
    are left aside and counted.

    Example: amp eval repope --answers runs/base-pope/answers.jsonl --out runs/base-repope
    """,
    options=(
        Option(name="data", help="Folder with coco_repope_{random,popular,adversarial}.json."),
        QUESTIONS,
    ),
    splits=SPLITS,
    files=("coco_repope_*.json",),
    images_of="pope",
    is_part=True,
    sampling=SAMPLING,
    load=load,
    adopt=adopt,
    answered=answered,
    official=read_letters,
)
