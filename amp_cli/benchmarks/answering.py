"""Asks a model what a benchmark asks; answers reach the disk one by one, so that a stopped run goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.asking.answerer import Answerer, Request, open_answerer
from amp_cli.asking.processes import take_over
from amp_cli.benchmarks.answer_files import ANSWERS
from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.benchmarks.files import check_images, holds_images, image_folder, unpack_images
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.jsonl import RecordLog, write_records
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

REJECTED = "rejected.jsonl"


def answer_items(
    items: Sequence[BenchmarkItem],
    benchmark: Benchmark[Any],
    settings: EvalSettings,
    data: Path,
    run: Run,
    answerer: Answerer | None,
) -> None:
    """Ask what is not in `answers.jsonl` yet; the model is loaded only if something is left to ask."""
    log = RecordLog(settings.out / ANSWERS)
    rejections = LeftOutLog.open(settings.out / REJECTED)
    take_over(
        settings.out,
        on_answer=lambda answer: log.append(answer.to_json()),
        on_reject=rejections.note,
        done=log.ids(),
    )
    done = log.ids()
    pending = [item for item in items if item.id not in done]
    if not pending:
        _put_in_order(log, items)
        return
    folder = folder_of_images(pending, data, settings.image_root)
    run.record(image_folder=str(folder))
    faults: dict[str, str] = {}
    with ui.progress("checking images", len(pending)) as advance:
        usable = check_images(pending, folder, on_reject=faults.__setitem__, advance=advance)
    if not usable and not done:  # one fault of the set-up, not of every item
        first = next(iter(faults.values()))
        raise AmpError(
            f"None of the images of {len(pending):,} items can be used. The first: {first}",
            hint="Give --image-root, the folder that image paths start from",
        )
    for item_id, reason in faults.items():
        rejections.note(item_id, reason)
    if not usable:
        return
    requests = [
        Request(
            id=item.id,
            # a batch is made of the same items again when the run goes on, so those that are done stay in the list
            images=usable.get(item.id) or tuple(folder / name for name in item.images),
            questions=benchmark.ask(item, settings),
            is_yes_no=benchmark.is_yes_no(item),
        )
        for item in items
        if item.id in usable or item.id in done
    ]
    answer = answerer or _open_answerer(settings, run)
    with ui.progress(f"answering {settings.benchmark}", len(requests), done=len(requests) - len(usable)) as advance:

        def keep(one: Answer) -> None:
            log.append(one.to_json())
            advance()

        answer(requests, done=done, on_answer=keep, on_reject=rejections.note)
    _put_in_order(log, items)


def _open_answerer(settings: EvalSettings, run: Run) -> Answerer:
    assert settings.spec is not None  # checked before the run was started
    return open_answerer(settings.spec, settings.decoding, settings.running, folder=settings.out, record=run.record)


def _put_in_order(log: RecordLog, items: Sequence[BenchmarkItem]) -> None:
    """Sort the answers as the items: they came by batches, or from several processes, as they were done."""
    written = log.read()
    records = {record["id"]: record for record in written}
    in_order = [records.pop(item.id) for item in items if item.id in records]
    in_order += records.values()
    if in_order != written:
        write_records(log.path, in_order)


def folder_of_images(items: Sequence[BenchmarkItem], data: Path, image_root: Path | None) -> Path:
    """Return the folder of the images; those that only an archive among the data holds are unpacked."""
    folder = image_folder(items, data, image_root)
    if image_root is None and not holds_images(folder, items):
        return unpack_images(items, data) or folder
    return folder
