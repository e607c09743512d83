"""Stops every long command at random moments, lets it go on to the end, and compares all files with an unbroken run.

    .venv/bin/python tests/bench/torture.py [--kills 130] [--minutes 10] [--seed 0] [--only NAME ...]

A trial is four to eight stops in a row, each of a kind and at a moment that the seed decides, and then the same command
to its end. Two commands are under way at a time. Compared is every file, byte for byte, but for logs, locks, and what
`VOLATILE` names in JSON: times, and what says of the way rather than of the result.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil

from tests.support.judge_server import JudgeServer
from tests.support.judged_data import mmhal_records, write_lines
from tests.support.judged_data import write_json as write
from tests.support.training_items import draw, preference, write_preferences

ROOT = Path(__file__).resolve().parents[2]
MARK = "AMP_TORTURE"
"""Variable of the environment by which all descendants of a command are found, whoever their parent is by then."""
LIMIT = 2.0
"""Seconds within which Ctrl-C and SIGTERM end a command."""
VOLATILE = {
    *("started", "ended", "seconds", "start_seconds", "train_seconds", "items_per_second", "peak_memory_mb"),
    *("resumed_from", "request_id", "estimate", "requests", "tokens", "cost", "retries"),
}
PASSED_OVER = (".log", ".lock")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line that writes `out` in the current folder."""

    words: tuple[str, ...]
    pays: bool = False
    python: bool = False  # words are given to Python instead of to amp

    def line(self) -> list[str]:
        return [sys.executable, *(() if self.python else ("-m", "amp_cli")), *self.words]


QUICKSTART = """
from amp_cli.stopping import heard
with heard():
    import sys
    from pathlib import Path
    import typer
    from amp_cli.commands.quickstart import Size, run_loop
    from amp_cli.main import app
    amp = typer.main.get_command(app)
    run_loop(
        Path("out"), levels=3, seed=0, size=Size(scenes=8, test_scenes=4, steps=2),
        type_in=lambda words: amp.main(words, prog_name="amp", standalone_mode=False),
    )
"""


def commands(inputs: Path, judge_url: str) -> dict[str, Command]:
    """Write what the commands read, and return them by name."""
    prefs = write_preferences(inputs / "prefs", [preference(number, levels=2 + number % 3) for number in range(40)])
    sources = [
        {"id": f"s{number}", "images": [f"{number}.png"], "questions": one["questions"], "answers": answers}
        for number in range(24)
        for one in [preference(number, levels=2)]
        for answers in [one["levels"][0]["answers"]]
    ]
    data = write_lines(inputs / "prefs" / "sources.jsonl", sources)
    pope = inputs / "pope"
    pope.mkdir()
    questions = []
    for number in range(80):
        if number < 40:
            draw(pope, number)
        text, label = f"Is there a {('dog', 'red ball', 'kite')[number % 3]} in the image?", ("yes", "no")[number % 2]
        questions.append({"question_id": number, "image": f"{number % 40}.png", "text": text, "label": label})
    write_lines(pope / "coco_pope_random.json", questions)
    mmhal = write(inputs / "mmhal" / "response_template.json", mmhal_records(96))
    answers = write(inputs / "answers.json", [{**one, "model_answer": "A dog."} for one in mmhal_records(96)])
    write_lines(
        inputs / "pairs" / "pairs.jsonl",
        [
            {"prompt": f"What is it, number {number}?", "chosen": f"A dog, {number}.", "rejected": "A cat."}
            for number in range(20_000)
        ],
    )
    many = write_lines(
        inputs / "many" / "many.jsonl",
        [
            {**preference(number, levels=3), "id": f"m{number}", "images": []} | {"questions": [f"What is {number}?"]}
            for number in range(20_000)
        ],
    )
    greedy = ("--temperature", "0", "--num-beams", "1", "--max-new-tokens", "16", "--batch-size", "2")
    experts = (str(data), "--out", "out", "--encoder", "world", "--device", "cpu", *greedy)
    training = ("train", "--size", "tiny", "--prefs", str(prefs), "--out", "out", "--set", "max_steps=20")
    steps = ("--set", "save_steps=4", "--set", "logging_steps=4", "--set", "global_batch_size=4")
    beams = ("--num-beams", "2", "--max-new-tokens", "8", "--batch-size", "4", "--device", "cpu")
    return {
        "generate-prefs meg": Command(
            words=("generate-prefs", *experts, "--method", "meg", "--expert", "a=tiny", "--expert", "b=tiny")
        ),
        "generate-prefs ig": Command(
            words=(
                *("generate-prefs", *experts, "--method", "ig", "--base", "tiny", "--finetune-data", str(data)),
                *(
                    "--levels",
                    "3",
                    "--finetune-steps",
                    "6",
                    "--finetune-batch-size",
                    "2",
                    "--finetune-set",
                    "save_steps=2",
                ),
                *("--finetune-set", "logging_steps=2"),
            )
        ),
        "train mdpo": Command(words=(*training, *steps)),
        "train sft": Command(words=(*training, *steps, "--method", "sft")),
        "eval pope, 2 processes": Command(
            words=(
                "eval",
                "pope",
                "--model",
                "tiny",
                "--data",
                str(pope),
                "--out",
                "out",
                "--num-processes",
                "2",
                *beams,
            )
        ),
        "eval mmhal, judge": Command(
            words=(
                *("eval", "mmhal", "--data", str(mmhal.parent), "--answers", str(answers), "--out", "out"),
                *("--judge", "gpt-x", "--judge-url", judge_url, "--judge-concurrency", "4"),
            ),
            pays=True,
        ),
        "merge-lora": Command(words=("merge-lora", str(inputs / "trained"), "--out", "out")),
        "convert": Command(words=("convert", str(inputs / "llava"), "--to", "hf", "--out", "out")),
        "quickstart": Command(words=("-c", QUICKSTART), python=True),
        "prefs import": Command(words=("prefs", "import", str(inputs / "pairs" / "pairs.jsonl"), "--out", "out")),
        "prefs mix": Command(words=("prefs", "mix", f"{many}:9000", str(prefs), "--held-out", "0.1", "--out", "out")),
        "prefs export": Command(words=("prefs", "export", str(many), "--to", "trl", "--out", "out/pairs.jsonl")),
        "report": Command(
            words=("report", str(inputs / "evaluated"), str(inputs / "trained"), "--html", "out/report.html")
        ),
    }


@dataclass(kw_only=True)
class Tally:
    """What came of a command's trials."""

    seconds: float = 0.0
    trials: int = 0
    stops: Counter[str] = field(default_factory=Counter)
    slowest_stop: float = 0.0
    longest_orphan: float = 0.0
    files: int = 0
    differing: list[str] = field(default_factory=list)
    paid_twice: int = 0
    faults: list[str] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        stops = " ".join(f"{self.stops[kind]} {kind}" for kind in KINDS if self.stops[kind])
        return [
            *(name, f"{self.seconds:.1f}", str(self.trials), str(self.stops.total()), stops),
            *(f"{self.slowest_stop:.1f}", f"{self.longest_orphan:.1f}", str(self.files), str(len(self.differing))),
            *(str(self.paid_twice), str(len(self.faults))),
        ]


COLUMNS = ("command", "s", "trials", "stops", "kinds", "stop s", "orphan s", "files", "differ", "paid twice", "faults")


class Place:
    """A folder in which one command is run, stopped and run again; `out` in it is what it writes."""

    def __init__(self, folder: Path, command: Command, server: JudgeServer) -> None:
        self.folder, self.command, self.server = folder, command, server
        self.mark = f"{folder}:{time.monotonic_ns()}"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> "subprocess.Popen[str]":
        environment = {**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        return subprocess.Popen(
            self.command.line(),
            cwd=self.folder,
            env={**environment, "OMP_NUM_THREADS": "1", "AMP_HOME": str(self.folder.parent / "home"), "NO_PROXY": "*"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in the background
        )

    def family(self) -> list[psutil.Process]:
        """All processes that the command has started and that still run, whoever their parent is."""
        found = []
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                if one.environ().get(MARK) == self.mark and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    def to_end(self) -> tuple[int, str, float]:
        begin, process = time.monotonic(), self.start()
        _, said = process.communicate(timeout=600)
        return process.returncode, said, time.monotonic() - begin

    def forget(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.server.asked.clear()


def to_group(*signals: signal.Signals) -> Callable[[int], None]:
    def send(pid: int) -> None:
        for number, one in enumerate(signals):
            time.sleep(0.3 if number else 0)
            with suppress(ProcessLookupError):
                os.killpg(pid, one)

    return send


KINDS: dict[str, tuple[Callable[[int], None], int]] = {
    "kill": (to_group(signal.SIGKILL), -9),
    "term": (lambda pid: os.kill(pid, signal.SIGTERM), 143),
    "int": (to_group(signal.SIGINT), 130),
    "int twice": (to_group(signal.SIGINT, signal.SIGINT), 130),
}
"""How a command is stopped, and its exit status then."""


def stop(place: Place, kind: str, after: float, tally: Tally) -> None:
    """Start the command, stop it so after so many seconds, and note how it ended."""
    begun, process = time.time(), place.start()
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=after)
        return  # it was quicker
    send, status = KINDS[kind]
    begin = time.monotonic()
    send(process.pid)
    _, said = process.communicate(timeout=120)
    seconds = time.monotonic() - begin
    tally.stops[kind] += 1
    if kind != "kill":
        tally.slowest_stop = max(tally.slowest_stop, seconds)
        _judge_end(place, f"{kind} at {after:.2f} s", begun, process.returncode, status, said, tally)
    while place.family():
        if time.monotonic() - begin > 60:
            tally.faults.append(f"orphans after {kind} at {after:.2f} s: {[one.cmdline() for one in place.family()]}")
            break
        time.sleep(0.1)
    tally.longest_orphan = max(tally.longest_orphan, time.monotonic() - begin - seconds)


def _judge_end(place: Place, when: str, begun: float, returncode: int, status: int, said: str, tally: Tally) -> None:
    if returncode not in (status, 0, 3) and not _in_python_itself(said):
        tally.faults.append(f"{when}: status {returncode}, not {status}: {said[-300:]}")
    if "Traceback" in said and not _in_python_itself(said):
        tally.faults.append(f"{when}: a traceback: {said[-600:]}")
    if returncode == status and said.count("Interrupted") != 1:
        tally.faults.append(f"{when}: said {said[-300:]!r}")
    run = place.folder / "out" / "run.json"
    is_ours = run.is_file() and run.stat().st_mtime > begun
    if returncode == status and is_ours and json.loads(run.read_text())["state"] == "running":
        tally.faults.append(f"{when}: run.json says running")


def _in_python_itself(said: str) -> bool:
    """Whether Python was stopped before its first line of ours: no program can do anything about that."""
    return "amp_cli" not in said and "Interrupted" not in said


def contents(out: Path) -> dict[str, bytes]:
    """Return what is compared of every file."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and not path.name.endswith(PASSED_OVER):
            content = path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                content = _without_times(content)
            found[str(path.relative_to(out))] = content
    return found


def _without_times(content: bytes) -> bytes:
    try:
        values = [json.loads(content)]
    except json.JSONDecodeError:  # one on each line
        values = [json.loads(line) for line in content.splitlines()]
    return "\n".join(json.dumps(_lasting(value)) for value in values).encode()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(one) for name, one in value.items() if name not in VOLATILE}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


class Torment:
    """A command's trials in one place."""

    def __init__(self, place: Place, chance: random.Random, stops: int) -> None:
        self.place, self.chance, self.stops = place, chance, stops
        self.tally = Tally()
        self.expected: dict[str, bytes] = {}

    @property
    def is_over(self) -> bool:
        return self.tally.stops.total() >= self.stops or (bool(self.tally.faults) and not self.expected)

    def trial(self) -> None:
        """Stop the command some times, and compare its end; before the first trial it is run unbroken."""
        place, tally = self.place, self.tally
        if not self.expected:
            status, said, tally.seconds = place.to_end()
            if status not in (0, 3):
                tally.faults.append(f"unbroken: status {status}: {said[-600:]}")
                return
            self.expected = contents(place.folder / "out")
            tally.files = len(self.expected)
        place.forget()
        for _ in range(min(self.chance.randint(4, 8), self.stops - tally.stops.total())):
            stop(place, self.chance.choice(list(KINDS)), self.chance.uniform(0.02, 1.0) * tally.seconds, tally)
        status, said, _ = place.to_end()
        tally.trials += 1
        if status not in (0, 3):
            tally.faults.append(f"the same command again: status {status}: {said[-600:]}")
            return
        found = contents(place.folder / "out")
        tally.differing += [name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name)]
        if place.command.pays:
            tally.paid_twice += sum(count - 1 for count in Counter(place.server.paid).values())


def both_at_once(place: Place) -> str:
    """Start the command twice in one folder; say how both ended, and what was paid twice."""
    place.forget()
    pair = [place.start(), place.start()]
    said, statuses = [one.communicate(timeout=600)[1] for one in pair], [one.returncode for one in pair]
    twice = sum(count - 1 for count in Counter(place.server.paid).values())
    refusal = next((text.strip().splitlines()[-2:] for text, code in zip(said, statuses, strict=True) if code), "")
    return f"statuses {statuses}, {twice} paid twice; {refusal}"


@contextmanager
def workshop() -> Iterator[tuple[Path, JudgeServer, dict[str, Command]]]:
    """Yield a folder, a judge, and all commands, whose inputs are made."""
    with tempfile.TemporaryDirectory(prefix="amp-torture-") as name, JudgeServer(delay=0.05) as server:
        inputs = Path(name) / "inputs"
        inputs.mkdir()
        yield Path(name), server, commands(inputs, server.url)


def make_inputs(folder: Path, server: JudgeServer, every: dict[str, Command], chosen: Collection[str]) -> None:
    """Train and evaluate once, and write a LLaVA checkpoint of random weights, where a command reads that."""
    if "convert" in chosen:
        from tests.support.llava_checkpoints import random_checkpoint

        random_checkpoint(folder / "inputs" / "llava", hidden=512, layers=6)
    for name, made, readers in (
        ("train mdpo", "trained", {"merge-lora", "report"}),
        ("eval pope, 2 processes", "evaluated", {"report"}),
    ):
        if not readers & set(chosen):
            continue
        place = Place(folder / "made", every[name], server)
        status, said, _ = place.to_end()
        assert status in (0, 3), said
        (place.folder / "out").rename(folder / "inputs" / made)
        place.forget()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=130, help="stops in all")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no new trial begins")
    parser.add_argument("--only", action="append", metavar="NAME", help="a command; repeatable (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    begin = time.monotonic()
    with workshop() as (folder, server, every):
        chosen = {name: every[name] for name in given.only or every}
        make_inputs(folder, server, every, chosen)
        stops = -(-given.kills // len(chosen))
        deadline = begin + 60 * given.minutes
        torments = {
            name: Torment(
                Place(folder / name.replace(" ", "-"), one, server), random.Random(f"{given.seed} {name}"), stops
            )
            for name, one in chosen.items()
        }
        waiting = Queue[str]()
        for name in chosen:
            waiting.put(name)

        def work() -> None:
            with suppress(Empty):
                while time.monotonic() < deadline:
                    name = waiting.get_nowait()
                    torments[name].trial()
                    print(f"{time.monotonic() - begin:5.0f} s  {name}: {torments[name].tally.stops}", file=sys.stderr)
                    if not torments[name].is_over:
                        waiting.put(name)  # behind the others: all get their turn before one gets a second

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work), pool.submit(work)]:
                done.result()
        tallies = {name: one.tally for name, one in torments.items()}
        twice = {
            name: both_at_once(Place(folder / "both", chosen[name], server))
            for name in ("eval mmhal, judge", "generate-prefs meg")
            if name in chosen
        }
    show(tallies, twice)
    return int(any(tally.differing or tally.faults for tally in tallies.values()))


def show(tallies: dict[str, Tally], twice: dict[str, str]) -> None:
    rows = [list(COLUMNS), *(tally.row(name) for name, tally in tallies.items())]
    total = sum(tally.stops.total() for tally in tallies.values())
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    print(f"\n{total} stops; {psutil.cpu_count()} cores, load {os.getloadavg()[1]:.1f} over the last five minutes")
    for name, text in twice.items():
        print(f"two at once, {name}: {text}")
    said = [(name, text) for name, one in tallies.items() for text in (*dict.fromkeys(one.differing), *one.faults)]
    print("\n".join(f"- {name}: {text}" for name, text in said))


if __name__ == "__main__":
    sys.exit(main())
