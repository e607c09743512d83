"""Writes the drawn world as data in the official formats: pictures, LLaVA conversations, POPE's and COCO's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import write_json, write_text
from amp_cli.world.language import DESCRIBE, PLURALS, existence_question
from amp_cli.world.pope_questions import choose_questions
from amp_cli.world.scenes import CATEGORIES, PICTURE_SIZE, THEMES, Scene, random_stream, sample_neutral
from amp_cli.world.truth import standard_caption

IMAGES_FOLDER = "images"
FIRST_TRAINING_IMAGE = 1
FIRST_EVALUATION_IMAGE = 500_001  # so that no number stands for two pictures
CATEGORY_IDS: dict[str, int] = {category: index for index, category in enumerate(CATEGORIES, start=1)}


def image_name(image_id: int) -> str:
    """A picture's file name in COCO's manner."""
    return f"{image_id:012d}.png"


def write_training_scenes(out: Path, *, scenes: int, seed: int) -> list[Scene]:
    """Write `images/`, COCO's `instances.json` and `synonyms.json`, for pictures to learn from.

    The scenes are neutral: companions are independent. `write_standards` writes the conversations.
    """
    rng = random_stream("training scenes", seed)
    sampled = [sample_neutral(rng) for _ in range(scenes)]
    _write_images(out, sampled, first_image=FIRST_TRAINING_IMAGE)
    _write_truth(out, sampled, first_image=FIRST_TRAINING_IMAGE)
    return sampled


def training_ids(scenes: int) -> list[str]:
    """The pictures' ids (as COCO numbers them, as text), in the scenes' order."""
    return [str(FIRST_TRAINING_IMAGE + index) for index in range(scenes)]


def write_standards(path: Path, scenes: Sequence[Scene], captions: Mapping[str, str], *, noticed: float) -> None:
    """Write LLaVA conversations for training scenes; the answers are the captions (by id), mended."""
    conversations = []
    for index, (item_id, scene) in enumerate(zip(training_ids(len(scenes)), scenes, strict=True)):
        standard = standard_caption(scene, captions[item_id], noticed=noticed)
        conversations.append(
            {
                "id": item_id,
                "image": f"{IMAGES_FOLDER}/{image_name(FIRST_TRAINING_IMAGE + index)}",
                "conversations": [
                    {"from": "human", "value": f"<image>\n{DESCRIBE}"},
                    {"from": "gpt", "value": standard},
                ],
            }
        )
    write_json(path, conversations)


def write_evaluation(out: Path, *, scenes: int, seed: int) -> list[Scene]:
    """Write held-out scenes: `images/`, POPE's three files, `instances.json`, `synonyms.json`."""
    rng = random_stream("evaluation scenes", seed)
    sampled = [sample_neutral(rng) for _ in range(scenes)]
    names = _write_images(out, sampled, first_image=FIRST_EVALUATION_IMAGE)
    for split, questions in choose_questions(sampled, random_stream("evaluation questions", seed)).items():
        lines = [
            {
                "question_id": number,
                "image": names[question.scene],
                "text": existence_question(question.category),
                "label": "yes" if question.present else "no",
            }
            for number, question in enumerate(questions, start=1)
        ]
        write_text(out / f"coco_pope_{split}.json", "".join(json.dumps(line) + "\n" for line in lines))
    _write_truth(out, sampled, first_image=FIRST_EVALUATION_IMAGE)
    return sampled


def _write_truth(out: Path, scenes: Sequence[Scene], *, first_image: int) -> None:
    """What CHAIR needs to know: the things drawn, and the words for them."""
    write_json(out / "instances.json", _instances(scenes, first_image=first_image))
    write_json(out / "synonyms.json", {category: [category, PLURALS[category]] for category in CATEGORIES})


def _write_images(out: Path, scenes: Sequence[Scene], *, first_image: int) -> list[str]:
    from amp_cli.world.drawing import draw

    folder = out / IMAGES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names = [image_name(first_image + index) for index in range(len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        draw(scene).save(folder / name)
    return names


def _instances(scenes: Sequence[Scene], *, first_image: int) -> dict[str, Any]:
    """COCO instances, one annotation for each thing drawn."""
    images = [
        {"id": number, "file_name": image_name(number), "width": PICTURE_SIZE, "height": PICTURE_SIZE}
        for number in range(first_image, first_image + len(scenes))
    ]
    found = [
        (image["id"], thing.category, instance)
        for image, scene in zip(images, scenes, strict=True)
        for thing in scene.objects
        for instance in thing.instances
    ]
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": CATEGORY_IDS[category],
            "bbox": [instance.x, instance.y, instance.size, instance.size],
            "area": instance.size**2,
            "iscrowd": 0,
        }
        for number, (image_id, category, instance) in enumerate(found, start=1)
    ]
    categories = [
        {"id": CATEGORY_IDS[category], "name": category, "supercategory": theme}
        for theme, members in THEMES.items()
        for category in members
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
