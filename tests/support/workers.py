"""Processes that answer: finding them, and waiting until they have answered something."""

import subprocess
import time
from pathlib import Path

import psutil


def workers(parent: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that answer for a command."""
    family = psutil.Process(parent.pid).children(recursive=True)
    return [one for one in family if {"amp_cli.asking.worker", "-u"} <= set(words_of(one))]


def wait_for_answers(folder: Path, running: "subprocess.Popen[str]") -> None:
    """Wait until each of two processes has an answer on disk."""
    for _ in range(2400):
        if all((folder / f"answers.{number}.jsonl").exists() for number in (0, 1)):
            return
        assert running.poll() is None, running.stderr and running.stderr.read()
        time.sleep(0.05)
    raise AssertionError("no answers within two minutes")


def words_of(process: psutil.Process) -> list[str]:
    """Return a process's command line; one that has ended in the meantime has none."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
