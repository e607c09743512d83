"""Imports a generated file of a million records and says how long it took and how much memory it needed.

    python tests/bench/prefs_import.py [RECORDS] [--json]

Each way runs in a process of its own; the peak is the whole process's (resident). `list` and `lines` are pairs of
VL-RLHF's plain_dpo, `grouped` RLAIF-V's, three pairs to a prompt, far apart, which become one item of four levels.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WAYS = ("lines", "list", "grouped")
IMPORT = """
import resource, sys
from pathlib import Path
from amp_cli.preferences.formats.importing import import_preferences
result = import_preferences(sys.argv[1], Path(sys.argv[2]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(result.items, result.rejected, used.ru_maxrss // 1024, round(used.ru_utime + used.ru_stime))
"""


def main() -> None:
    numbers = [argument for argument in sys.argv[1:] if argument.isdigit()]
    count = int(numbers[0]) if numbers else 1_000_000
    results = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / ("data.json" if way == "list" else "data.jsonl")
            _write(source, way, count)
            started = time.perf_counter()
            command = [sys.executable, "-c", IMPORT, str(source), str(Path(folder) / "out")]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds = time.perf_counter() - started
            items, rejected, peak, cpu_seconds = (int(word) for word in said.split())
            results[way] = {
                "records": count,
                "megabytes": source.stat().st_size >> 20,
                "items": items,
                "rejected": rejected,
                "seconds": round(seconds, 1),
                "cpu_seconds": cpu_seconds,
                "peak_memory_mb": peak,
            }
        if "--json" not in sys.argv:
            print(way, *(f"{name} {value:,}" for name, value in results[way].items()), sep="  ", flush=True)
    if "--json" in sys.argv:
        print(json.dumps(results))


def _write(path: Path, way: str, count: int) -> None:
    between = ",\n" if way == "list" else "\n"
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n" if way == "list" else "")
        for number, record in enumerate(_records(way, count)):
            file.write((between if number else "") + json.dumps(record))
        file.write("\n]\n" if way == "list" else "\n")


def _records(way: str, count: int) -> Iterator[dict[str, str]]:
    filler = "It stands on a wooden table beside a window, and there is a cup of coffee next to it. " * 3
    for number in range(count):
        if way == "grouped":
            prompts = count // 3
            level, prompt = divmod(number, prompts)
            yield {
                "idx": str(number),
                "image": f"images/{prompt}.jpg",
                "question": f"What is on image {prompt}?",
                "chosen": f"Answer {level} of {prompt}. {filler}",
                "rejected": f"Answer {level + 1} of {prompt}. {filler}",
            }
        else:
            yield {
                "id": f"item-{number}",
                "image": f"images/{number}.jpg",
                "prompt": f"<image>\nWhat is on image {number}?",
                "chosen": f"A dog. {filler}",
                "rejected": f"A cat. {filler}",
            }


if __name__ == "__main__":
    main()
