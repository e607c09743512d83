"""Runs a benchmark: load, ask, score, summarise. Answers reach the disk one by one, so that a stopped run goes on."""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from amp_cli import ui
from amp_cli.benchmarks import amber, chair, pope
from amp_cli.benchmarks.pictures import check_pictures, picture_folder
from amp_cli.benchmarks.settings import Benchmark, EvalSettings, LoadedBenchmark
from amp_cli.core.downloads.places import benchmark_folder
from amp_cli.core.requests import Decoding, Request
from amp_cli.core.run import Run
from amp_cli.core.store import RecordLog, Rejections, content_hash, write_json, write_text
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

BENCHMARKS: dict[str, Benchmark[Any]] = {"pope": pope, "chair": chair, "amber": amber}

ANSWERS, ITEMS, SCORES, REJECTED = "answers.jsonl", "items.jsonl", "scores.json", "rejected.jsonl"
FREE = ("rule", "batch_size", "data", "image_root", "questions", "synonyms")
"""Settings that may differ when a run goes on: they change scoring or speed only; of the data, the hash is compared."""
_NOT_RECORDED = ("out", "overwrite", "only_score")


class Answerer(Protocol):
    """Answers requests that are not in `done`; the model, or a script in its place."""

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The scores (as in `scores.json`), the items that could not be done, and what it took."""

    scores: dict[str, Any]
    rejected: dict[str, str]
    out: Path
    seconds: float


def run_benchmark(settings: EvalSettings, *, answerer: Answerer | None = None) -> EvalResult:
    """Answer what is unanswered, then score everything.

    Args:
        answerer: stands in for the model `settings.model`, which is loaded only if something is left to ask.
    """
    begin = time.monotonic()
    if settings.only_score:
        settings = _as_recorded(settings)
    data = settings.data or _downloaded(settings.benchmark)
    settings = replace(settings, data=data)
    benchmark = BENCHMARKS[settings.benchmark]
    loaded = benchmark.load(data, settings)
    for warning in loaded.warnings:
        ui.warn(warning)
    adopted = _adopted(benchmark, loaded.items, settings, data)
    run = Run.read(settings.out) if settings.only_score else _start(settings, loaded, answerer)
    with run:
        if adopted is not None:
            write_text(settings.out / ANSWERS, "".join(json_line(answer.to_json()) for answer in adopted.values()))
        elif not settings.only_score:
            _answer(benchmark, loaded.items, settings, data, run, answerer)
        scores, rejected = _score(benchmark, loaded.items, settings)
        seconds = time.monotonic() - begin
        run.finish(data=loaded.facts, rule=settings.rule, scores=scores, seconds=round(seconds, 1))
    return EvalResult(scores=scores, rejected=rejected, out=settings.out, seconds=seconds)


def _downloaded(name: str) -> Path:
    """Return where `amp download` puts a benchmark's files, if they are there."""
    folder = benchmark_folder(name)
    if not folder.is_dir():
        raise AmpError(f"Where is the data of {name}?", hint=f"Give --data DIR, or run `amp download {name}` first")
    return folder


def _as_recorded(settings: EvalSettings) -> EvalSettings:
    """Return the settings that `--out` was made with; rule, data and words may be given anew."""
    recorded = Run.read(settings.out).settings
    if recorded.get("benchmark") != settings.benchmark:
        raise AmpError(
            f"'{settings.out}' holds no answers to {settings.benchmark}", hint="Give the --out of an evaluation"
        )
    paths = ("data", "image_root", "answers", "questions", "synonyms")
    old: dict[str, Any] = {name: Path(value) if name in paths and value else value for name, value in recorded.items()}
    old |= {"rule": settings.rule, "answers": None}
    old |= {name: value for name in ("data", "synonyms") if (value := getattr(settings, name)) is not None}
    return replace(settings, **old)


def _adopted(
    benchmark: Benchmark[Any], items: Sequence[BenchmarkItem], settings: EvalSettings, data: Path
) -> dict[str, Answer] | None:
    """Read `--answers` before the run folder is touched: it may be wrong."""
    path = settings.answers
    if path is None:
        return None
    if not path.is_file():
        raise AmpError(f"There is no file '{path}'", hint="--answers takes a JSONL or JSON file of answers")
    if path.resolve().is_relative_to(settings.out.resolve()):
        raise AmpError(f"'{path}' lies in --out '{settings.out}'", hint="Use --only score to score it again")
    return benchmark.adopt(path, items, data, settings)


def _start(settings: EvalSettings, loaded: LoadedBenchmark, answerer: Answerer | None) -> Run:
    identity: dict[str, Any] = {"data_files": {file.name: content_hash(file) for file in loaded.files}}
    if settings.answers is not None:
        identity["answer_file"] = content_hash(settings.answers)
    elif answerer is None:
        if settings.model is None:
            raise AmpError(
                "Nothing to evaluate", hint="Give --model M, or --answers FILE with answers that exist already"
            )
        from amp_cli.core.hub import check_model

        identity |= check_model(settings.model, adapter=settings.adapter, vision_tower=settings.vision_tower)
    recorded = {name: value for name, value in asdict(settings).items() if name not in _NOT_RECORDED}
    return Run.start(
        settings.out,
        command=f"eval {settings.benchmark}",
        settings=recorded,
        identity=identity,
        seed=settings.seed,
        overwrite=settings.overwrite,
        free=FREE if settings.temperature == 0 else tuple(name for name in FREE if name != "batch_size"),
    )


def _answer(
    benchmark: Benchmark[Any],
    items: Sequence[BenchmarkItem],
    settings: EvalSettings,
    data: Path,
    run: Run,
    answerer: Answerer | None,
) -> None:
    """Ask what is not in `answers.jsonl` yet."""
    log = RecordLog(settings.out / ANSWERS)
    done = log.ids()
    pending = [item for item in items if item.id not in done]
    if not pending:
        return
    folder = picture_folder(items, data, settings.image_root)
    run.record(image_folder=str(folder))
    faults: dict[str, str] = {}
    with ui.progress("checking pictures", len(pending)) as advance:
        usable = check_pictures(pending, folder, on_reject=faults.__setitem__, advance=advance)
    if not usable and not done:  # one fault of the set-up, not of every item
        first = next(iter(faults.values()))
        raise AmpError(
            f"None of the pictures of {len(pending):,} items can be used. The first: {first}",
            hint="Give --image-root, the folder that image paths start from",
        )
    rejections = Rejections(settings.out / REJECTED)
    for item_id, reason in faults.items():
        rejections.add(item_id, reason)
    if not usable:
        return
    questions = [
        Request(
            id=item.id,
            # a batch is made of the same items again when the run goes on, so those that are done stay in the list
            images=usable.get(item.id) or tuple(folder / name for name in item.images),
            questions=benchmark.ask(item, settings),
        )
        for item in items
        if item.id in usable or item.id in done
    ]
    ask = answerer or _model_answerer(settings, run)
    with ui.progress(f"answering {settings.benchmark}", len(questions), done=len(questions) - len(usable)) as advance:

        def keep(answer: Answer) -> None:
            log.append(answer.to_json())
            advance()

        ask(questions, done=done, on_answer=keep, on_reject=rejections.add)


def _model_answerer(settings: EvalSettings, run: Run) -> Answerer:
    """Load the model; what it is goes to `run.json`."""
    from amp_cli.core.generation import answer_requests
    from amp_cli.core.models import load_model

    decoding = Decoding(
        num_beams=settings.num_beams,
        temperature=settings.temperature,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        max_new_tokens=settings.max_new_tokens,
    )
    assert settings.model is not None  # checked in _start
    loaded = load_model(
        settings.model,
        adapter=settings.adapter,
        vision_tower=settings.vision_tower,
        dtype=settings.dtype,
        device=settings.device,
        quantization=settings.quantization,
        template=settings.template,
        trust_remote_code=settings.trust_remote_code,
    )
    for note in loaded.notes:
        ui.warn(note)
    run.record(model=loaded.identity, device=str(loaded.device))

    def answer(
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        answer_requests(
            loaded,
            requests,
            decoding,
            batch_size=settings.batch_size,
            seed=settings.seed,
            done=done,
            on_answer=on_answer,
            on_reject=on_reject,
        )

    return answer


def _score(
    benchmark: Benchmark[Any], items: Sequence[BenchmarkItem], settings: EvalSettings
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write `items.jsonl` and `scores.json`; an item without an answer is rejected, not wrong."""
    answers = {record["id"]: Answer.from_json(record) for record in RecordLog(settings.out / ANSWERS).read()}
    _refuse_strangers(items, answers, settings.out)
    scores = [benchmark.score(item, answers[item.id], settings.rule) for item in items if item.id in answers]
    reasons = Rejections(settings.out / REJECTED).reasons()
    rejected = {item.id: reasons.get(item.id, "no answer") for item in items if item.id not in answers}
    if not scores:
        first = next(iter(rejected.values()), "there are no items")
        raise AmpError(f"Not one item could be scored: {first}", hint=f"See '{settings.out / REJECTED}'")
    lines = (json_line(one.to_json()) for one in scores)
    write_text(settings.out / ITEMS, "".join(lines))
    summary = benchmark.summarise(scores, settings.rule) | {"rejected": len(rejected)}
    write_json(settings.out / SCORES, summary)
    return summary, rejected


def _refuse_strangers(items: Sequence[BenchmarkItem], answers: Mapping[str, Answer], out: Path) -> None:
    known = {item.id for item in items}
    strangers = [item_id for item_id in answers if item_id not in known]
    if strangers:
        raise AmpError(
            f"{len(strangers):,} of {len(answers):,} answers in '{out}' are to questions that --data does not hold, "
            f"first '{strangers[0]}'",
            hint="Give the --data that the answers were made with",
        )


def json_line(record: Mapping[str, Any]) -> str:
    """Return one JSONL line."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
