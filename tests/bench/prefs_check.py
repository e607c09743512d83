"""Measures `amp prefs check` on made-up items of 4 levels with images of 640 x 480: seconds and peak memory.

python tests/bench/prefs_check.py [items] [images] [--benchmark]

With --benchmark, every image is also compared with 500 others.
"""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from autocheck_speed import made_up_caption
from PIL import Image

from amp_cli.preferences.check.check import CheckSettings, check

BENCHMARK = 500
MEGABYTE = 1024  # ru_maxrss is in KiB


def write_images(folder: Path, count: int, seed: int) -> None:
    """Write JPEGs as large as COCO's: smooth noise, so that each has its own look."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


def write_items(path: Path, items: int, images: int) -> None:
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(items):
            record = {
                "id": str(number),
                "images": [f"images/{number % images}.jpg"],
                "questions": [f"Describe image {number} in detail."],
                "levels": [{"answers": [made_up_caption(rng)], "source": f"source {level}"} for level in range(4)],
            }
            stream.write(json.dumps(record) + "\n")


def main(items: int, images: int, *, with_benchmark: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", images, 0)
        write_items(folder / "preferences.jsonl", items, images)
        benchmarks: tuple[Path, ...] = ()
        if with_benchmark:
            write_images(folder / "benchmark", BENCHMARK, 1)
            benchmarks = (folder / "benchmark",)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
        start, processor = time.perf_counter(), time.process_time()
        report = check(CheckSettings(source=str(folder / "preferences.jsonl"), max_length=4096, benchmarks=benchmarks))
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
    print(f"{items} items, {images} images: {seconds:.1f} s ({processor:.1f} s of processor time)")
    print(f"peak {peak:.0f} MB ({before:.0f} MB before), {len(report.warnings)} warnings, {report.rejected} faulty")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    main(*(numbers + [10_000, 2_000][len(numbers) :]), with_benchmark="--benchmark" in sys.argv)
