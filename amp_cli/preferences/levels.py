"""Turns a standard response and its ranked candidates into levels: empty and near-identical ones leave."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from amp_cli.preferences.autocheck import Mark
from amp_cli.records import Level

STANDARD = "standard"
"""The source of level 0: the data set's own answer."""


@dataclass(frozen=True, kw_only=True)
class LevelDraft:
    """A response that may become a level, and the marks of its noun chunks per round (for the page)."""

    level: Level
    marks: tuple[tuple[Mark, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What is left in quality order, and the sources that were left out."""

    kept: tuple[LevelDraft, ...]
    identical: tuple[str, ...]
    empty: tuple[str, ...]


def choose_levels(drafts: Sequence[LevelDraft]) -> Levels:
    """Keep of near-identical responses the better-ranked one, and drop responses with an empty answer.

    Near-identical: the same words in the same order in every round, whatever the case, spaces and punctuation. Such a
    pair could only teach that one text is better than itself.
    """
    kept: dict[tuple[str, ...], LevelDraft] = {}
    identical: list[str] = []
    empty: list[str] = []
    for draft in drafts:
        words = tuple(_words_only(answer) for answer in draft.level.answers)
        if not all(answer.strip() for answer in draft.level.answers):
            empty.append(draft.level.source)
        elif words in kept:
            identical.append(draft.level.source)
        else:
            kept[words] = draft
    return Levels(kept=tuple(kept.values()), identical=tuple(identical), empty=tuple(empty))


def _words_only(answer: str) -> str:
    """Return the answer in one case, punctuation as spaces, single spaces; unchanged where nothing would be left."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    spaced = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in folded)
    return " ".join(spaced.split()) or folded.strip()
