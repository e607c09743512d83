"""Asks a model what a benchmark asks; answers reach the disk one by one, so that a stopped run goes on."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from amp_cli import ui
from amp_cli.benchmarks.archives import unpack_pictures
from amp_cli.benchmarks.pictures import check_pictures, holds_pictures, picture_folder
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.core.requests import Decoding, Request
from amp_cli.core.run import Run
from amp_cli.core.store import RecordLog, Rejections
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

ANSWERS, REJECTED = "answers.jsonl", "rejected.jsonl"


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


def answer_items(
    items: Sequence[BenchmarkItem],
    ask: Callable[[BenchmarkItem, EvalSettings], tuple[str, ...]],
    settings: EvalSettings,
    data: Path,
    run: Run,
    answerer: Answerer | None,
) -> None:
    """Ask what is not in `answers.jsonl` yet; the model is loaded only if something is left to ask."""
    log = RecordLog(settings.out / ANSWERS)
    done = log.ids()
    pending = [item for item in items if item.id not in done]
    if not pending:
        return
    folder = _folder(pending, data, settings.image_root)
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
    requests = [
        Request(
            id=item.id,
            # a batch is made of the same items again when the run goes on, so those that are done stay in the list
            images=usable.get(item.id) or tuple(folder / name for name in item.images),
            questions=ask(item, settings),
        )
        for item in items
        if item.id in usable or item.id in done
    ]
    answer = answerer or model_answerer(settings, run)
    with ui.progress(f"answering {settings.benchmark}", len(requests), done=len(requests) - len(usable)) as advance:

        def keep(one: Answer) -> None:
            log.append(one.to_json())
            advance()

        answer(requests, done=done, on_answer=keep, on_reject=rejections.add)


def _folder(items: Sequence[BenchmarkItem], data: Path, image_root: Path | None) -> Path:
    """Return the folder of the pictures; those that only an archive among the data holds are unpacked."""
    folder = picture_folder(items, data, image_root)
    if image_root is None and not holds_pictures(folder, items):
        return unpack_pictures(items, data) or folder
    return folder


def model_answerer(settings: EvalSettings, run: Run) -> Answerer:
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
    assert settings.model is not None  # checked before the run was started
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
