"""Types every command on damaged files, and says of each kind how many kept the promise.

    python tests/bench/bad_inputs.py --count 2000 --seed 1

The promise: no traceback, an exit status from 0 to 3, `Error:` and `Hint:` where it failed, one JSON object with
`--json`, at most MEMORY more than before, and an end within PATIENCE. Each input is tried in a process of its own, made
by fork when the libraries are loaded; a crash of one is a line of the table, not the end of it.
"""

import argparse
import gc
import importlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"AMP_HOME": tempfile.mkdtemp(prefix="amp-bad-"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
os.environ |= {"NO_COLOR": "1", "COLUMNS": "200", "TOKENIZERS_PARALLELISM": "false"}

from tests.support.bad_inputs import bad_inputs, copy_named, copy_old_folders, fault_of, try_out, type_in  # noqa: E402
from tests.support.hostile_files import HOSTILE  # noqa: E402

MEMORY = 3 << 30
"""Bytes of address space that a command may take beyond what the loaded libraries take."""
PATIENCE = 60
"""Seconds."""


def load_libraries() -> None:
    """Import what commands import as they run, so that a fork has it."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import spacy  # noqa: F401
    import transformers  # noqa: F401

    import amp_cli

    for found in pkgutil.walk_packages(amp_cli.__path__, "amp_cli."):
        importlib.import_module(found.name)
    gc.freeze()  # pages of the parent stay shared


def in_a_process(work: Callable[[Path], str], copy: Path, needed: str) -> str:
    """Return what `work` returns of a fresh copy of what the line needs, done in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="amp-bad-"))
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        os.setsid()
        signal.alarm(PATIENCE)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        try:
            copy_named(copy, needed, folder / "work")
            said = work(folder / "work")
        except BaseException as error:
            said = f"the program itself: {error!r}"
        os.write(writing, said.encode("utf-8", "replace")[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(process, 0)
    shutil.rmtree(folder, ignore_errors=True)
    if os.WIFSIGNALED(status):
        ended = signal.Signals(os.WTERMSIG(status))
        return f"no end within {PATIENCE} s" if ended == signal.SIGALRM else f"ended by {ended.name}"
    return said


def main() -> int:
    """Try them all; return 1 where the promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only kinds or commands with this in them")
    parser.add_argument("--quick", action="store_true", help="only what loads no model")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    load_libraries()
    begin = time.monotonic()
    copy = copy_old_folders(Path(tempfile.mkdtemp(prefix="amp-bad-")) / "work")
    tried, held = Counter[str](), Counter[str]()
    faults: list[str] = []

    def note(kind: str, what: str, work: Callable[[Path], str]) -> None:
        if options.only not in f"{kind} | {what}":
            return
        fault = in_a_process(work, copy, what)
        tried[kind] += 1
        held[kind] += not fault
        if tried.total() % 100 == 0:
            print(f"{tried.total()} tried, {held.total()} held", file=sys.stderr, flush=True)
        if fault:
            faults.append(f"{fault} | {what}")
            print(faults[-1], file=sys.stderr, flush=True)

    for bad in bad_inputs(options.count, seed=options.seed, quick=options.quick):
        note(bad.kind, str(bad), lambda folder, bad=bad: try_out(bad, folder)[0])
    for kind, cases in HOSTILE.items():
        for name, (line, make) in cases.items():

            def work(folder: Path, line: str = line, make: Callable[[Path], None] = make) -> str:
                make(folder)
                return fault_of(type_in(line, folder), line)

            note(kind, f"{kind}: {name} | amp {line}", work)
    shutil.rmtree(copy.parent)
    if options.json:
        kinds = {kind: {"tried": tried[kind], "held": held[kind]} for kind in tried}
        print(json.dumps({"kinds": kinds, "tried": tried.total(), "held": held.total(), "faults": faults}))
        return int(bool(faults))
    print(f"{'kind':<28} {'tried':>6} {'held':>6}")
    for kind in tried:
        print(f"{kind:<28} {tried[kind]:>6} {held[kind]:>6}")
    print(f"{'all':<28} {tried.total():>6} {held.total():>6}   ({time.monotonic() - begin:.0f} s)")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
