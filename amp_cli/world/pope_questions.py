"""Which objects POPE asks about: as many absent as present ones, the absent chosen by three rules."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from amp_cli.world.scenes import CATEGORIES, Scene, random_stream, sample_biased

SPLITS: tuple[str, ...] = ("random", "popular", "adversarial")
_PER_SCENE = 3  # at most so many present and as many absent objects, as in the official files


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
