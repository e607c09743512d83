"""Holds what is said against what is there: mentioned objects, true sentences, and the standard caption of a scene."""

from __future__ import annotations

import re
from dataclasses import dataclass

from amp_cli.world.language import (
    COLUMNS,
    NUMBERS,
    ROWS,
    SINGULARS,
    object_sentence,
    place_name,
    theme_sentence,
)
from amp_cli.world.scenes import COLOURS, Scene, SceneObject, random_stream

_SENTENCE = re.compile(r"[^.?!]+[.?!]?")
_PLACE = re.compile(rf"\bat the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b")
_THEME = re.compile(r"\bshows an? (\w+) scene\b")


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
