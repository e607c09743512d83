"""Measures auto-check's items per second on made-up captions of about 100 words, K = 4.

python tests/bench/autocheck_speed.py [items]
"""

import random
import resource
import sys
import time

from amp_cli.preferences.autocheck import Checker, check_items
from amp_cli.preferences.encoders import make_encoder
from amp_cli.preferences.nounchunks import ChunkParser

THINGS = ("dog", "cat", "bicycle", "bench", "umbrella", "bus", "truck", "laptop", "table", "chair", "pizza", "sandwich")
LOOKS = ("red", "blue", "green", "small", "large", "old", "wooden", "shiny", "striped", "broken", "white", "black")
PLACES = (
    "on the left",
    "near a wall",
    "in front of a building",
    "next to a tree",
    "behind the fence",
    "under a bridge",
)
DOINGS = ("which is parked on a street", "standing in the grass", "covered with snow", "that looks new", "near a lamp")


def made_up_caption(rng: random.Random) -> str:
    """Six sentences of about 17 words."""
    sentences = []
    for _ in range(6):
        first, second = rng.sample(THINGS, 2)
        place, doing = rng.choice(PLACES), rng.choice(DOINGS)
        looks = rng.sample(LOOKS, 2)
        sentences.append(f"There is a {looks[0]} {first} {place}, and a {looks[1]} {second} {doing}.")
    return " ".join(sentences)


def main(count: int) -> None:
    rng = random.Random(0)
    items = [((made_up_caption(rng),), [(made_up_caption(rng),) for _ in range(3)]) for _ in range(count)]
    words = sum(len(text.split()) for (text,), _ in items) / count
    checker = Checker(encoder=make_encoder("minilm"), parser=ChunkParser())
    checker.parser.parse(["A dog."])
    checker.encoder.embed(["A dog."])
    started = time.perf_counter()
    chunks = sum(len(marks) for ranked in check_items(items, checker) for one in ranked for marks in one.marks)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{count} items, {words:.0f} words a standard, {chunks / count:.0f} candidate chunks an item")
    print(f"{seconds:.1f} s, {count / seconds:.1f} items/s, peak {peak} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
