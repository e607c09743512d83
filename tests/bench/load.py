"""Measures large inputs: peak memory and CPU seconds of a command at two sizes, and how both grow in between.

python tests/bench/load.py [pope] [report] [view] [train] [--tenth]

Each command runs in a process of its own; a table row gives its peak (the largest process), and the growth per
1,000 entries from the smaller size to the larger. --tenth takes a tenth of each size, to try it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

THINGS = ("dog", "cat", "car", "bus", "chair", "table", "cup", "bird", "boat", "clock")
SPLITS = ("random", "popular", "adversarial")
SENTENCE = "a brown dog lies on the grass beside two cups and a small red ball while people walk past the old clock"
KIBIBYTES = 1024
Arguments = list[str]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a command took: the peak of its largest process in MB, CPU seconds of all its processes."""

    megabytes: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """A command at two sizes; `prepare` writes its input of so many entries into a folder and returns the command."""

    name: str
    unit: str
    sizes: tuple[int, int]
    prepare: Callable[[Path, int], Arguments]


def measure(arguments: Arguments, folder: Path) -> Taken:
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from amp_cli.main import main; main()", *arguments], stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"amp {' '.join(arguments)} failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return Taken(megabytes=usage.ru_maxrss / KIBIBYTES, seconds=usage.ru_utime + usage.ru_stime)


def _write_lines(path: Path, lines: "list[dict[str, object]]") -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def pope(folder: Path, count: int) -> Arguments:
    answers: list[dict[str, object]] = []
    questions: list[dict[str, object]] = []
    for split_number, split in enumerate(SPLITS):
        labels: list[dict[str, object]] = []
        for number in range(split_number, count, len(SPLITS)):
            image, thing = f"COCO_val2014_{number // len(THINGS):012}.jpg", THINGS[number % len(THINGS)]
            text = f"Is there a {thing} in the image?"
            labels.append({"question_id": number, "image": image, "text": text, "label": ("yes", "no")[number % 2]})
            questions.append({"question_id": number, "image": image, "text": text, "category": split})
            answers.append(
                {"question_id": number, "prompt": text, "text": ("Yes.", "No, there is not.")[number // 2 % 2]}
            )
        _write_lines(folder / f"coco_pope_{split}.json", labels)
    _write_lines(folder / "questions.jsonl", questions)
    _write_lines(folder / "answers.jsonl", answers)
    return [
        *("eval", "pope", "--data", str(folder), "--questions", str(folder / "questions.jsonl")),
        *("--answers", str(folder / "answers.jsonl"), "--out", str(folder / "out")),
    ]


ITEMS_OF_A_RUN = 9000


def report(folder: Path, count: int) -> Arguments:
    arguments = pope(folder, ITEMS_OF_A_RUN)
    runs = []
    for number in range(count):
        runs.append(str(folder / f"run{number}"))
        measure([*arguments[:-1], runs[-1]], folder)
    return ["report", *runs, "--html", str(folder / "report.html")]


def _preferences(folder: Path, count: int) -> Path:
    for number in range(20):
        Image.new("RGB", (224, 224), (number * 10, 80, 90)).save(folder / f"{number}.png")
    path = folder / "preferences.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            texts = [" ".join(SENTENCE.split()[(number + level) % 8 : 12 + level * 2]) for level in range(4)]
            record = {
                "id": str(number),
                "images": [f"{number % 20}.png"],
                "questions": [f"Describe image {number}."],
                "levels": [
                    {"answers": [f"{text} {number} {level}"], "source": f"s{level}"} for level, text in enumerate(texts)
                ],
            }
            stream.write(json.dumps(record) + "\n")
    return path


def view(folder: Path, count: int) -> Arguments:
    prefs = _preferences(folder, count)
    return ["prefs", "view", str(prefs), "--limit", str(count), "--out", str(folder / "page.html")]


def train(folder: Path, count: int) -> Arguments:
    prefs = _preferences(folder, count)
    steps = ["--set", "max_steps=1", "--set", "global_batch_size=4", "--set", "reference=online"]
    return ["train", "--size", "tiny", "--prefs", str(prefs), "--out", str(folder / "run"), *steps]


LOADS = (
    Load(name="pope", unit="answers", sizes=(10_000, 100_000), prepare=pope),
    Load(name="report", unit="runs of 9,000 answers", sizes=(2, 20), prepare=report),
    Load(name="view", unit="items", sizes=(5_000, 50_000), prepare=view),
    Load(name="train", unit="preferences", sizes=(30_000, 300_000), prepare=train),
)


def main(arguments: list[str]) -> None:
    divisor = 10 if "--tenth" in arguments else 1
    wanted = [argument for argument in arguments if not argument.startswith("--")] or [load.name for load in LOADS]
    print(f"{'command':<8} {'entries':>10} {'peak MB':>9} {'CPU s':>8}   growth per 1,000 entries")
    for load in (load for load in LOADS if load.name in wanted):
        taken: list[tuple[int, Taken]] = []
        for size in load.sizes:
            count = max(1, size // divisor)
            with tempfile.TemporaryDirectory() as name:
                taken.append((count, measure(load.prepare(Path(name), count), Path(name))))
            row = f"{load.name:<8} {count:>10,} {taken[-1][1].megabytes:>9,.0f} {taken[-1][1].seconds:>8.1f}"
            print(row if len(taken) == 1 else f"{row}   {growth(*taken)} ({load.unit})", flush=True)


def growth(small: tuple[int, Taken], large: tuple[int, Taken]) -> str:
    thousands = (large[0] - small[0]) / 1000
    megabytes = (large[1].megabytes - small[1].megabytes) / thousands
    return f"{megabytes:.2f} MB, {(large[1].seconds - small[1].seconds) / thousands:.2f} CPU s"


if __name__ == "__main__":
    main(sys.argv[1:])
