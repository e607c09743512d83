"""What a benchmark says of itself: the one record that commands, runner, judge, tables and pages work from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.sampling import BY_ITEM, Sampling
from amp_cli.benchmarks.showing import Column, Given, Row, Table
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.asking.templates import Messages
    from amp_cli.benchmarks.ratings import Reading
    from amp_cli.benchmarks.settings import EvalSettings


@dataclass(frozen=True, kw_only=True)
class Option:
    """A setting that a benchmark's command offers, with its default for this benchmark.

    Attributes:
        name: a field of EvalSettings, whose type is the option's.
        choices: the texts that are taken; any where there are none.
        panel: under which heading the help page shows it.
    """

    name: str
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    panel: Literal["Data", "Scoring", "Decoding"] = "Data"


def rule_option(*rules: str, help: str) -> Option:
    """Return the option by which rule answers are read; the first rule is the default."""
    return Option(name="rule", help=help, default=rules[0], choices=rules, panel="Scoring")


OFFICIAL = rule_option(
    "strict", "official", help="official is the benchmark's own script; strict leaves out and counts."
)
ONE_WORD = Option(
    name="prompt_suffix",
    help="Put after each question that lacks it.",
    default="\nAnswer the question using a single word or phrase.",
    panel="Decoding",
)
OPEN_ENDED = Decoding(num_beams=4, max_new_tokens=512, no_repeat_ngram_size=5)
"""How answers in whole sentences are decoded, by the authors."""
ONE_WORD_ANSWERS = Decoding(num_beams=4, max_new_tokens=16)


@dataclass(frozen=True, kw_only=True)
class LoadedBenchmark:
    """The items, the files they came from (their content is the data's identity), and facts worth recording.

    `whole` is how many items there are where these are only those that `--limit` asks for.
    """

    items: tuple[BenchmarkItem, ...]
    files: tuple[Path, ...]
    whole: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ItemScore(Protocol):
    """One item's result: a line of `items.jsonl`."""

    @property
    def id(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


class Wording(Protocol):
    """What the judge is told, apart from the item."""

    @property
    def identity(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a benchmark's answers are judged: answers become prompts, and verdicts readings.

    Attributes:
        temperature: of the judge, where none is given.
        substitute: what the official script does with a verdict that it cannot read.
        wording: (folder of the data, --judge-template) -> what the judge is told, apart from the item.
        prompt: (item, answer, wording) -> messages.
        verdict_line: (item, wording) -> the form of the verdict's line; None where it must not be prescribed.
        adopt_verdicts: reads a verdict file, ours or the released code's.
        read: (items, verdicts of one repeat by id, rule) -> readings by id.
        group_of: (item, rule) -> its type or category.
    """

    temperature: float
    substitute: str
    wording: Callable[[Path, Path | None], Wording]
    prompt: Callable[[BenchmarkItem, Answer, Any], "Messages"]
    verdict_line: Callable[[BenchmarkItem, Any], str | None]
    adopt_verdicts: Callable[[Path, Sequence[BenchmarkItem]], list[Verdict]]
    read: Callable[[Sequence[BenchmarkItem], Mapping[str, Verdict], str], dict[str, "Reading"]]
    group_of: Callable[[BenchmarkItem, str], str]


Score = TypeVar("Score", bound=ItemScore)


def ask_as_it_is(item: BenchmarkItem, settings: "EvalSettings") -> tuple[str, ...]:
    """Return the item's questions, one per round."""
    return item.questions


def as_given(settings: "EvalSettings") -> "EvalSettings":
    """Return the settings as they are."""
    return settings


def all_of_it(loaded: LoadedBenchmark, answers: Mapping[str, Answer]) -> LoadedBenchmark:
    """Return what was loaded: answers are to cover all of it."""
    return loaded


def nothing_more(scores: Mapping[str, Any]) -> str:
    """Return that nothing else decides the numbers."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[Score]):
    """One benchmark: its file fills this in, and stands in `BENCHMARKS`.

    What it is:
        name: as in `amp eval NAME` and in `scores.json`.
        title: above its part of a report.
        help: its command's help page.
        options: what its command offers beyond the options of every benchmark; `data` and `rule` among them.
        decoding, template: the authors' protocol, the defaults of the command and of EvalSettings.
        files: patterns of names by which its folder is known; none where they have no names of their own.
        files_of: the benchmark whose downloaded files are its files too; "" where it has its own.
        images_of: the benchmark whose downloaded images serve where its own data brings none.
        answers_hold_truth: whether the released code's answer files hold questions and references too.
        sampling: how `--limit` chooses; None where `load` does, since its data are too large to be read whole.
        is_part: whether it asks only some of another benchmark's questions; answers to the others are left aside.

    What it does:
        settle: puts what a setting means here in its place, before it is recorded.
        load: reads the official files into items. Raises AmpError for what cannot be scored.
        ask: the questions as the model gets them, one per round.
        is_yes_no: whether an item is answered with yes or no; how probable either was is then kept beside the text.
        adopt: reads an answer file, ours or upstream's, and joins it to the items by content.
        answered: (what was loaded, answers of a file) -> what of it such a file is to answer.
        score: holds one answer against the truth; None where a judge does that, as `judge` says.
        summarise: the scores with their intervals, all but `benchmark` and `rule`.

    How it is shown:
        read_score: a line of `items.jsonl` as what it was.
        is_scored: whether a result can be compared with another run's.
        is_readable: whether an answer, or what the judge said of it, says something that can be scored, by any rule.
        unreadable: what is said of those that do not, after their number; "" where that is said elsewhere.
        compare: (pairs of both runs' scored results, rule) -> differences.
        measure: of the same pairs, the differences of what the probabilities of yes and no say; these take the longest.
        row: (the first run's result, all runs') -> a row of answers side by side.
        explain: what the differences to the first run come from, as a sentence; "" where nothing can be said.
        columns: of its table in a report. tables: of one evaluation. curves: over training steps, the first decides.
        tradeoff: two scores of which one is easily had at the cost of the other: drawn across and up.
        count: how many items the scores are of, called `items`. about: what else decides the numbers, as a sentence.
        reading: how to read the scores, below its part of the page.
    """

    name: str
    title: str
    help: str
    options: tuple[Option, ...]
    decoding: Decoding = OPEN_ENDED
    template: str = "auto"
    files: tuple[str, ...] = ()
    files_of: str = ""
    images_of: str = ""
    answers_hold_truth: bool = False
    is_part: bool = False
    sampling: Sampling | None = BY_ITEM

    settle: Callable[["EvalSettings"], "EvalSettings"] = as_given
    load: Callable[[Path, "EvalSettings"], LoadedBenchmark]
    ask: Callable[[BenchmarkItem, "EvalSettings"], tuple[str, ...]] = ask_as_it_is
    is_yes_no: Callable[[BenchmarkItem], bool] = lambda item: False
    adopt: Callable[[Path, Sequence[BenchmarkItem], Path, "EvalSettings"], dict[str, Answer]]
    answered: Callable[[LoadedBenchmark, Mapping[str, Answer]], LoadedBenchmark] = all_of_it
    score: Callable[[BenchmarkItem, Answer, str], Score] | None = None
    judge: Judged | None = None
    summarise: Callable[[Sequence[Score], str], dict[str, Any]]

    read_score: Callable[[Mapping[str, Any]], Score]
    is_scored: Callable[[Score], bool] = lambda one: True
    is_readable: Callable[[Score], bool] = lambda one: True
    unreadable: str = ""
    compare: Callable[[Sequence[tuple[Score, Score]], str], list[Difference]]
    measure: Callable[[Sequence[tuple[Score, Score]]], list[Difference]] = lambda pairs: []
    explain: Callable[[Sequence[Difference]], str] = lambda differences: ""
    row: Callable[[Score, Given[Score]], Row]
    tables: Callable[[Mapping[str, Any]], list[Table]]
    columns: tuple[Column, ...]
    curves: tuple[Column, ...] = ()
    tradeoff: tuple[Column, Column] | None = None
    items: str = "questions"
    count: Callable[[Mapping[str, Any]], int] = lambda scores: int(scores["n"])
    about: Callable[[Mapping[str, Any]], str] = nothing_more
    reading: str = ""

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules by which answers can be read; the first is the default."""
        return self.option("rule").choices

    def option(self, name: str) -> Option:
        """Return one of its options."""
        return next(one for one in self.options if one.name == name)
