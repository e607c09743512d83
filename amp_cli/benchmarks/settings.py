"""What an evaluation is asked to do, and the shape that every benchmark has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from amp_cli.errors import AmpError
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
    """One evaluation: what is asked of which model, and by which rule its answers are read.

    `num_beams` and the five after it are the decoding; temperature 0 is deterministic. `judge` and what follows it
    is for benchmarks that are judged; `judge_temperature` None is the benchmark's own, `judge_timeout` in seconds.
    """

    benchmark: str
    out: Path
    data: Path | None = None
    model: str | None = None
    adapter: str | None = None
    vision_tower: str | None = None
    image_root: Path | None = None
    answers: Path | None = None
    questions: Path | None = None
    synonyms: Path | None = None
    limit: int | None = None
    part: str = "all"
    sample: str = "hash"
    rule: str = "strict"
    prompt: str = "Describe this image in detail."
    prompt_suffix: str = "\nAnswer the question using a single word or phrase."
    num_beams: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int = 16
    batch_size: int = 8
    concurrency: int = 8
    num_processes: int | None = None
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None
    template: str = "auto"
    trust_remote_code: bool = False
    overwrite: bool = False
    only: Only | None = None
    judge: str | None = None
    judge_url: str | None = None
    judge_template: Path | None = None
    judge_temperature: float | None = None
    judge_concurrency: int = 8
    judge_timeout: float = 120.0
    max_cost: float | None = None
    price: str | None = None
    repeat: int = 1
    verdicts: Path | None = None

    def __post_init__(self) -> None:
        rules = RULES.get(self.benchmark)
        if rules is None:
            raise AmpError(f"There is no benchmark '{self.benchmark}'", hint=f"Known: {', '.join(RULES)}")
        if self.rule not in rules:
            raise AmpError(
                f"'{self.rule}' is no rule of {self.benchmark}", hint=f"Give --rule {' or --rule '.join(rules)}"
            )
        if self.only in ("judge", "score") and self.answers:
            raise AmpError(f"--only {self.only} reads the answers in --out, so --answers does not go with it")
        if self.only in ("answer", "score") and (self.judge or self.judge_url or self.verdicts):
            raise AmpError(f"--only {self.only} asks no judge: --judge, --judge-url, --verdicts do not go with it")
        if (self.judge or self.judge_url) and self.verdicts:
            raise AmpError("--judge and --judge-url do not go with --verdicts", hint="--verdicts replaces the judge")
        if self.repeat < 1:
            raise AmpError(f"--repeat must be at least 1, not {self.repeat}")


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
