"""Synthetic preference files for tests and measurements: plausible lengths, a few shared images, any size."""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

THINGS = (
    "dog",
    "cat",
    "bicycle",
    "table",
    "lamp",
    "bottle",
    "fire truck",
    "kite",
    "boat",
    "horse",
    "small bird",
    "bowl",
)
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "brown", "orange", "purple", "grey")
PLACES = (
    "on the left",
    "in the middle",
    "near the open window",
    "behind the fence",
    "under a tree",
    "nearby",
    "outside",
)


def write_preferences(folder: Path, *, items: int, images: int, seed: int = 0) -> Path:
    """Write `preferences.jsonl` and its `images/`; 2 to 5 levels, 1 to 3 rounds, one item in ten without an image."""
    draw = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(images):
        _draw_image(folder / "images" / f"{number:05}.jpg", draw)
    path = folder / "preferences.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for number in range(items):
            stream.write(json.dumps(_item(number, images, draw)) + "\n")
    return path


def _draw_image(path: Path, draw: random.Random) -> None:
    image = Image.new("RGB", (640, 480), draw.choice(COLOURS))
    pen = ImageDraw.Draw(image)
    for _ in range(25):
        left, top, size = draw.randrange(600), draw.randrange(440), draw.randrange(20, 160)
        shape = draw.choice((pen.ellipse, pen.rectangle))
        shape((left, top, left + size, top + size), fill=draw.choice(COLOURS), outline="black")
    image.save(path, quality=88)


def _item(number: int, images: int, draw: random.Random) -> dict[str, Any]:
    rounds = draw.choice((1, 1, 1, 1, 2, 3))
    best = [[_sentence(draw) for _ in range(draw.randint(2, 7))] for _ in range(rounds)]
    levels = [{"answers": [" ".join(answer) for answer in best], "source": "standard"}]
    for place in range(1, draw.choice((2, 3, 4, 4, 4, 5))):
        answers = [" ".join(_worse(answer, place, draw)) for answer in best]
        accuracy = round(max(0.0, 1 - 0.2 * place - 0.1 * draw.random()), 3)
        level = {"answers": answers, "source": ("llava-13b", "llava-7b", "qwen2-vl-2b", "tiny")[place - 1]}
        levels.append({**level, "accuracy": accuracy, "score": round(min(1.0, accuracy + 0.1), 3)})
    return {
        "id": f"item-{number:05}",
        "images": [] if number % 10 == 9 or not images else [f"images/{number % images:05}.jpg"],
        "questions": [f"{draw.choice(('What is', 'Describe what is'))} {draw.choice(PLACES)}?" for _ in range(rounds)],
        "levels": levels,
        "meta": {"dataset": draw.choice(("sharegpt4v", "rlhf-v", "llava-instruct")), "row": number},
    }


def _sentence(draw: random.Random) -> str:
    first, second = draw.choice(THINGS), draw.choice(THINGS)
    colour, other = draw.choice(COLOURS), draw.choice(COLOURS)
    return (
        f"There is a {colour} {first} {draw.choice(PLACES)}, and a {other} {second} can be seen {draw.choice(PLACES)}."
    )


def _worse(answer: list[str], changes: int, draw: random.Random) -> list[str]:
    worse = [*answer]
    for _ in range(changes):
        worse[draw.randrange(len(worse))] = _sentence(draw)
    return worse[: max(1, len(worse) - draw.randint(0, 1))] + ([_sentence(draw)] if draw.random() < 0.4 else [])
