"""Generation of many items: memory by their number, and what requests to served experts cost.

    python tests/bench/generation.py memory [ITEMS ...]     # 10,000 and 100,000 when none are given
    python tests/bench/generation.py requests

`memory`: two experts that answer from a script, without auto-check, in a process of its own; the peak of anonymous
memory (RssAnon, looked at every 20 ms), and how much of it each further item takes. `requests`: a stub server process
(or several) that takes 100 ms to reply; CPU seconds are the client's, images and all.
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 500
ANSWER = "There is a dog on the left and a bicycle in front of the door, both of them partly in the shade. " * 3


def main() -> None:
    what, given = sys.argv[1], sys.argv[2:]
    if what == "memory":
        _show_memory([int(one) for one in given] or [10_000, 100_000])
    elif what == "requests":
        _show_requests()
    else:  # in a process of its own
        _generate(*map(Path, given))


def write_data(folder: Path, count: int) -> Path:
    """Write items of about 700 bytes, some to an image."""
    for number in range(min(count, IMAGES)):
        Image.new("RGB", (32, 32), (number % 256, number // 256, 0)).save(folder / f"{number}.png")
    path = folder / "data.jsonl"
    with path.open("w") as file:
        for number in range(count):
            item = {
                "id": f"item-{number:07}",
                "images": [f"{number % IMAGES}.png"],
                "questions": [f"What can be seen in this image, and what stands out in it? Say it in {number} words."],
                "answers": [ANSWER + str(number)],
            }
            file.write(json.dumps(item) + "\n")
    return path


# --- memory ----------------------------------------------------------------------------------------------------------


def _show_memory(counts: list[int]) -> None:
    before: tuple[int, int] | None = None
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            data = write_data(Path(folder), count)
            command = [sys.executable, __file__, "run", str(data), str(Path(folder) / "out")]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        base, peak, cpu = json.loads(said.splitlines()[-1])
        each = "" if before is None else f", {(peak - before[1]) * 1024 / (count - before[0]):,.0f} bytes an item more"
        print(f"{count:>9,} items: {peak / 1024:,.0f} MB (before: {base / 1024:,.0f} MB), {cpu:.0f} CPU s{each}")
        before = count, peak


def _anonymous() -> int:
    """Return this process's anonymous memory, KB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def _generate(data: Path, out: Path) -> None:
    from amp_cli.preferences.experts import Expert
    from amp_cli.preferences.generate import GenerateSettings, generate_preferences
    from amp_cli.records import Answer

    def answering(expert: Expert, folder: Path) -> Any:
        def answer(requests: Any, *, done: Any, on_answer: Any, on_reject: Any) -> None:
            for request in requests:
                if request.id not in done:
                    on_answer(Answer(id=request.id, answers=(f"{expert.name}: {ANSWER}",)))

        return answer

    base, peak, is_over = _anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.02):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    experts = tuple(Expert(name=name, model=name) for name in ("big", "small"))
    settings = GenerateSettings(data=data, out=out, method="meg", experts=experts, auto_check=False)
    generate_preferences(settings, answering=answering)
    is_over.set()
    watcher.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([base, peak, used.ru_utime + used.ru_stime]))


# --- requests --------------------------------------------------------------------------------------------------------


def _serve(url: Any, told: Any) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.support.judge_server import JudgeServer

    with JudgeServer(ANSWER, delay=0.1) as server:
        url.put(server.url)
        told.get()
        url.put((server.busiest, len(server.asked), server.connections))


@contextmanager
def _served(facts: list[tuple[int, int, int]]) -> Iterator[str]:
    url: Any = multiprocessing.Queue()
    told: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=_serve, args=(url, told))
    process.start()
    yield url.get()
    told.put(None)
    facts.append(url.get())
    process.join()


def _show_requests() -> None:
    from amp_cli.asking.answerer import Request, Running
    from amp_cli.asking.endpoint import EndpointAnswerer
    from amp_cli.models.spec import Decoding, ModelSpec

    def ask(model: str, requests: list[Request], concurrency: int) -> tuple[float, float]:
        running = Running(concurrency=concurrency)
        answer = EndpointAnswerer(ModelSpec(model=model), Decoding(), running, lambda **facts: None)
        cpu, wall = time.process_time(), time.perf_counter()
        answers: list[Any] = []
        answer(requests, done=(), on_answer=answers.append, on_reject=lambda item, reason: None)
        assert len(answers) == len(requests)
        return time.process_time() - cpu, time.perf_counter() - wall

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "photo.jpg"
        Image.effect_noise((640, 480), 60).convert("RGB").save(image)
        requests = [Request(id=str(n), images=(image,), questions=(f"Question {n}?",)) for n in range(600)]
        with ExitStack() as stack:  # libraries are imported before anything is measured
            ask(f"{stack.enter_context(_served([]))}#stub", requests[:8], 8)
        for servers, concurrency in ((1, 1), (1, 8), (1, 64), (2, 64), (4, 64)):
            facts: list[tuple[int, int, int]] = []
            asked = requests[: 30 * min(concurrency, 20)]
            with ExitStack() as stack:
                urls = [stack.enter_context(_served(facts)) for _ in range(servers)]
                cpu, wall = ask(f"{','.join(urls)}#stub", asked, concurrency)
            print(
                f"{servers} URL(s), --concurrency {concurrency:>2}: {len(asked) / wall:6.1f} items/s, "
                f"{1000 * cpu / len(asked):5.2f} CPU ms an item, in flight at most "
                f"{'+'.join(str(one[0]) for one in facts)}, connections {'+'.join(str(one[2]) for one in facts)}"
            )


if __name__ == "__main__":
    main()
