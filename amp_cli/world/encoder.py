"""A text encoder that knows the drawn world's own words: what auto-check compares noun chunks and sentences with."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_cli.world.language import COLUMNS, NUMBERS, ROWS, SINGULARS
from amp_cli.world.scenes import CATEGORIES, COLOURS, THEMES

if TYPE_CHECKING:
    import numpy as np

_FUNCTION_WORDS = frozenset(
    re.findall(r"\w+", "a an the there is are was at of in on this that it and with show shows image picture")
)
_NEGATIONS = frozenset({"no", "not", "nothing"})
_OTHER_WORDS = 64  # words from outside the world share this many places, by a checksum
_FEATURES: tuple[str, ...] = (*CATEGORIES, *COLOURS, *NUMBERS, *ROWS, *COLUMNS, *THEMES, "no", "yes", "empty")
_PLACE_IN_ROW = {feature: index for index, feature in enumerate(_FEATURES)}
_WIDTH = len(_FEATURES) + _OTHER_WORDS
_WEIGHTS: dict[str, float] = (
    dict.fromkeys(CATEGORIES, 1.0)
    | dict.fromkeys(COLOURS, 0.7)
    | dict.fromkeys(NUMBERS, 0.7)
    | dict.fromkeys((*ROWS, *COLUMNS), 0.2)
    | dict.fromkeys(THEMES, 1.0)
    | {"no": 1.5, "yes": 0.5, "empty": 1.0}
)
_OTHER_WEIGHT = 0.3


class WorldEncoder:
    """Weighted bags of the world's words; singular and plural are one word, a singular noun means the number one.

    Cosines over the world's chunks and sentences: at least .96 for the same thing, whatever its place; at least .85
    when one side leaves the colour open; at most .76 for another colour or number; at most .52 for another category.
    Hence tau.
    """

    name: str = "world"
    tau: float = 0.80
    language: str = "en"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, features) float32, each row of length 1."""
        import numpy as np

        rows = np.zeros((len(texts), _WIDTH), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for index, weight in _weighted_features(text):
                row[index] += weight
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def _weighted_features(text: str) -> list[tuple[int, float]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    features: list[tuple[int, float]] = []
    number_told = False
    for word in words:
        feature = _known_feature(word)
        if feature is not None:
            features.append((_PLACE_IN_ROW[feature], _WEIGHTS[feature]))
        elif word not in _FUNCTION_WORDS:
            features.append((_place_of_other_word(word), _OTHER_WEIGHT))
        if feature in NUMBERS:
            number_told = True
        elif feature in CATEGORIES:
            if not number_told and word == feature:  # "a car", "the car", "red car": one of it
                features.append((_PLACE_IN_ROW["one"], _WEIGHTS["one"]))
            number_told = False
    if not features:  # only function words, or nothing at all: equal to nothing but itself
        features = [(_place_of_other_word(word), _OTHER_WEIGHT) for word in words]
    return features or [(_PLACE_IN_ROW["empty"], _WEIGHTS["empty"])]


def _known_feature(word: str) -> str | None:
    if word in SINGULARS:
        return SINGULARS[word]
    if word in _NEGATIONS:
        return "no"
    return word if word in _WEIGHTS else None


def _place_of_other_word(word: str) -> int:
    return len(_FEATURES) + zlib.crc32(word.encode()) % _OTHER_WORDS
