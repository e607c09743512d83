"""What an evaluation is asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from amp_cli.asking.answerer import Running
from amp_cli.asking.judge import JudgeSettings
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.disk.settings import free, restore, unrecorded
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, ModelSpec

Only = Literal["answer", "judge", "score"]
"""The one step to take: answer and stop, judge the answers in `out`, or score what is in `out`."""


OWN = "(the benchmark's own)"
"""Stands for the default of a benchmark's option until the benchmark is known."""
AUTHORS = Decoding()
"""Stands, as this very object, for the decoding of the benchmark's authors."""
UNUSED = {
    "part": "all",
    "sample": "hash",
    "prompt": "Describe this image in detail.",
    "prompt_suffix": "\nAnswer the question using a single word or phrase.",
}
"""What `run.json` says of options that a benchmark does not have: as ever, since a run that goes on compares them."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """One evaluation: what is asked of which model, by which rule its answers are read, and who judges them.

    What is not given is as the benchmark declares it, for its command too: its options' defaults and its authors'
    decoding; a template `auto` becomes theirs. What may differ when a run goes on changes scoring or speed only; of the
    data, the hash is compared.
    """

    benchmark: str
    out: Path = unrecorded()
    data: Path | None = free(None)
    spec: ModelSpec | None = None
    image_root: Path | None = free(None)
    answers: Path | None = None
    questions: Path | None = free(None)
    synonyms: Path | None = free(None)
    limit: int | None = free(None)
    limit_seed: int = 0
    part: str = OWN
    sample: str = OWN
    rule: str = free(OWN)
    prompt: str = OWN
    prompt_suffix: str = OWN
    decoding: Decoding = AUTHORS
    running: Running = Running()
    overwrite: bool = unrecorded(default=False)
    only: Only | None = unrecorded(None)
    judging: JudgeSettings = JudgeSettings()

    def __post_init__(self) -> None:
        benchmark = find_benchmark(self.benchmark)
        self._take_defaults(benchmark)
        rules = benchmark.rules
        if self.rule not in rules:
            raise AmpError(
                f"'{self.rule}' is not a rule of {self.benchmark}", hint=f"Give --rule {' or --rule '.join(rules)}"
            )
        if self.only in ("judge", "score") and self.answers:
            raise AmpError(
                f"--only {self.only} reads the answers in --out, so --answers does not go with it",
                hint="Leave out --answers, or leave out --only",
            )
        if self.only in ("judge", "score") and self.overwrite:
            raise AmpError(
                f"--only {self.only} goes on with what is in --out, so --overwrite does not go with it",
                hint=f"Leave out --overwrite; to judge anew, --answers {self.out / 'answers.jsonl'} and a new --out",
            )
        judging = self.judging
        if self.only in ("answer", "score") and (judging.judge or judging.judge_url or judging.verdicts):
            raise AmpError(
                f"--only {self.only} asks no judge: --judge, --judge-url, --verdicts do not go with it",
                hint="Leave them out, or leave out --only",
            )

    def _take_defaults(self, benchmark: Benchmark[Any]) -> None:
        own = UNUSED | {option.name: option.default for option in benchmark.options}
        given = {
            "part": self.part,
            "sample": self.sample,
            "rule": self.rule,
            "prompt": self.prompt,
            "prompt_suffix": self.prompt_suffix,
        }
        taken: dict[str, Any] = {name: own[name] for name, value in given.items() if value == OWN}
        if self.decoding is AUTHORS:
            taken["decoding"] = benchmark.decoding
        if self.spec is not None and self.spec.template == "auto":
            taken["spec"] = replace(self.spec, template=benchmark.template)
        for name, value in taken.items():
            object.__setattr__(self, name, value)


def settings_of(benchmark: str, options: Mapping[str, Any]) -> EvalSettings:
    """Return the settings of a benchmark from options by name: fields of EvalSettings and of the records in it."""
    return restore(EvalSettings, {**asdict(find_benchmark(benchmark).decoding), **options, "benchmark": benchmark})


def find_benchmark(name: str) -> Benchmark[Any]:
    """Return the benchmark of that name.

    Raises:
        AmpError: there is none.
    """
    if name not in BENCHMARKS:
        raise AmpError(f"There is no benchmark '{name}'", hint=f"Known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
