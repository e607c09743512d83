"""Writes the drawn world as data in the official formats, with POPE's questions, standard answers and the truth."""

from __future__ import annotations

import functools
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import write_json, write_text
from amp_cli.world.language import (
    COLUMNS,
    DESCRIBE,
    NUMBERS,
    PLURALS,
    ROWS,
    SINGULARS,
    existence_question,
    object_sentence,
    place_name,
    theme_sentence,
)
from amp_cli.world.scenes import (
    CATEGORIES,
    COLOURS,
    PICTURE_SIZE,
    THEMES,
    Scene,
    SceneObject,
    random_stream,
    sample_biased,
    sample_neutral,
)

_SENTENCE = re.compile(r"[^.?!]+[.?!]?")
_PLACE = re.compile(rf"\bat the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b")
_THEME = re.compile(r"\bshows an? (\w+) scene\b")

SPLITS: tuple[str, ...] = ("random", "popular", "adversarial")
_PER_SCENE = 3  # at most so many present and as many absent objects, as in the official files

IMAGES_FOLDER = "images"
FIRST_TRAINING_IMAGE = 1
FIRST_EVALUATION_IMAGE = 500_001  # so that no number stands for two images
CATEGORY_IDS: dict[str, int] = {category: index for index, category in enumerate(CATEGORIES, start=1)}


@dataclass(frozen=True, kw_only=True)
class SaidObject:
    """An object that a text says is there. None where the text leaves a property open."""

    category: str
    colour: str | None
    number: int | None
    place: str | None


def sentences(text: str) -> list[str]:
    """The text's sentences, each with its closing mark."""
    return [sentence.strip() for sentence in _SENTENCE.findall(text) if sentence.strip()]


def mentioned_objects(text: str) -> tuple[SaidObject, ...]:
    """Every object that the text asserts, in order; questions and denials ("there is no car") assert none."""
    mentions = []
    for sentence in sentences(text.lower()):
        words = re.findall(r"[a-z]+", sentence)
        if "no" in words or sentence.endswith("?"):
            continue
        place = _PLACE.search(sentence)
        for position, word in enumerate(words):
            if word in SINGULARS:
                before = words[:position]
                number = next((NUMBERS.index(other) for other in reversed(before) if other in NUMBERS), None)
                mentions.append(
                    SaidObject(
                        category=SINGULARS[word],
                        colour=before[-1] if before and before[-1] in COLOURS else None,
                        number=number,
                        place=f"{place[1]} {place[2]}" if place else None,
                    )
                )
    return tuple(mentions)


def is_true(mention: SaidObject, scene: Scene) -> bool:
    """Whether the scene has what the mention says, colour, number and place included."""
    thing = scene.find(mention.category)
    if thing is None:
        return False
    places = {place_name(one.row, one.column) for one in thing.instances}
    return (
        mention.colour in (None, thing.colour)
        and mention.number in (None, len(thing.instances))
        and (mention.place is None or mention.place in places)
    )


def standard_caption(scene: Scene, caption: str, *, noticed: float) -> str:
    """The standard response for a scene whose describer said `caption`. Every sentence of it is true.

    It is the describer's own caption as an annotator mends it: sentences about things that are not there are deleted, a
    wrong colour, number or place is put right, repetitions go. A sentence is added for a share `noticed` (0..1) of the
    things in plain sight, where they are missing: always the same ones for one scene.
    """
    kept, told = _true_sentences(scene, caption)
    attention = random_stream("annotator", scene.noise_seed)
    seen = [thing for thing in scene.objects if thing.visibility >= 1 and attention.random() < noticed]
    kept += [object_sentence(thing) for thing in seen if thing.category not in told]
    return " ".join(kept or [theme_sentence(scene)])


def _true_sentences(scene: Scene, caption: str) -> tuple[list[str], set[str]]:
    """The caption's sentences, mended or left out, and the categories they tell of."""
    kept: list[str] = []
    told: set[str] = set()
    for sentence in sentences(caption):
        mentions = mentioned_objects(sentence)
        if not mentions and _THEME.search(sentence) and theme_sentence(scene) not in kept:
            kept.append(theme_sentence(scene))
        new = [mention for mention in mentions if mention.category not in told]
        if len(mentions) == len(new) > 0 and all(is_true(mention, scene) for mention in mentions):
            kept.append(sentence)
            told |= {mention.category for mention in mentions}
            continue
        for mention in new:
            thing: SceneObject | None = scene.find(mention.category)
            if thing is not None and thing.category not in told:
                kept.append(object_sentence(thing))
                told.add(thing.category)
    return kept, told


@dataclass(frozen=True, kw_only=True)
class ExistenceQuestion:
    """Whether one category is in one of the scenes; `scene` is its index."""

    scene: int
    category: str
    present: bool


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """How often categories, and pairs of them in either order, occur in the base model's world."""

    single: Counter[str]
    pair: Counter[tuple[str, str]]


@functools.cache
def biased_world_frequencies() -> Frequencies:
    """Counted over 3,000 scenes, always the same."""
    rng = random_stream("frequencies", 0)
    single: Counter[str] = Counter()
    pair: Counter[tuple[str, str]] = Counter()
    for _ in range(3000):
        present = sample_biased(rng).categories
        single.update(present)
        pair.update((a, b) for a in present for b in present if a != b)
    return Frequencies(single=single, pair=pair)


def choose_questions(scenes: Sequence[Scene], rng: random.Random) -> dict[str, list[ExistenceQuestion]]:
    """Each split's questions: absent objects at random, the most frequent ones, or those that most often come along."""
    frequencies = biased_world_frequencies()
    chosen: dict[str, list[ExistenceQuestion]] = {split: [] for split in SPLITS}
    for index, scene in enumerate(scenes):
        present = sorted(scene.categories)
        absent = [category for category in CATEGORIES if category not in present]
        asked = rng.sample(present, min(_PER_SCENE, len(present)))
        rng.shuffle(absent)  # ties fall at random
        frequent = sorted(absent, key=lambda category: -frequencies.single[category])
        expected = sorted(absent, key=lambda category: -sum(frequencies.pair[seen, category] for seen in present))
        for split, candidates in zip(SPLITS, (absent, frequent, expected), strict=True):
            for yes, no in zip(asked, candidates, strict=False):
                chosen[split].append(ExistenceQuestion(scene=index, category=yes, present=True))
                chosen[split].append(ExistenceQuestion(scene=index, category=no, present=False))
    return chosen


def image_name(image_id: int) -> str:
    """An image's file name in COCO's manner."""
    return f"{image_id:012d}.png"


def write_training_scenes(out: Path, *, scenes: int, seed: int) -> list[Scene]:
    """Write `images/`, COCO's `instances.json` and `synonyms.json`, for images to learn from.

    The scenes are neutral: companions are independent. `write_standards` writes the conversations.
    """
    rng = random_stream("training scenes", seed)
    sampled = [sample_neutral(rng) for _ in range(scenes)]
    _write_images(out, sampled, first_image=FIRST_TRAINING_IMAGE)
    _write_truth(out, sampled, first_image=FIRST_TRAINING_IMAGE)
    return sampled


def training_ids(scenes: int) -> list[str]:
    """The images' ids (as COCO numbers them, as text), in the scenes' order."""
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


EVALUATED = ("pope", "chair")
"""The benchmarks that held-out scenes are written for."""


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
