"""The training process: `python -m amp_cli.training.worker RUN_FOLDER`, started by launch.py through accelerate."""

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.lock import after_worker
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.launching import end_at_once, end_with_parent, faults_reported, report
from amp_cli.training.config import TrainConfig

RESULT = "result.json"
"""Written when the training is done: what its last event says too."""


def main() -> None:
    """Train as `run.json` says; a fault that the user can mend is reported as a sentence."""
    end_with_parent()
    allow_many_files()
    run_folder = Path(sys.argv[1])
    with faults_reported():
        if is_of_main_node():
            config = TrainConfig.from_settings(Run.read(run_folder).settings)
            _skip_needless_imports(config)
            with _alone_in(run_folder):
                _join(run_folder)
                _train(config, run_folder)
        else:
            _join(run_folder)  # only then has the main machine written down what is to be done
            _train(TrainConfig.from_settings(Run.read(run_folder).settings), run_folder)


MANY_FILES = 65536


def allow_many_files() -> None:
    """Raise the soft limit of open files as far as the hard one allows; many systems begin with 1,024.

    Windows sets no such limit.
    """
    if sys.platform != "win32":
        import resource

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
    """Hold the lock of the run folder's workers; one left over from a killed command is waited for."""
    if int(os.environ.get("RANK", "0")):
        yield
        return
    with after_worker(run_folder / "worker.lock"):
        yield


def is_of_main_node() -> bool:
    """Whether this process runs on the machine that owns the run folder; torch's launcher numbers the machines."""
    return int(os.environ.get("GROUP_RANK", "0")) == 0


LONGEST_WAIT = timedelta(hours=3)
"""How long a process waits for another; the slowest may still be computing its part of the reference."""
SEEN_WITHIN = 60
"""Seconds within which a file that another machine has written must be seen on a shared disk."""


def _join(run_folder: Path) -> None:
    """Meet the other processes, and see that all of them have one run folder.

    Raises:
        AmpError: they would train apart, or this machine does not see the main one's run folder.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    # told, and not left to guess: without it several processes on CPUs would each train alone
    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true", timeout=LONGEST_WAIT)
    if state.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise AmpError(
            f"{os.environ['WORLD_SIZE']} processes were started, but each would train alone",
            hint="On CPUs, the accelerate config must say `use_cpu: true`",
        )
    (started,) = broadcast_object_list([_started(run_folder)])
    for _ in range(SEEN_WITHIN):
        if _started(run_folder) == started:
            return
        time.sleep(1)
    raise AmpError(
        f"'{run_folder}' is not the run folder of the main machine",
        hint="--out must lie on a disk that all machines share",
    )


def _started(run_folder: Path) -> str | None:
    return str(Run.read(run_folder).facts["started"]) if (run_folder / "run.json").exists() else None


def _train(config: TrainConfig, run_folder: Path) -> None:
    import torch
    from accelerate import PartialState

    from amp_cli.models.foreign import is_out_of_memory
    from amp_cli.training.session import Session
    from amp_cli.training.trackers import prepare_tracker

    warnings.simplefilter("ignore", FutureWarning)  # libraries to one another; they would hide what matters in the log
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.report_to != "none" and PartialState().is_main_process:
        prepare_tracker(config.report_to, run_folder)
    session = Session(config, run_folder)
    try:
        result = session.run()
    except (RuntimeError, TypeError) as error:
        if PartialState().device.type == "mps" and "MPS" in str(error) and not is_out_of_memory(error):
            raise AmpError(
                f"PyTorch cannot do this on Apple's GPU: {str(error).splitlines()[0]}",
                hint="--accelerate-config cpu trains on the CPU",
            ) from error
        if not is_out_of_memory(error):
            raise
        lighter = config.lighter(checkpointing=session.facts.get("gradient_checkpointing") is True)
        raise AmpError(
            f"The memory is full: {str(error).splitlines()[0]}",
            hint=f"These take less: {', '.join(lighter)}"
            if lighter
            else "Take a GPU with more memory, or a smaller model",
        ) from error
    if PartialState().is_main_process:
        write_json(run_folder / RESULT, result)
        report(result=result)
    PartialState().wait_for_everyone()  # another machine's command reads the result
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    end_at_once()
