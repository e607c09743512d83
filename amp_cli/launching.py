"""Starts worker processes through `accelerate launch`, passes their events on, and sees that they end."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import disk_errors_explained
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError

TAIL = 15
"""Lines of the log that an error shows."""
PATIENCE = 20
"""Seconds that an interrupted worker has to end by itself."""


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
            *(sys.executable, "-P", "-m", "accelerate.commands.launch", "--quiet"),
            *("--config_file", str(self.config_file), "--num_processes", str(self.processes)),
            *(("--main_process_port", "0") if self.any_port else ()),
            *("-m", self.module, str(folder)),
        ]


def visible_gpus() -> list[str]:
    """Return the numbers (or ids) of the GPUs that a process started now would see."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    if listed.returncode:
        return []
    present = [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")][: len(present)]


def own_config(gpus: Sequence[str], processes: int) -> Path:
    """Return our accelerate file for so many processes on this machine."""
    several = processes > 1
    name = ("multi_gpu" if several else "one_gpu") if gpus else ("multi_cpu" if several else "cpu")
    return template_path("accelerate", f"{name}.yaml")


def refuse_too_many(gpus: Sequence[str], processes: int, hint: str = "Give fewer --num-processes") -> None:
    """Refuse more processes than there are GPUs; a machine without any runs one.

    Raises:
        AmpError: naming both numbers.
    """
    if processes > max(1, len(gpus)):
        raise AmpError(f"{processes} processes need {processes} GPUs; this machine shows {len(gpus)}", hint=hint)


def worker_environment() -> dict[str, str]:
    """Return what every worker's environment holds: wherever it is started, it must find this very package.

    PYTHONSAFEPATH is `-P` for those that accelerate starts in its turn: `python -m` would look in the current folder
    first.
    """
    ours = str(Path(__file__).resolve().parents[1])
    others = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": f"{ours}{os.pathsep}{others}" if others else ours,
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_workers(launch: Launch, folder: Path, log_path: Path, on_event: Callable[[dict[str, Any]], None]) -> int:
    """Start the workers, follow them to the end, return the exit status; all that is no event goes to the log.

    Whatever `on_event` raises, and Ctrl-C, ends them.
    """
    with disk_errors_explained(lambda: log_path.open("a", encoding="utf-8"), log_path) as log:
        process = subprocess.Popen(
            launch.command(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, **launch.environment},
            start_new_session=True,  # so that Ctrl-C reaches it once, from us
        )
        assert process.stdout is not None  # PIPE
        try:
            for line in process.stdout:
                event = parse(line)
                if event is None:
                    log.write(line)
                    log.flush()
                else:
                    on_event(event)
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def tail_of(log_path: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log_path.read_text(encoding="utf-8").splitlines()[-TAIL:])


def _stop(process: subprocess.Popen[str]) -> None:
    """Pass an interruption on to the whole group that we started, and see that it ends."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=PATIENCE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


MARK = "amp-event "


def report(**event: Any) -> None:
    """Tell the parent; it stops the worker, by a broken pipe, when the parent is gone."""
    sys.stdout.write(MARK + json.dumps(event, allow_nan=False) + "\n")
    sys.stdout.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the event of a line, or None when the line is ordinary output."""
    if not line.startswith(MARK):
        return None
    try:
        event = json.loads(line.removeprefix(MARK))
    except json.JSONDecodeError:  # two processes wrote into one line
        return None
    return event if isinstance(event, dict) else None
