"""Answers one process's share: `python -m amp_cli.asking.worker RUN_FOLDER`, started through accelerate."""

import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from amp_cli.asking.answerer import Request
from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.lock import after_worker
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.stored import Stored
from amp_cli.launching import end_at_once, end_with_parent, faults_reported, report
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

JOB, LOG = "answering.json", "answering.log"
REQUESTS = "answering.jsonl"
LOCKS = "answering*.lock"
"""One for each process; earlier versions had one for all."""


def main() -> None:
    """Answer what `answering.json` asks; a fault that the user can mend is reported as a sentence."""
    folder = Path(sys.argv[1])
    end_with_parent()
    lock = folder / LOCKS.replace("*", f".{os.environ['RANK']}")
    with faults_reported(), after_worker(lock):  # the next command waits for all of us
        _answer_share(folder, read_plain_object(folder / JOB))


def share_file(folder: Path, number: int) -> Path:
    """Return the file that one process writes its answers to."""
    return folder / f"answers.{number}.jsonl"


def _answer_share(folder: Path, job: dict[str, Any]) -> None:
    from amp_cli.asking.local import answer_requests, load_to_answer

    warnings.simplefilter("ignore", FutureWarning)  # libraries to one another; they would hide what matters in the log
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    spec = ModelSpec(**job["spec"])
    if job["one_gpu_each"]:
        spec = replace(spec, device=f"cuda:{os.environ['LOCAL_RANK']}")
    loaded = load_to_answer(spec)
    if number == 0:
        report(identity=loaded.identity, device=str(loaded.device), notes=loaded.notes)
    log = RecordLog(share_file(folder, number))

    def keep(answer: Answer) -> None:
        log.append(answer.to_json())
        report(answer=answer.to_json())

    def refuse(item: str, reason: str) -> None:
        log.append({"id": item, "reason": reason})
        report(rejected=item, reason=reason)

    answer_requests(
        loaded,
        Stored.of_file(folder / REQUESTS, Request.from_json),
        Decoding(**job["decoding"]),
        batch_size=job["batch_size"],
        seed=job["seed"],
        done=set(job["done"]),
        on_answer=keep,
        on_reject=refuse,
        share=(number, count),
    )


if __name__ == "__main__":
    main()
    end_at_once()
