"""What an evaluation is asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.errors import AmpError

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
        if self.benchmark not in BENCHMARKS:
            raise AmpError(f"There is no benchmark '{self.benchmark}'", hint=f"Known: {', '.join(BENCHMARKS)}")
        rules = BENCHMARKS[self.benchmark].rules
        if self.rule not in rules:
            raise AmpError(
                f"{self.benchmark} has no rule '{self.rule}'", hint=f"Give --rule {' or --rule '.join(rules)}"
            )
        if self.only in ("judge", "score") and self.answers:
            raise AmpError(f"--only {self.only} reads the answers in --out, so --answers does not go with it")
        if self.only in ("answer", "score") and (self.judge or self.judge_url or self.verdicts):
            raise AmpError(f"--only {self.only} asks no judge: --judge, --judge-url, --verdicts do not go with it")
        if (self.judge or self.judge_url) and self.verdicts:
            raise AmpError("--judge and --judge-url do not go with --verdicts", hint="--verdicts replaces the judge")
        if self.repeat < 1:
            raise AmpError(f"--repeat must be at least 1, not {self.repeat}")
