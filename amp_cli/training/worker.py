"""The training process: `python -m amp_cli.training.worker RUN_FOLDER`, started by launch.py through accelerate."""

import fcntl
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.launching import end_with_parent, faults_reported, report
from amp_cli.training.config import TrainConfig

RESULT = "result.json"
"""Written when the training is done: what its last event says too."""
LOCK_SECONDS = 60
"""A worker whose parent was killed ends at once; this is how long we wait for it, in seconds."""


def main() -> None:
    """Train as `run.json` says; a fault that the user can mend is reported as a sentence."""
    end_with_parent()
    allow_many_files()
    run_folder = Path(sys.argv[1])
    with faults_reported():
        config = TrainConfig.from_settings(Run.read(run_folder).settings)
        _skip_needless_imports(config)
        with _alone_in(run_folder):
            _train(config, run_folder)


MANY_FILES = 65536


def allow_many_files() -> None:
    """Raise the soft limit of open files as far as the hard one allows; many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _skip_needless_imports(config: TrainConfig) -> None:
    """Hide packages that PEFT and transformers would import without use here: 3 of 8 seconds of the start."""
    needless = ["sklearn", "scipy"]
    if config.quantization is None:
        needless.append("bitsandbytes")
    if config.method == "mdpo":
        needless.append("datasets")
    modules: dict[str, Any] = sys.modules
    for name in needless:
        modules[name] = None  # Python's own way to make an import fail


@contextmanager
def _alone_in(run_folder: Path) -> Iterator[None]:
    """Hold the run folder's lock; a worker left over from a killed command is waited for."""
    if int(os.environ.get("RANK", "0")):
        yield
        return
    with (run_folder / "worker.lock").open("w") as lock:
        for _ in range(LOCK_SECONDS * 10):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        else:
            raise AmpError(
                f"Another process is training in '{run_folder}'", hint="Wait for it, or choose another --out"
            )
        yield


def _train(config: TrainConfig, run_folder: Path) -> None:
    import torch
    from accelerate import PartialState

    from amp_cli.training.session import Session

    warnings.simplefilter("ignore", FutureWarning)  # libraries to one another; they would hide what matters in the log
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    # told, and not left to guess: without it several processes on CPUs would each train alone
    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true")
    if state.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise AmpError(
            f"{os.environ['WORLD_SIZE']} processes were started, but each would train alone",
            hint="On CPUs, the accelerate config must say `use_cpu: true`",
        )
    try:
        result = Session(config, run_folder).run()
    except torch.OutOfMemoryError as error:
        raise AmpError(
            f"The GPU's memory is full: {str(error).splitlines()[0]}",
            hint="Try --tokens-per-step 1 --set gradient_checkpointing=true, or --set quantization=nf4",
        ) from error
    if PartialState().is_main_process:
        write_json(run_folder / RESULT, result)
        report(result=result)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
