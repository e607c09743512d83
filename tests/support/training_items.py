"""Small preference data for training tests: drawn images, words that the tiny model knows, ragged levels."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from amp_cli.world import files
from amp_cli.world.language import full_caption

ANSWERS = [
    "the image shows a street scene. there is a red dog at the top left.",
    "the image shows a street scene. there is a blue dog at the top left. there is a green ball.",
    "the image shows a park scene. there are two green bottles.",
    "there is a purple kite at the bottom center.",
]
QUESTION = "describe this image in detail."


def preference(number: int, *, levels: int, rounds: int = 1, image: bool = True) -> dict[str, Any]:
    """One line of a preference file; later levels have later answers."""
    picks = [ANSWERS[(number + level) % len(ANSWERS)] for level in range(levels)]
    return {
        "id": f"item-{number}",
        "images": [f"{number}.png"] if image else [],
        "questions": [QUESTION, "is there a dog?"][:rounds],
        "levels": [{"answers": [pick, "yes."][:rounds], "source": "test"} for pick in picks],
    }


def draw(folder: Path, number: int) -> None:
    image = Image.new("RGB", (96, 96), (40 * number % 256, 90, 160))
    image.paste((250, 20 * number % 256, 30), (8 * (number % 6), 10, 8 * (number % 6) + 30, 40))
    image.save(folder / f"{number}.png")


def write_preferences(folder: Path, records: list[dict[str, Any]] | None = None) -> Path:
    """Write images and `prefs.jsonl`; by default eight items of 2 to 4 levels, one of them with two rounds."""
    folder.mkdir(parents=True, exist_ok=True)
    if records is None:
        records = [preference(number, levels=2 + number % 3, rounds=2 if number == 4 else 1) for number in range(8)]
    for number in range(len(records)):
        draw(folder, number)
    path = folder / "prefs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_described(folder: Path, *, scenes: int, seed: int) -> None:
    """Write drawn scenes and `data.json`, which asks what is in them and has standard answers."""
    sampled = files.write_training_scenes(folder, scenes=scenes, seed=seed)
    described = [
        {
            "id": name,
            "images": [f"images/{files.image_name(int(name))}"],
            "questions": [QUESTION],
            "answers": [full_caption(scene)],
        }
        for name, scene in zip(files.training_ids(scenes), sampled, strict=True)
    ]
    (folder / "data.json").write_text(json.dumps(described))
