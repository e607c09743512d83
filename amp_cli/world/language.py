"""What is said about a scene: captions, questions and answers, all of them true, and the words they are made of."""

from __future__ import annotations

import random
from dataclasses import dataclass

from amp_cli.world.scenes import CATEGORIES, CELLS, COLOURS, COMPANIONS, THEMES, Scene, SceneObject

DESCRIBE = "describe this image in detail."
PLURALS: dict[str, str] = {category: category + "s" for category in CATEGORIES} | {"person": "people", "fish": "fishes"}
SINGULARS: dict[str, str] = {category: category for category in CATEGORIES} | {
    plural: category for category, plural in PLURALS.items()
}
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three")
ROWS: tuple[str, ...] = ("top", "middle", "bottom")
COLUMNS: tuple[str, ...] = ("left", "center", "right")

Turn = tuple[str, str]  # question, answer


@dataclass(frozen=True, kw_only=True)
class Curiosity:
    """What yes/no questions ask about: companions of something present, something present, or else any category."""

    companion: float
    present: float


BALANCED = Curiosity(companion=0.28, present=0.42)  # about half of the answers are yes
EXPECTING = Curiosity(companion=0.45, present=0.10)  # people ask about what they expect to find


def place_name(row: int, column: int) -> str:
    """A cell in words, such as "top left"."""
    return f"{ROWS[row]} {COLUMNS[column]}"


def object_sentence(thing: SceneObject) -> str:
    """The sentence of a caption that tells of one object."""
    number = len(thing.instances)
    if number > 1:
        return f"there are {NUMBERS[number]} {thing.colour} {PLURALS[thing.category]}."
    first = thing.instances[0]
    return f"there is a {thing.colour} {thing.category} at the {place_name(first.row, first.column)}."


def theme_sentence(scene: Scene) -> str:
    """The first sentence of a caption."""
    return f"the image shows a {scene.theme} scene."


def full_caption(scene: Scene) -> str:
    """A caption of everything that is in the scene, in sight or not."""
    return " ".join([theme_sentence(scene), *(object_sentence(thing) for thing in scene.objects)])


def existence_question(category: str) -> str:
    """POPE's question."""
    return f"is there a {category} in the image?"


def existence_turn(scene: Scene, category: str) -> Turn:
    """POPE's question with its true answer."""
    if category in scene.categories:
        return existence_question(category), f"yes, there is a {category} in the image."
    return existence_question(category), f"no, there is no {category} in the image."


def detail_turn(scene: Scene, rng: random.Random) -> Turn:
    """A short question about colour, place, number or one cell, with its true answer."""
    kind = rng.choice(["colour", "where", "count", "cell"])
    if kind == "cell":
        return _cell_turn(scene, rng)
    single = [thing for thing in scene.objects if len(thing.instances) == 1]
    if kind == "where" and single:
        thing = rng.choice(single)
        first = thing.instances[0]
        place = place_name(first.row, first.column)
        return f"where is the {thing.category}?", f"the {thing.category} is at the {place}."
    thing = rng.choice(scene.objects)
    number, plural = len(thing.instances), PLURALS[thing.category]
    if kind == "count":
        told = f"there is one {thing.category}." if number == 1 else f"there are {NUMBERS[number]} {plural}."
        return f"how many {plural} are there?", told
    if number == 1:
        return f"what color is the {thing.category}?", f"the {thing.category} is {thing.colour}."
    return f"what color are the {plural}?", f"the {plural} are {thing.colour}."


def _cell_turn(scene: Scene, rng: random.Random) -> Turn:
    row, column = rng.randrange(CELLS), rng.randrange(CELLS)
    if rng.random() < 0.6:  # most cells are empty; ask about a full one more often
        instance = rng.choice(rng.choice(scene.objects).instances)
        row, column = instance.row, instance.column
    here = [t for t in scene.objects if any((one.row, one.column) == (row, column) for one in t.instances)]
    answer = f"a {here[0].colour} {here[0].category}." if here else "nothing."
    return f"what is at the {place_name(row, column)}?", answer


def dialogue(scene: Scene, rng: random.Random, *, curiosity: Curiosity = BALANCED) -> list[Turn]:
    """One detail question, or two different yes/no questions and a detail question.

    The yes/no questions come first and are drawn independently, so that no earlier turn gives an answer away.
    """
    if rng.random() < 0.3:
        return [detail_turn(scene, rng)]
    first = _asked_category(scene, rng, curiosity)
    second = first
    while second == first:
        second = _asked_category(scene, rng, curiosity)
    return [existence_turn(scene, first), existence_turn(scene, second), detail_turn(scene, rng)]


def _asked_category(scene: Scene, rng: random.Random, curiosity: Curiosity) -> str:
    present = sorted(scene.categories)
    draw = rng.random()
    if draw < curiosity.companion:
        return COMPANIONS[rng.choice(present)]
    if draw < curiosity.companion + curiosity.present:
        return rng.choice(present)
    return rng.choice(CATEGORIES)


def vocabulary() -> list[str]:
    """Every word and mark of the world's texts and of the two speakers' names, sorted."""
    frame = (
        f"user: assistant: {DESCRIBE} the image shows a scene there is are at of yes no in how many what where nothing"
    )
    words = set(frame.replace(".", " ").split()) | {".", ",", "?", "color"}
    words |= {*CATEGORIES, *PLURALS.values(), *COLOURS, *NUMBERS, *ROWS, *COLUMNS, *THEMES}
    return sorted(words)
