"""Starts worker processes through `accelerate launch`, passes their events on, and sees that they end.

amp ── python -m amp_cli.launching ── a worker for each process, all of which write into one pipe that amp reads:
       accelerate, or torch's elastic agent    events, and the text for the log; its end tells them that amp is gone
"""

import atexit
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from amp_cli.disk.jsonl import disk_errors_explained, full_disk_told
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.stopping import family, kill_all

TAIL = 15
"""Lines of the log that an error shows."""
if sys.platform == "win32":
    NEW_GROUP = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    NEW_GROUP = 0
"""What `Popen(creationflags=)` takes under Windows in the place of `start_new_session`."""
PATIENCE = 0.4
"""Seconds that an interrupted worker has to end by itself; what it has finished is on disk at any time."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How worker processes are started: `python -m MODULE FOLDER`, as many times as there are processes.

    No code of the current folder runs in them, nor in what accelerate starts: a `yaml.py` there is not the library.
    `any_port` lets several launches run on one machine; one that spans machines has its port in the config file.
    """

    module: str
    config_file: Path
    processes: int
    environment: dict[str, str]
    any_port: bool = False

    def command(self, folder: Path) -> list[str]:
        """Return the command line."""
        return [
            *(sys.executable, "-P", "-m", "amp_cli.launching"),
            *("--config_file", str(self.config_file), "--num_processes", str(self.processes)),
            *(("--main_process_port", "0") if self.any_port else ()),
            *("-m", self.module, str(folder)),
        ]


def visible_gpus() -> list[str]:
    """Return the numbers (or ids) of the GPUs that a process started now would see."""
    present = [str(number) for number in range(_count_gpus())]
    chosen = os.environ.get(choosing_variable())
    if chosen is None:
        return present
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")][: len(present)]


AMD_DRIVER = "/dev/kfd"
GPU_FILES = ("/dev/nvidiactl", AMD_DRIVER, "/dev/dxg")
"""What a machine with GPUs has: NVIDIA's driver, AMD's, and either of them under Windows."""
CHOOSES_NVIDIA, CHOOSES_AMD = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"


def has_amd_gpus() -> bool:
    """Whether this machine's GPUs are AMD's, which PyTorch calls "cuda" too."""
    return shutil.which("nvidia-smi") is None and Path(AMD_DRIVER).exists()


def can_grow_segments() -> bool:
    """Whether PyTorch's allocator can let memory grow in place: for NVIDIA's GPUs under Linux."""
    return sys.platform == "linux" and not has_amd_gpus()


def has_apple_gpu() -> bool:
    """Whether this is one of the Macs whose GPU PyTorch can use; a worker that sees none there takes the CPU."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
"""Has PyTorch compute on the CPU what an Apple GPU lacks; accelerate sets it when PyTorch has looked at it already."""


def choosing_variable() -> str:
    """Return the environment variable that says which GPUs a process sees; AMD's runtime reads NVIDIA's one too."""
    return CHOOSES_AMD if has_amd_gpus() and CHOOSES_AMD in os.environ else CHOOSES_NVIDIA


def _count_gpus() -> int:
    """Return how many GPUs the machine has; torch is asked, which takes seconds, only where their tool is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        listed = subprocess.run([tool, "-L"], capture_output=True, encoding="utf-8", errors="replace", check=False)
        return 0 if listed.returncode else sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    if not any(Path(file).exists() for file in GPU_FILES):
        return 0
    ask = "import torch; print(torch.cuda.device_count())"
    all_of_them = {name: value for name, value in os.environ.items() if name not in (CHOOSES_NVIDIA, CHOOSES_AMD)}
    said = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, encoding="utf-8", check=False, env=all_of_them
    )
    return int(said.stdout) if said.stdout.strip().isdigit() else 0


def own_config(gpus: Sequence[str], processes: int) -> Path:
    """Return our accelerate file for so many processes on this machine; only one can have an Apple GPU."""
    if processes > 1:
        name = "multi_gpu" if gpus else "multi_cpu"
    else:
        name = "one_gpu" if gpus or has_apple_gpu() else "cpu"
    return template_path("accelerate", f"{name}.yaml")


def refuse_too_many(gpus: Sequence[str], processes: int, hint: str = "Give fewer --num-processes") -> None:
    """Refuse more processes than there are GPUs; a machine without any runs one.

    Raises:
        AmpError: naming both numbers.
    """
    if processes > max(1, len(gpus)):
        raise AmpError(f"{processes} processes need {processes} GPUs; this machine shows {len(gpus)}", hint=hint)


def use_one_thread() -> None:
    """Compute on one thread, here and in workers, unless OMP_NUM_THREADS says how many.

    The embedded model is so small that it is slower on two, most on a busy machine; and the last digits of what it
    gives depend on their number. A PyTorch that is loaded already no longer looks at the variable.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def worker_environment() -> dict[str, str]:
    """Return what every worker's environment holds: wherever it is started, it must find this very package.

    PYTHONSAFEPATH is `-P` for those that accelerate starts in its turn: `python -m` would look in the current folder
    first.
    """
    ours = str(Path(__file__).resolve().parents[1])
    others = os.environ.get("PYTHONPATH")
    on_apple = {MPS_FALLBACK: os.environ.get(MPS_FALLBACK, "1")} if has_apple_gpu() else {}
    return {
        "PYTHONPATH": f"{ours}{os.pathsep}{others}" if others else ours,
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",  # what is said through the pipe, wherever the system's own encoding is another
        "TOKENIZERS_PARALLELISM": "false",
        **on_apple,
    }


def run_workers(launch: Launch, folder: Path, log_path: Path, on_event: Callable[[dict[str, Any]], None]) -> int:
    """Start the workers, follow them to the end, return the exit status (as a shell gives it: 128 and the signal).

    All that they say goes to the log, but for the progress of single items. Whatever `on_event` raises, and Ctrl-C,
    ends them.
    """
    with disk_errors_explained(lambda: log_path.open("ab", buffering=0), log_path) as log:

        def keep(text: str) -> None:
            disk_errors_explained(lambda: log.write(text.encode()), log_path)

        process = subprocess.Popen(
            launch.command(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **launch.environment},
            start_new_session=True,  # so that Ctrl-C reaches it once, from us
            creationflags=NEW_GROUP,
        )
        assert process.stdout is not None  # PIPE
        try:
            for line in process.stdout:
                said, event = parse(line)
                keep(said)
                if event is not None:
                    keep("".join(f"{part}\n" for part in _logged(event)))
                    on_event(event)
            return as_shells_say(process.wait())
        except BaseException:
            stop_family(process)
            keep(process.stdout.read())
            raise


def _logged(event: dict[str, Any]) -> Iterator[str]:
    """Yield what the log keeps of an event: what was said, measured, and went wrong."""
    for name in ("note", "said", "doing", "error"):
        if name in event:
            yield str(event[name])
    if "metrics" in event:
        yield json.dumps(event["metrics"])


def tail_of(log_path: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log_path.read_text(encoding="utf-8").splitlines()[-TAIL:])


SIGKILL, LAST_SIGNAL = 9, 64
"""Numbers, as a worker's status holds them: Windows has no names for them."""


def killed_by(status: int, log_path: Path | None = None) -> str | None:
    """Return what ended a process, as a sentence; None where it ended by itself.

    A signal that comes from outside leaves no words in the log; a fault such as an abort (signal 6) does.
    """
    if not 128 < status <= 128 + LAST_SIGNAL:
        return None
    if status == 128 + SIGKILL:
        return "the system killed a worker (signal 9), most often because the memory was full"
    ended = f"a worker was ended by signal {status - 128}"
    if log_path is None or status - 128 in FROM_OUTSIDE:
        return ended
    return f"{ended}. The last lines of its log:\n{tail_of(log_path)}"


FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM)
"""Signals that people and schedulers send."""


def stop_family(process: subprocess.Popen[str]) -> None:
    """Pass an interruption on to a process that we started with a session of its own; see that its family ends."""
    started = family(process.pid)
    try:
        if sys.platform == "win32":
            process.send_signal(signal.CTRL_BREAK_EVENT)  # a group of its own hears no Ctrl-C
        else:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):  # it has ended, or has no console to be told through
        pass
    finally:
        process.kill()
        kill_all(started)
        process.wait()


MARK = "amp-event "


def report(**event: Any) -> None:
    """Tell the parent."""
    sys.stdout.write(MARK + json.dumps(event, allow_nan=False) + "\n")
    sys.stdout.flush()


def parse(line: str) -> tuple[str, dict[str, Any] | None]:
    """Return what of a line is ordinary output, and its event or None.

    What a library has said without ending its line (a bar) stands before the event.
    """
    said, mark, told = line.partition(MARK)
    if not mark:
        return line, None
    try:
        event = json.loads(told)
    except json.JSONDecodeError:  # two processes wrote into one line
        return line, None
    if not isinstance(event, dict):
        return line, None
    return said and f"{said}\n", event


@contextmanager
def faults_reported() -> Iterator[None]:
    """Tell the parent of a fault that the user can mend, and end with status 1; where it came from is in the log."""
    try:
        with full_disk_told():
            yield
    except AmpError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error)
        report(error=error.message, hint=error.hint)
        sys.exit(1)


LOOK_EVERY = 0.5
"""Seconds between two looks at the process that started us, where its pipe does not tell of its end."""


def end_with_parent() -> None:
    """End as soon as nobody reads our stdout any more: the command that started us was killed."""
    watch = _until_nobody_reads if sys.platform == "linux" else _until_parent_ends

    def end() -> None:
        watch()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _until_nobody_reads() -> None:
    if sys.platform != "win32":
        import select

        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # asks for nothing, so that only the pipe's end is told
        poll.poll()


def _until_parent_ends() -> None:
    """Wait for the end of the process that started us; of all in the line from `amp` down, each waits for the last.

    Only Linux is known to tell of a pipe that nobody reads without being asked for anything else.
    """
    import psutil

    try:
        parent = psutil.Process().parent()  # None where its number has gone to a process that began after us
    except psutil.NoSuchProcess:
        return
    while parent is not None and parent.pid != ORPHANAGE and parent.is_running():
        if parent.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(LOOK_EVERY)


ORPHANAGE = 1
"""The process that macOS makes the parent of those whose own has ended."""


def end_at_once(status: int = 0) -> NoReturn:
    """End this process, whose work is done, without taking Python apart.

    While it does that, a thread of gloo's or of torch's store that asks for Python is unwound through C++ code that
    allows no such thing, which ends the process by signal 6: rarely, after all is on disk, and told as a failure.
    What was to run at the end (a tracker's last upload) has run.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def as_shells_say(status: int) -> int:
    """Return a process's exit status as a shell gives it: 128 and the number of the signal that ended it."""
    return 128 - status if status < 0 else status


def main() -> None:
    """Be accelerate's launcher, which ends with its parent and says by its status what signal ended a worker."""
    end_with_parent()
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch.main()
    except subprocess.CalledProcessError as error:
        end_at_once(as_shells_say(error.returncode))
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        end_at_once(as_shells_say(first.exitcode))
    end_at_once()


if __name__ == "__main__":
    main()
