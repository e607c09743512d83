"""Checks a set of preferences in one pass: items, images, texts, lengths, styles, context, benchmarks."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.one_file import refuse_foreign_file
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError
from amp_cli.models.llava.layout import says_original
from amp_cli.models.resolve import fetch_file, is_folder_name, model_config, model_place
from amp_cli.preferences.check.findings import Finding, Findings
from amp_cli.preferences.check.leakage import BenchmarkImages, CheckedImage, with_images
from amp_cli.preferences.check.style import StyleShift
from amp_cli.preferences.check.texts import LengthBias, Seen, check_texts, content_key
from amp_cli.preferences.figures import PairStyle
from amp_cli.preferences.formats.source import open_source
from amp_cli.preferences.reading import image_root, read_items, reading_progress, written_beside
from amp_cli.records import PreferenceItem

SYSTEM_TOKENS = 40
ROUND_TOKENS = 10
"""What a chat template adds, at the start and for each round: Vicuna's, rounded up."""
LLAVA_IMAGE = 576
CHARACTERS_A_TOKEN = 4.0
"""English in Llama's vocabulary; where no model is given the count is an estimate."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """A limit in tokens, and how to count: `tokens` counts those of a text, `image` those of one image."""

    limit: int
    tokens: Callable[[str], int]
    image: int
    described: str

    def length(self, item: PreferenceItem) -> int:
        """Return the tokens of the item's longest level, chat template and images included (a few too many)."""
        fixed = SYSTEM_TOKENS + ROUND_TOKENS * len(item.questions) + self.image * len(item.images)
        longest = max(sum(len(answer.encode()) for answer in level.answers) for level in item.levels)
        most = fixed + longest + sum(len(question.encode()) for question in item.questions)
        if most <= self.limit:  # no vocabulary makes more tokens than bytes
            return most
        asked = sum(self.tokens(question) for question in item.questions)
        said = max(sum(self.tokens(answer) for answer in level.answers) for level in item.levels)
        return fixed + asked + said


def open_context(model: str | None, max_length: int | None) -> Context | None:
    """Return what to count with; None where neither a model nor a limit is given.

    Raises:
        AmpError: no such model, or one without a tokenizer file or a known context.
    """
    if model is None:
        if max_length is None:
            return None
        return Context(
            limit=max_length,
            tokens=lambda text: round(len(text) / CHARACTERS_A_TOKEN),
            image=LLAVA_IMAGE,
            described=f"estimated: {CHARACTERS_A_TOKEN:g} characters a token, {LLAVA_IMAGE} tokens an image",
        )
    config, folder = model_config(model)
    positions = _positions(config)
    limits = [limit for limit in (positions, max_length) if limit is not None]
    if not limits:
        raise AmpError(f"'{model}' does not say how long its context is", hint="Give --max-length, in tokens")
    image = _image_tokens(config)
    told = f"{image} tokens an image" if image else "tokens of images not counted"
    return Context(
        limit=min(limits),
        tokens=_tokenizer(model, folder, config),
        image=image,
        described=f"tokenizer of '{model}', {told}",
    )


def _positions(config: Mapping[str, Any]) -> int | None:
    value = config.get("text_config", config).get("max_position_embeddings")
    return value if isinstance(value, int) else None


def _image_tokens(config: Mapping[str, Any]) -> int:
    """Return the tokens of one image where every image has the same number, else 0."""
    if isinstance(config.get("image_seq_length"), int):
        return int(config["image_seq_length"])
    if says_original(config) or config.get("model_type") == "llava":
        return LLAVA_IMAGE
    return 0


def _tokenizer(model: str, folder: Path, config: Mapping[str, Any]) -> Callable[[str], int]:
    place = model_place(model)
    names = ("tokenizer.json", "tokenizer.model")
    if is_folder_name(place):
        files = [folder / name for name in names if (folder / name).is_file()]
    else:
        files = [fetch_file(place, names[says_original(config)])]
    if not files:
        raise AmpError(f"'{model}' has no {' and no '.join(names)}", hint="Give --max-length without --model")
    if files[0].name == "tokenizer.json":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(files[0]))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(files[0]))
    return lambda text: len(processor.encode(text))


REPORT = "check.json"
LISTED = "findings.jsonl"


def _is_report(file: Path) -> bool:
    report = read_json(file)
    return isinstance(report, dict) and {"format", "faults", "warnings", "length", "style", "leaks"} <= {*report}


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What to check, and against what.

    Args:
        model: whose context and tokenizer to count with; its weights are not loaded.
        max_length: limit in tokens; without `model`, tokens are estimated.
        benchmarks: folders with images that must not be trained on.
        out: folder for the report and the list of all findings; None: only the first of each are named.
    """

    source: str
    image_root: Path | None = None
    model: str | None = None
    max_length: int | None = None
    benchmarks: tuple[Path, ...] = ()
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.out is not None and self.out.is_dir():
            others = [one.name for one in self.out.iterdir() if one.name not in (REPORT, LISTED)]
            if others:
                raise AmpError(f"'{self.out}' holds other files, such as '{others[0]}'", hint="Choose a new folder")
            report = self.out / REPORT
            refuse_foreign_file(report, is_ours=_is_report)
            refuse_foreign_file(self.out / LISTED, is_ours=lambda _: report.exists())


@dataclass(kw_only=True)
class Report:
    """What was found, item by item and about the data as a whole."""

    format: str
    items: int = 0
    rejected: int = 0
    levels: Counter[int] = field(default_factory=Counter)
    faults: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    lengths: LengthBias = field(default_factory=LengthBias)
    pair_style: PairStyle = field(default_factory=PairStyle)
    style: StyleShift = field(default_factory=StyleShift)
    leaks: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "items": self.items,
            "rejected": self.rejected,
            "levels": {str(count): items for count, items in sorted(self.levels.items())},
            "warnings": [finding.to_json() for finding in self.warnings],
            "faults": [finding.to_json() for finding in self.faults],
            "length": self.lengths.to_json(),
            "pair_style": self.pair_style.to_json(),
            "style": self.style.to_json(),
            "leaks": self.leaks,
            "context": self.context,
            "skipped": self.skipped,
        }


def check(settings: CheckSettings) -> Report:
    """Read the source once and look at every item.

    `items` are the usable ones; an item with a fault counts as rejected and goes into no statistic.

    Raises:
        AmpError: the source, the model or a benchmark folder cannot be read, or the source has no entry.
    """
    context = open_context(settings.model, settings.max_length)
    root = image_root(settings.source, settings.image_root)
    known_format = open_source(settings.source, image_root=settings.image_root).format.name
    entries = read_items(settings.source, image_root=settings.image_root)
    benchmark = BenchmarkImages(settings.benchmarks) if settings.benchmarks else None
    with ExitStack() as stack:
        listed: Callable[[Mapping[str, Any]], None] | None = None
        if settings.out is not None:
            listed = stack.enter_context(written_beside(settings.out / LISTED)).write
        checker = _Checker(Findings(listed), context, Report(format=known_format))
        advance = stack.enter_context(reading_progress("Checking", Path(settings.source)))
        for entry, images in with_images(entries, root, benchmark):
            checker.take(entry, images)
            advance()
        report = checker.finish()
    report.pair_style.count_chunks()
    if report.items + report.rejected == 0:
        raise AmpError(f"'{settings.source}' has no entry", hint="Give a file with one item or more")
    if context is None:
        report.skipped["truncation"] = "needs --model or --max-length"
    else:
        report.context = {"limit": context.limit, "longest": checker.longest, "counted_by": context.described}
    if benchmark is None:
        report.skipped["leakage"] = "needs --benchmark"
    elif benchmark.unreadable:
        report.skipped["leakage"] = f"{benchmark.unreadable} benchmark images cannot be read"
    if settings.out is not None:
        write_json(settings.out / REPORT, report.to_json())
    return report


class _Checker:
    """Takes the entries one by one."""

    def __init__(self, findings: Findings, context: Context | None, report: Report) -> None:
        self.findings = findings
        self.context = context
        self.longest = 0
        self.report = report
        self._ids = Seen()
        self._contents = Seen()

    def take(self, entry: PreferenceItem | LeftOut, images: tuple[CheckedImage, ...]) -> None:
        if isinstance(entry, LeftOut):
            check = "empty-answer" if "an empty answer" in entry.reason else "schema"
            self._reject(check, entry.id, entry.reason)
            return
        found = dict(check_texts(entry))
        problem = next((image.problem for image in images if image.problem), None)
        if self._ids.before(entry.id):
            self._reject("id", entry.id, f"the id '{entry.id}' occurs before")
        elif problem is not None:
            self._reject("image", entry.id, problem)
        elif "image-place" in found:
            self._reject("image-place", entry.id, found["image-place"])
        else:
            for check, reason in found.items():
                self.findings.add(check, entry.id, reason)
            self._take_sound(entry, images)

    def _reject(self, check: str, item_id: str, reason: str) -> None:
        self.findings.add(check, item_id, reason)
        self.report.rejected += 1

    def _take_sound(self, item: PreferenceItem, images: tuple[CheckedImage, ...]) -> None:
        self.report.items += 1
        self.report.levels[len(item.levels)] += 1
        self.report.lengths.take(item)
        self.report.pair_style.take(item)
        self.report.style.take(item)
        if self._contents.before(content_key(item)):
            self.findings.add("duplicate-item", item.id, f"{item.questions[0]!r:.80}")
        if self.context is not None:
            length = self.context.length(item)
            self.longest = max(self.longest, length)
            if length > self.context.limit:
                reason = f"the longest level has about {length:,} tokens, the limit is {self.context.limit:,}"
                self.findings.add("truncation", item.id, reason)
        leaks = [(image.name, image.match) for image in images if image.match is not None]
        for name, match in leaks:
            self.report.leaks.append({"id": item.id, "image": name, **match.to_json()})
        if leaks:
            name, match = leaks[0]
            same = "is the same file as" if match.how == "content" else "looks like"
            self.findings.add("leakage", item.id, f"'{name}' {same} '{match.image}'")

    def finish(self) -> Report:
        lean = self.report.pair_style.finding()
        pairs = self.report.pair_style.words.with_level_0.difference.pairs
        for finding in (
            self.report.lengths.finding(),
            None if lean is None else Finding(check="pair-length", message=lean, count=pairs),
            self.report.style.finding(),
            self.report.style.other_languages(),
        ):
            if finding is not None:
                self.findings.add_whole(finding)
        found = self.findings.all()
        self.report.faults = [finding for finding in found if finding.is_fault]
        self.report.warnings = [finding for finding in found if not finding.is_fault]
        return self.report
