"""What an evaluation is asked to do, and the shape that every benchmark has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from amp_cli.asking.answerer import Running
from amp_cli.asking.judge import JudgeSettings
from amp_cli.disk.settings import free, unrecorded
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer, BenchmarkItem

RULES = {
    "pope": ("strict", "official"),
    "chair": ("strict", "plain"),
    "amber": ("strict", "official"),
    "mmhal": ("strict", "official"),
    "mrhal": ("strict", "official"),
    "llava-bench": ("strict", "official"),
    "llava-bench-wild": ("strict", "official"),
}
Only = Literal["answer", "judge", "score"]
"""The one step to take: answer and stop, judge the answers in `out`, or score what is in `out`."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """One evaluation: what is asked of which model, by which rule its answers are read, and who judges them.

    What may differ when a run goes on changes scoring or speed only; of the data, the hash is compared.
    """

    benchmark: str
    out: Path = unrecorded()
    data: Path | None = free(None)
    spec: ModelSpec | None = None
    image_root: Path | None = free(None)
    answers: Path | None = None
    questions: Path | None = free(None)
    synonyms: Path | None = free(None)
    limit: int | None = None
    part: str = "all"
    sample: str = "hash"
    rule: str = free("strict")
    prompt: str = "Describe this image in detail."
    prompt_suffix: str = "\nAnswer the question using a single word or phrase."
    decoding: Decoding = Decoding(num_beams=4, max_new_tokens=16)
    running: Running = Running()
    overwrite: bool = unrecorded(default=False)
    only: Only | None = unrecorded(None)
    judging: JudgeSettings = JudgeSettings()

    def __post_init__(self) -> None:
        rules = RULES.get(self.benchmark)
        if rules is None:
            raise AmpError(f"There is no benchmark '{self.benchmark}'", hint=f"Known: {', '.join(RULES)}")
        if self.rule not in rules:
            raise AmpError(
                f"'{self.rule}' is not a rule of {self.benchmark}", hint=f"Give --rule {' or --rule '.join(rules)}"
            )
        if self.only in ("judge", "score") and self.answers:
            raise AmpError(f"--only {self.only} reads the answers in --out, so --answers does not go with it")
        judging = self.judging
        if self.only in ("answer", "score") and (judging.judge or judging.judge_url or judging.verdicts):
            raise AmpError(f"--only {self.only} asks no judge: --judge, --judge-url, --verdicts do not go with it")


@dataclass(frozen=True, kw_only=True)
class LoadedBenchmark:
    """The items, the files they came from (their content is the data's identity), and facts worth recording."""

    items: tuple[BenchmarkItem, ...]
    files: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ItemScore(Protocol):
    """One item's result: a line of `items.jsonl`."""

    @property
    def id(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


Score = TypeVar("Score", bound=ItemScore)


class Benchmark(Protocol[Score]):
    """load -> ask -> score -> summarise, and `adopt` for answers at hand. Each benchmark is a module of this shape."""

    def load(self, data: Path, settings: EvalSettings) -> LoadedBenchmark:
        """Read the official files into items. Raises AmpError for what cannot be scored."""
        ...

    def ask(self, item: BenchmarkItem, settings: EvalSettings) -> tuple[str, ...]:
        """Return the questions as the model gets them, one per round."""
        ...

    def adopt(
        self, path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings
    ) -> dict[str, Answer]:
        """Read an answer file (ours or upstream's) and join it to the items by content."""
        ...

    def score(self, item: BenchmarkItem, answer: Answer, rule: str) -> Score:
        """Hold one answer against the truth."""
        ...

    def summarise(self, scores: Sequence[Score], rule: str) -> dict[str, Any]:
        """Return the benchmark's scores with their intervals."""
        ...
