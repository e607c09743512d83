"""Runs a benchmark: load, ask, judge where it is judged, score, summarise. A stopped run goes on where it was."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.asking.answerer import Answerer, check_answerer
from amp_cli.asking.endpoint import is_endpoint
from amp_cli.asking.judge import Judge
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.answer_files import ANSWERS, given_on_disk
from amp_cli.benchmarks.answering import REJECTED, answer_items
from amp_cli.benchmarks.benchmark import Benchmark, ItemScore, LoadedBenchmark
from amp_cli.benchmarks.files import check_complete, downloaded_images, records_of
from amp_cli.benchmarks.judging import Judging, collect_verdicts, prepare_judging, refuse_other_judge, score_verdicts
from amp_cli.benchmarks.sampling import sample_text, take
from amp_cli.benchmarks.settings import EvalSettings, settings_of
from amp_cli.disk.jsonl import RecordLog, content_hash, write_json, write_records
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run
from amp_cli.disk.settings import flatten
from amp_cli.downloads.places import benchmark_folder
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

ITEMS, SCORES = "items.jsonl", "scores.json"


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The scores (as in `scores.json`), the items that could not be done, and what it took.

    After `--only answer` the scores are only where the answers are and how many. `unread` is the number of answers
    where not one of them could be read; 0 where any could.
    """

    scores: dict[str, Any]
    rejected: dict[str, str]
    out: Path
    seconds: float
    unread: int = 0

    @property
    def undone(self) -> int:
        """How many items have no score that means anything; the command then ends with status 3."""
        return len(self.rejected) + self.unread


def run_benchmark(
    settings: EvalSettings, *, answerer: Answerer | None = None, judge: Judge | None = None
) -> EvalResult:
    """Answer what is unanswered, have judged what is not judged, then score everything.

    Args:
        answerer: stands in for the model of the settings, which is loaded only if something is left to ask.
        judge: stands in for the judge of the settings.
    """
    begin = time.monotonic()
    if settings.only in ("judge", "score"):
        settings = _as_recorded(settings)
    settings, benchmark, loaded = loaded_benchmark(settings)
    data = settings.data
    assert data is not None  # loaded_benchmark has found it
    for warning in loaded.warnings:
        ui.warn(warning)
    given = _given_answers(benchmark, loaded.items, settings, data)
    if given is not None:
        warned = loaded.warnings
        loaded = benchmark.answered(loaded, given)
        for warning in loaded.warnings if loaded.warnings is not warned else ():
            ui.warn(warning)
    whole, loaded = loaded, sampled(benchmark, loaded, settings)
    adopted = None if settings.answers is None or given is None else _adopted(benchmark, loaded, settings, given)
    judging = None
    if benchmark.judge is not None and settings.only not in ("answer", "score"):
        judging = prepare_judging(benchmark.judge, whole.items, data, settings, judge)
        if not settings.overwrite:
            refuse_other_judge(settings.out, judging)
    run = _opened(settings, loaded, answerer)
    with run:
        if judging is not None:
            run.record(judging=judging.facts)
        if adopted is not None:
            write_records(settings.out / ANSWERS, (answer.to_json() for answer in adopted.answers.values()))
            if benchmark.is_part:
                run.record(left_aside=adopted.left_aside)
        elif settings.only not in ("judge", "score") and (answerer is not None or settings.spec is not None):
            answer_items(loaded.items, benchmark, settings, data, run, answerer)
        answers = _answers(loaded.items, settings.out)
        unread = 0
        if settings.only == "answer":
            scores, rejected = _answered(loaded.items, answers, settings)
        else:
            scores, rejected, unread = _scored(benchmark, loaded, answers, settings, judging, run)
        seconds = time.monotonic() - begin
        run.finish(data=loaded.facts, rule=settings.rule, scores=scores, seconds=round(seconds, 1))
    return EvalResult(scores=scores, rejected=rejected, out=settings.out, seconds=seconds, unread=unread)


def _found_data(settings: EvalSettings) -> Path:
    """Return where `amp download` puts a benchmark's files, or an answer file that holds the truth as well."""
    name = settings.benchmark
    stored = BENCHMARKS[name].files_of or name
    folder = benchmark_folder(stored)
    if folder.is_dir():
        return folder
    if settings.answers is not None and BENCHMARKS[name].answers_hold_truth and not _are_ours(settings.answers):
        return settings.answers
    raise AmpError(f"The data of {name} was not found", hint=f"Give --data DIR, or run `amp download {stored}` first")


def _are_ours(answers: Path) -> bool:
    """Tell answers in our own form, which say nothing of questions and truth, from the released code's."""
    return all("answers" in record for record in records_of(answers))


def _as_recorded(settings: EvalSettings) -> EvalSettings:
    """Return the settings that `--out` was made with; rule, data, words and judge may be given anew."""
    recorded = Run.read(settings.out).settings
    if recorded.get("benchmark") != settings.benchmark:
        raise AmpError(
            f"'{settings.out}' holds no answers to {settings.benchmark}", hint="Give the --out of an evaluation"
        )
    old = settings_of(settings.benchmark, {**recorded, "out": settings.out})
    judging = (
        settings.judging
        if settings.only == "judge"
        else replace(old.judging, judge=None, judge_url=None, verdicts=None)
    )
    return replace(
        old,
        only=settings.only,
        rule=settings.rule,
        answers=None,
        data=settings.data or old.data,
        synonyms=settings.synonyms or old.synonyms,
        judging=judging,
    )


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The answers of a file by item id, and how many of its answers are to questions that are not asked here."""

    answers: dict[str, Answer]
    left_aside: int


def _given_answers(
    benchmark: Benchmark[Any], items: Sequence[BenchmarkItem], settings: EvalSettings, data: Path
) -> dict[str, Answer] | None:
    """Return the answers that a file gave, now or when `out` was made; None where a model was asked.

    `--answers` is read before the run folder is touched: it may be wrong.
    """
    path = settings.answers
    if path is None:
        return given_on_disk(settings)
    if path.resolve().is_relative_to(settings.out.resolve()):
        raise AmpError(f"'{path}' lies in --out '{settings.out}'", hint="Use --only score to score it again")
    return benchmark.adopt(path, items, data, settings)


def _adopted(
    benchmark: Benchmark[Any], loaded: LoadedBenchmark, settings: EvalSettings, answers: Mapping[str, Answer]
) -> Adopted:
    """Return the answers to the items, all of which must have one; with --limit, others are left aside."""
    path, items = settings.answers, loaded.items
    assert path is not None  # they were read from it
    if loaded.whole is not None and not benchmark.is_part:
        kept = {item.id: answers[item.id] for item in items if item.id in answers}
        check_complete(items, kept, path)
        return Adopted(answers=kept, left_aside=len(answers) - len(kept))
    if not benchmark.is_part:
        check_complete(items, answers, path)
        return Adopted(answers=dict(answers), left_aside=0)
    kept = {item.id: answers[item.id] for item in items if item.id in answers}
    # the whole may have been asked in an older, smaller version: what lacks an answer is left out, unless all does
    check_complete([item for item in items if item.id in kept] or items, kept, path)
    left_aside = len(answers) - len(kept)
    if left_aside:
        ui.note(f"Left aside: {left_aside:,} answers to questions that {benchmark.name} does not ask")
    return Adopted(answers=kept, left_aside=left_aside)


def _opened(settings: EvalSettings, loaded: LoadedBenchmark, answerer: Answerer | None) -> Run:
    """Start the run, or open the one that is there to be judged or scored."""
    if settings.only in ("judge", "score"):
        run = Run.go_on(settings.out)
        if settings.only == "judge":
            run.record(settings=flatten(settings) | {"answers": run.settings.get("answers")})
        return run
    _refuse_fewer(settings)
    identity: dict[str, Any] = {"data_files": {file.name: content_hash(file) for file in loaded.files}}
    if settings.answers is not None:
        identity["answer_file"] = content_hash(settings.answers)
    elif answerer is None and settings.spec is not None:
        identity |= check_answerer(settings.spec, settings.running)
    elif answerer is None and settings.judging.verdicts is None:
        raise AmpError("Nothing to evaluate", hint="Give --model M, or --answers FILE with answers that exist already")
    return Run.start(
        settings.out,
        command=f"eval {settings.benchmark}",
        settings=settings,
        identity=identity,
        seed=settings.running.seed,
        overwrite=settings.overwrite,
        inputs=_inputs(settings, loaded),
    )


def _inputs(settings: EvalSettings, loaded: LoadedBenchmark) -> list[Path | None]:
    """Return all files and folders that an evaluation reads."""
    judging, spec = settings.judging, settings.spec
    kind, colon, judge = (judging.judge or "").partition(":")
    names = [judge] if colon and kind in ("local", "replay") else []
    given = [settings.data, settings.image_root, settings.answers, settings.questions, settings.synonyms]
    given += [judging.verdicts, judging.judge_template]
    if spec is not None and not is_endpoint(spec.model):
        names += [name for name in (spec.model, spec.adapter, spec.vision_tower) if name]
        given += [Path(spec.template)] if Path(spec.template).is_file() else []
    if not names:
        return [*given, *loaded.files]
    from amp_cli.models.resolve import places_of

    return [*given, *loaded.files, *places_of(*names)]


def inputs_of(settings: EvalSettings) -> list[Path | None]:
    """Return all that an evaluation will read: whoever replaces older results asks for it before they are gone.

    Raises:
        AmpError: it cannot be done: no data, or data that cannot be read.
    """
    settings, _, loaded = loaded_benchmark(settings)
    return _inputs(settings, loaded)


def count_items(settings: EvalSettings) -> int:
    """Return how many items an evaluation asks.

    Raises:
        AmpError: no data, or data that cannot be read.
    """
    return len(loaded_benchmark(settings)[2].items)


def loaded_benchmark(settings: EvalSettings) -> tuple[EvalSettings, Benchmark[Any], LoadedBenchmark]:
    """Return the settings with data and images found, the benchmark, and its data.

    Raises:
        AmpError: no data, data that cannot be read, or no file of answers where one is named.
    """
    if settings.answers is not None and not settings.answers.is_file():  # before it stands in for the data
        raise AmpError(f"There is no file '{settings.answers}'", hint="--answers takes a JSONL or JSON file of answers")
    data = settings.data or _found_data(settings)
    benchmark = BENCHMARKS[settings.benchmark]
    images = settings.image_root or downloaded_images(benchmark.images_of, data)
    settings = benchmark.settle(replace(settings, data=data, image_root=images))
    return settings, benchmark, benchmark.load(data, settings)


def sampled(benchmark: Benchmark[Any], loaded: LoadedBenchmark, settings: EvalSettings) -> LoadedBenchmark:
    """Return what `--limit` asks for, and of how many items that is; all of it where the limit leaves nothing out."""
    items = loaded.items
    if settings.limit is not None and benchmark.sampling is not None:
        items = take(items, benchmark.sampling, settings.limit, settings.limit_seed)
        loaded = replace(loaded, items=items, whole=len(loaded.items))
    if loaded.whole is None or loaded.whole <= len(items):
        return replace(loaded, whole=None)
    asked = {"asked": len(items), "of": loaded.whole, "seed": settings.limit_seed}
    return replace(loaded, facts=loaded.facts | {"limit": asked})


def _refuse_fewer(settings: EvalSettings) -> None:
    """Refuse to go on with a lower limit than before: the answers beyond it would be neither scored nor asked for."""
    if settings.overwrite or not (settings.out / NAME).is_file():
        return
    recorded = Run.read(settings.out).settings
    old, new = recorded.get("limit"), settings.limit
    if recorded.get("benchmark") == settings.benchmark and new is not None and (old is None or new < old):
        asked = "everything" if old is None else f"--limit {old}"
        raise AmpError(
            f"'{settings.out}' was made with {asked}, and --limit {new} asks for less",
            hint=f"Give a higher --limit or none, or --answers {settings.out / ANSWERS} and a new --out",
        )


def _answers(items: Sequence[BenchmarkItem], out: Path) -> dict[str, Answer]:
    """Return the answers on disk; answers to unknown questions are refused."""
    answers = {record["id"]: Answer.from_json(record) for record in RecordLog(out / ANSWERS).read()}
    _refuse_strangers(items, answers, out)
    return answers


def _answered(
    items: Sequence[BenchmarkItem], answers: Mapping[str, Answer], settings: EvalSettings
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return where the answers are and how many, and the items without one."""
    path = settings.out / ANSWERS
    rejected = _without_answer(items, answers, settings.out)
    return {
        "benchmark": settings.benchmark,
        "answers": str(path),
        "n": len(answers),
        "rejected": len(rejected),
    }, rejected


def _scored(
    benchmark: Benchmark[Any],
    loaded: LoadedBenchmark,
    answers: Mapping[str, Answer],
    settings: EvalSettings,
    judging: Judging | None,
    run: Run,
) -> tuple[dict[str, Any], dict[str, str], int]:
    """Write `items.jsonl` and `scores.json`; an item without an answer or verdict is rejected, not wrong.

    Returns:
        the scores, item id -> reason for items that were left out, and how many were all that could not be read.
    """
    items = loaded.items
    scores: Sequence[ItemScore]
    facts: dict[str, Any] = {}
    if benchmark.judge is not None:
        if judging is not None:
            collect_verdicts(benchmark.judge, items, answers, settings, judging)
        scores, facts, rejected = score_verdicts(benchmark.judge, items, answers, settings, run)
    else:
        assert benchmark.score is not None  # a benchmark without a judge scores by itself
        rejected = _without_answer(items, answers, settings.out)
        scores = [benchmark.score(item, answers[item.id], settings.rule) for item in items if item.id in answers]
        if not scores:
            first = next(iter(rejected.values()), "there are no items")
            raise AmpError(f"Not one item could be scored: {first}", hint=f"See '{settings.out / REJECTED}'")
    summary: dict[str, Any] = {"benchmark": benchmark.name, "rule": settings.rule}
    summary |= benchmark.summarise(scores, settings.rule) | facts
    if loaded.whole is not None:
        summary["limit"] = {"asked": len(items), "of": loaded.whole, "items": benchmark.items}
        summary["limit"]["seed"] = settings.limit_seed
    if benchmark.is_part:
        summary["left_aside"] = run.facts.get("left_aside", 0)
    write_records(settings.out / ITEMS, (one.to_json() for one in scores))
    run.record(items_scored=len(scores))
    summary |= {"rejected": len(rejected)}
    write_json(settings.out / SCORES, summary)
    return summary, rejected, _warn_of_unread(benchmark, scores, settings)


DOUBTFUL = 0.02
"""Share of unreadable answers above which the scores come with a warning."""


def _warn_of_unread(benchmark: Benchmark[Any], scores: Sequence[Any], settings: EvalSettings) -> int:
    """Say where more than a few answers could not be read; return their number where that is all of them, else 0."""
    unread = [one for one in scores if not benchmark.is_readable(one)]
    if benchmark.unreadable and len(unread) > DOUBTFUL * len(scores):
        first = "; ".join(f"'{one.id}': {one.answer[:60]!r}" for one in unread[:3])
        fate = (
            "the rule counts them as the official script does"
            if settings.rule == "official"
            else f"all are in '{settings.out / ITEMS}'"
        )
        ui.warn(f"{len(unread):,} of {len(scores):,} {benchmark.unreadable} ({fate}). First: {first}")
    if len(unread) < len(scores):
        return 0
    ui.warn(f"Nothing could be scored: not one of {len(scores):,} could be read")
    return len(unread)


def read_scores(folder: Path) -> dict[str, Any]:
    """Return what `scores.json` holds.

    Raises:
        AmpError: it is not there, or is not as we write it.
    """
    path = folder / SCORES
    scores = read_plain_object(path, benchmark=str, rule=str)
    hint = f"Score again: amp eval {scores['benchmark']} --only score --out {folder}"
    if scores["benchmark"] not in BENCHMARKS:
        raise AmpError(f"'{path}' is of the benchmark {scores['benchmark']!r:.60}, which is not known", hint=_KNOWN)
    for column in BENCHMARKS[scores["benchmark"]].columns:
        try:
            numbers = [column.value(scores), *(column.interval(scores) or ())]
        except (TypeError, ValueError, AttributeError) as error:
            raise AmpError(f"'{path}' is damaged: '{column.title}' is not where it belongs", hint=hint) from error
        if wrong := [one for one in numbers if one is not None and type(one) not in (int, float)]:
            raise AmpError(f"'{path}' is damaged: '{column.title}' is {wrong[0]!r:.60}, not a number", hint=hint)
    try:
        BENCHMARKS[scores["benchmark"]].tables(scores)
        BENCHMARKS[scores["benchmark"]].about(scores)
        sample_text(scores)
        BENCHMARKS[scores["benchmark"]].count(scores)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AmpError(f"'{path}' is damaged: {type(error).__name__} at {error}", hint=hint) from error
    return scores


_KNOWN = f"Known: {', '.join(BENCHMARKS)}"


def read_item_scores(folder: Path, benchmark: Benchmark[Any]) -> dict[str, Any]:
    """Return item id -> its result, as the run wrote them.

    Raises:
        AmpError: a line is damaged, or there are fewer than the run scored.
    """
    path = folder / ITEMS
    hint = f"Score again: amp eval {benchmark.name} --only score --out {folder}"
    if not path.is_file():
        raise AmpError(f"'{folder}' has scores but no {ITEMS}", hint=hint)
    try:
        results = {one.id: one for one in RecordLog(path).read_as(benchmark.read_score)}
    except AmpError as error:
        raise AmpError(error.message, hint=hint) from error
    wanted = Run.read(folder).facts.get("items_scored", len(results))
    if len(results) != wanted or not path.read_bytes().endswith(b"\n"):
        raise AmpError(f"'{path}' is cut off: it holds {len(results):,} whole lines of {wanted:,}", hint=hint)
    return results


def _without_answer(items: Sequence[BenchmarkItem], answers: Mapping[str, Answer], out: Path) -> dict[str, str]:
    reasons = LeftOutLog.open(out / REJECTED).reasons()
    return {item.id: reasons.get(item.id, "no answer") for item in items if item.id not in answers}


def _refuse_strangers(items: Sequence[BenchmarkItem], answers: Mapping[str, Answer], out: Path) -> None:
    known = {item.id for item in items}
    strangers = [item_id for item_id in answers if item_id not in known]
    if strangers:
        raise AmpError(
            f"{len(strangers):,} of {len(answers):,} answers in '{out}' are to questions that --data does not hold, "
            f"first '{strangers[0]}'",
            hint="Give the --data that the answers were made with",
        )
