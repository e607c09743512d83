"""Shares the questions among several processes, each with the model; what each has finished survives a kill of any."""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.asking.answerer import Record, Request, Running
from amp_cli.asking.worker import JOB, LOCKS, LOG, REQUESTS
from amp_cli.disk.jsonl import RecordLog, disk_errors_explained, write_json, write_records
from amp_cli.disk.lock import wait_for_worker
from amp_cli.errors import AmpError
from amp_cli.launching import (
    Launch,
    killed_by,
    own_config,
    refuse_too_many,
    run_workers,
    tail_of,
    visible_gpus,
    worker_environment,
)
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

WORKER = "amp_cli.asking.worker"


def plan_processes(device: str, num_processes: int | None) -> Launch | None:
    """Return how to start the processes, or None where one answers: one per GPU, one on a CPU, else as many as asked.

    Raises:
        AmpError: more processes than GPUs, or several on the one device that is named.
    """
    free_choice = device in ("auto", "cuda")
    gpus = visible_gpus() if free_choice and num_processes != 1 else []
    wanted = num_processes or max(1, len(gpus))
    if wanted == 1:
        return None
    if not free_choice and device != "cpu":
        raise AmpError(
            f"--device {device} is one device, and --num-processes {wanted} need several",
            hint="Leave out one of the two",
        )
    if gpus:
        refuse_too_many(gpus, wanted)
    environment = worker_environment()
    if not gpus:
        threads = max(1, (os.cpu_count() or 1) // wanted)
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
    return Launch(
        module=WORKER,
        config_file=own_config(gpus, wanted),
        processes=wanted,
        environment=environment,
        any_port=True,
    )


class Shares:
    """An Answerer of several processes, each of which answers its share of the batches."""

    def __init__(
        self, spec: ModelSpec, decoding: Decoding, running: Running, launch: Launch, folder: Path, record: Record
    ) -> None:
        self._spec = spec
        self._decoding = decoding
        self._running = running
        self._launch = launch
        self._folder = folder
        self._record = record

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        """Answer what is not in `done`."""
        finished = set(done)

        def keep(answer: Answer) -> None:
            if answer.id not in finished:
                finished.add(answer.id)
                on_answer(answer)

        disk_errors_explained(lambda: self._folder.mkdir(parents=True, exist_ok=True), self._folder)
        write_records(self._folder / REQUESTS, (one.to_json() for one in requests))
        write_json(self._folder / JOB, self._job(finished))
        try:
            self._follow(keep, on_reject)
        finally:
            _gather(self._folder, keep, on_reject)  # an event may have got lost: two processes wrote into one line
            _remove_job(self._folder)

    def _job(self, done: Collection[str]) -> dict[str, Any]:
        return {
            "spec": asdict(self._spec),
            "one_gpu_each": self._launch.config_file.stem == "multi_gpu",
            "decoding": asdict(self._decoding),
            "batch_size": self._running.batch_size,
            "seed": self._running.seed,
            "done": sorted(done),
        }

    def _follow(self, keep: Callable[[Answer], None], on_reject: Callable[[str, str], None]) -> None:
        fault: dict[str, Any] = {}
        starting = ExitStack()

        def take(event: dict[str, Any]) -> None:
            if "answer" in event:
                keep(Answer.from_json(event["answer"]))
            elif "rejected" in event:
                on_reject(event["rejected"], event["reason"])
            elif "identity" in event:
                starting.close()
                self._record(model=event["identity"], device=event["device"], processes=self._launch.processes)
                for note in event["notes"]:
                    ui.warn(note)
            else:
                fault.update(event)

        log_path = self._folder / LOG
        with starting:
            starting.enter_context(ui.busy(f"Loading '{self._spec.model}' in {self._launch.processes} processes"))
            status = run_workers(self._launch, self._folder, log_path, take)
        if "error" in fault:
            raise AmpError(fault["error"], hint=fault["hint"])
        if killed := killed_by(status, log_path):
            raise AmpError(
                f"Answering stopped: {killed}",
                hint="Finished answers are kept, the same command goes on; a smaller --batch-size or "
                f"fewer --num-processes take less memory. The log is '{log_path}'",
            )
        if status:
            raise AmpError(
                f"Answering stopped (exit status {status}). The last lines of its log:\n{tail_of(log_path)}",
                hint=f"The whole log is in '{log_path}'; finished answers are kept, the same command goes on",
            )


def take_over(
    folder: Path, *, on_answer: Callable[[Answer], None], on_reject: Callable[[str, str], None], done: Collection[str]
) -> None:
    """Take over what the workers of a killed command had finished in the folder; they themselves are waited for."""
    locks = sorted(folder.glob(LOCKS))
    if not locks:
        return
    for lock in locks:
        wait_for_worker(lock)
    finished = set(done)

    def keep(answer: Answer) -> None:
        if answer.id not in finished:
            finished.add(answer.id)
            on_answer(answer)

    _gather(folder, keep, on_reject)
    _remove_job(folder)


def _remove_job(folder: Path) -> None:
    for name in (JOB, REQUESTS):
        (folder / name).unlink(missing_ok=True)


def _gather(folder: Path, keep: Callable[[Answer], None], on_reject: Callable[[str, str], None]) -> None:
    """Take over what stands in the processes' own files, then remove them."""
    for path in sorted(folder.glob("answers.*.jsonl")):
        for _, record in RecordLog(path).scan(dict):
            if "answers" in record:
                keep(Answer.from_json(record))
            else:
                on_reject(record["id"], record["reason"])
        path.unlink()
