"""Finds the objects that a text names: longest name first, singular and plural alike, denials told apart."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "calves": "calf",
    "knives": "knife",
    "wives": "wife",
    "buses": "bus",
    "busses": "bus",
}
_ENDS_IN_S = frozenset(
    {"bus", "minibus", "scissors", "shears", "tennis", "glass", "wineglass", "canvas", "grass", "dress"}
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_STOP = re.compile(r"[.;:!?\n]|\s-\s|—|–")
_DENIALS = frozenset({"no", "not", "without", "neither", "nor", "never", "cannot", "none"})
_DENIALS |= {"lack", "lacks", "lacking", "absence", "devoid"}
_INSTEAD = {"instead": "of", "rather": "than"}
_NO_DENIAL_BEFORE = frozenset({"only", "just", "merely", "doubt", "longer", "one"})
_CLAUSE_BEGINS = frozenset({"there", "i", "it", "we"})
_PREPOSITIONS = r"""
    on in at near next behind beside besides under above below beneath over by with to from along around between among
    across toward towards against inside outside through
"""
_SCOPE_ENDS = frozenset(re.findall(r"\w+", _PREPOSITIONS)) | {
    "but",
    "although",
    "while",
    "whereas",
    "however",
    "instead",
    "except",
}
_DETERMINERS = frozenset(
    {"a", "an", "the", "one", "two", "three", "four", "five", "several", "some", "many", "another"}
)
_ABSENT = re.compile(
    r"\s+(?:(?:is|are|was|were) (?:not|no longer|nowhere)|isn't|aren't|wasn't|weren't|cannot be|can't be)"
    r" (?:\w+ )?(?:visible|present|seen|shown|there|found|pictured|in (?:the|this) (?:image|picture|photo|scene))\b"
    r"|\s+(?:is|are) (?:absent|missing|nowhere)\b"
    r"|\s+(?:does not|doesn't|do not|don't) (?:appear|exist)\b(?! to (?!be (?:visible|present|shown|there|in)\b))",
)
_COLOURS = frozenset({"white", "black", "red", "blue", "green", "yellow", "brown", "grey", "gray", "pink", "purple"})
_FRUIT_OR_COLOUR = "orange"


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An object named at `text[start:end]`; `denied` when the sentence says that it is not there."""

    name: str
    start: int
    end: int
    denied: bool


@dataclass(frozen=True)
class Vocabulary:
    """Object -> the words that name it, and longer names that are no object."""

    words: Mapping[str, Sequence[str]]
    not_objects: Sequence[str] = ()

    @cached_property
    def names(self) -> dict[tuple[str, ...], str | None]:
        """Singular words of a name -> the object, or None for a name that is not an object."""
        names: dict[tuple[str, ...], str | None] = {name_of(phrase): None for phrase in self.not_objects}
        for name, phrases in self.words.items():
            names |= {name_of(phrase): name for phrase in (name, *phrases)}
        return names

    @cached_property
    def longest(self) -> int:
        """The number of words of the longest name."""
        return max((len(name) for name in self.names), default=0)


def singular(word: str) -> str:
    """Return a noun's singular by rule: enough to match names against names, no dictionary."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("men"):
        return word[:-3] + "man"
    if word in _ENDS_IN_S or len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    return word[:-1]


def find_mentions(text: str, vocabulary: Vocabulary) -> list[Mention]:
    """Return every object the text names, in order, repetitions included."""
    lowered = text.lower().replace("’", "'")
    tokens = [(match[0], match.start(), match.end()) for match in _WORD.finditer(lowered)]
    singulars = [singular(word.removesuffix("'s")) for word, _, _ in tokens]
    mentions = []
    position = 0
    while position < len(tokens):
        length = _match_length(
            singulars[position : _phrase_end(lowered, tokens, position, vocabulary.longest)], vocabulary
        )
        name = vocabulary.names[tuple(singulars[position : position + length])] if length else None
        if name is not None and not _is_colour(name, lowered, tokens, position):
            start, end = tokens[position][1], tokens[position + length - 1][2]
            denied = _denied_before(lowered, tokens, position) or _ABSENT.match(lowered, end) is not None
            mentions.append(Mention(name=name, start=start, end=end, denied=denied))
        position += max(length, 1)
    return mentions


def is_denied(text: str, start: int, end: int) -> bool:
    """Return whether a text says of what it names at `text[start:end]` that it is not there."""
    lowered = text.lower().replace("’", "'")
    tokens = [(match[0], match.start(), match.end()) for match in _WORD.finditer(lowered)]
    position = next((number for number, (_, _, last) in enumerate(tokens) if last > start), None)
    if position is None:
        return False
    return _denied_before(lowered, tokens, position) or _ABSENT.match(lowered, end) is not None


def count_words(text: str) -> int:
    """Return the number of words, numbers included."""
    return len(re.findall(r"\w+(?:['’-]\w+)*", text))


def names_in(texts: Iterable[str], vocabulary: Vocabulary, *, with_denied: bool = False) -> set[str]:
    """Return the objects that any of the texts names, and does not deny unless those count too."""
    mentions = (mention for text in texts for mention in find_mentions(text, vocabulary))
    return {mention.name for mention in mentions if with_denied or not mention.denied}


def name_of(phrase: str) -> tuple[str, ...]:
    """Return a name as its words in the singular: what makes two spellings the same name."""
    return tuple(singular(word) for word in _WORD.findall(phrase.lower()))


def _phrase_end(text: str, tokens: Sequence[tuple[str, int, int]], position: int, longest: int) -> int:
    """Return where the words end that only blanks or hyphens part, `longest` at most: no name reaches over a comma."""
    end = position + 1
    while end < min(len(tokens), position + longest) and text[tokens[end - 1][2] : tokens[end][1]].strip() in ("", "-"):
        end += 1
    return end


def _match_length(singulars: Sequence[str], vocabulary: Vocabulary) -> int:
    """Return how many words the longest name has that `singulars` begins with, 0 where none does."""
    for length in range(min(vocabulary.longest, len(singulars)), 0, -1):
        if tuple(singulars[:length]) in vocabulary.names:
            return length
    return 0


def _is_colour(name: str, text: str, tokens: Sequence[tuple[str, int, int]], position: int) -> bool:
    """Tell "an orange shirt" and "an orange and white cat" from the fruit, which is plural or ends its phrase."""
    word, _, end = tokens[position]
    if name != _FRUIT_OR_COLOUR or word != _FRUIT_OR_COLOUR:
        return False
    before = tokens[position - 1][0] if position else ""
    if before not in _DETERMINERS and before not in ("sliced", "peeled", "fresh", "ripe", "whole", "half"):
        return True
    if position + 1 == len(tokens) or not text[end : tokens[position + 1][1]].isspace():
        return False
    following = tokens[position + 1][0]
    if following == "and" and position + 2 < len(tokens):
        return tokens[position + 2][0] in _COLOURS
    return following not in _SCOPE_ENDS | {"is", "are", "has", "sits", "lies", "or", "that", "which", "of", "and"}


REACH = 200
"""Words that a denial is looked for in: no sentence is longer, a model that repeats itself without end is."""


def _denied_before(text: str, tokens: Sequence[tuple[str, int, int]], position: int) -> bool:
    """Look back for a denial that still reaches here: "no cars, trucks or people", "isn't a dog", "without a leash"."""
    for index in range(position - 1, max(position - 1 - REACH, -1), -1):
        word, _, end = tokens[index]
        between = text[end : tokens[index + 1][1]]
        if _STOP.search(between) or ("," in between and not _in_list(text, tokens, index + 1)):
            return False
        if _INSTEAD.get(word) == tokens[index + 1][0]:
            return True
        if word in _DENIALS or word.endswith("n't"):
            return tokens[index + 1][0] not in _NO_DENIAL_BEFORE and word != "none"
        if word in _SCOPE_ENDS or (word == "and" and tokens[index + 1][0] in _DETERMINERS | _CLAUSE_BEGINS):
            return False
    return False


def _in_list(text: str, tokens: Sequence[tuple[str, int, int]], position: int) -> bool:
    """Return whether a comma before `position` separates the members of an "a, b or c" list."""
    for index in range(position, min(position + 6, len(tokens))):
        if tokens[index][0] in ("or", "nor"):
            return True
        if index > position and _STOP.search(text[tokens[index - 1][2] : tokens[index][1]]):
            return False
    return False
