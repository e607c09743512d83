"""How an answer to a question with lettered choices is read: strictly, or by the letters that stand alone in it.

"B", "(b)", "B. On the table", "Answer: **B**"     a letter, alone or before its choice: B
"On the table"                                      a choice's whole text, where no other has the same: its letter
"A is wrong, so the answer is C"                    an answer that is declared goes before letters that are mentioned
"A or B", "B. On the table, that is C"              several letters: not one of them
"A table stands there."                             the article is no letter
"""

import re
from collections.abc import Iterator, Mapping

from amp_cli.benchmarks.answer_text import EDGES, plain_text, unwrapped

LETTERS = "ABCDE"
_LINE = re.compile(r"\s*([A-E])\s*[.):]\s*(.*)")


def choices_of(question: str) -> dict[str, str]:
    """Return letter -> text of the choices that stand below a question, one a line: `B. On the table`."""
    found = (_LINE.fullmatch(line.rstrip()) for line in question.strip().splitlines()[1:])
    return {one[1]: one[2] for one in found if one}


def read_letter(text: str) -> str | None:
    """Return the one letter that stands in an answer as a word, in either case; None for none or several.

    So the article "a" is the letter A, as in HumbleBench's script.
    """
    words = set(re.findall(r"\w+", text.lower())) & set(LETTERS.lower())
    return words.pop().upper() if len(words) == 1 else None


def read_choice(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter of the choice that an answer takes; None where it takes none, several, or cannot be read.

    Args:
        choices: letter -> text, as far as they are known.
    """
    plain = plain_text(text)
    given = None if plain is None else unwrapped(plain)
    if given is None:
        return None
    whole = given.strip(EDGES)
    if len(whole) == 1 and whole.upper() in LETTERS:
        return whole.upper()
    if letter := _of_text(whole, choices) or _with_text(whole, choices):
        return letter
    given = _NOT_THAT.sub(" ", given)
    letters = _declared(given) or {letter for clause in _clauses(given) for letter in _letters(clause)}
    if not letters:
        return _said(given, choices)
    if len(letters) > 1:
        return None
    letter = letters.pop()
    return None if _belies(letter, given, choices) else letter


def _key(text: str) -> str:
    """Return what makes a choice's text the same one: its words without articles, case and punctuation."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def _of_text(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter whose choice is just this text; None where there is none, or more than one."""
    key = _key(text)
    alike = [letter for letter, choice in choices.items() if key and _key(choice) == key]
    return alike[0] if len(alike) == 1 else None


def _with_text(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter that stands before its own choice's text: "b. on the table"."""
    match = re.match(r"([A-Ea-e])\s*[.):-]+\s*(?=\S)", text)
    if match is None:
        return None
    letter = match[1].upper()
    return letter if letter in choices and _key(text[match.end() :]) == _key(choices[letter]) else None


_NOT_THAT = re.compile(
    r"\b(?:and )?(?:not|rather than|instead of) (?:an? |the )?(?:option |choice |answer |letter )?\(?[A-E]\b\)?"
)
_ANSWER_IS = re.compile(
    r"\b(?:answer|choice|option|select|choose|pick)\b(?:\s+(?:here|to (?:the|this|your) question))?"
    r"(?:\s*(?:[:=>-]+|\b(?:is|would be|should be|must be|will be|therefore|thus|indeed|clearly)\b))*"
    r"(?:\s*\b(?:the |an? )?(?:letter|option|choice|answer))?[\s:\"'(\[]*",
    re.I,
)
_LETTER = re.compile(r"(?<![\w'.-])([A-E])(?![\w']|-\w)")
_ENCLOSED = re.compile(r"[(\[]\s*([A-Ea-e])\s*[)\]]|^\s*([a-e])[)]")
_MORE = re.compile(r"[\s\"')\].]*(?:,|/|&|\band\b|\bor\b)+[\s\"'(\[]*([A-E])(?![\w']|-\w)")
_AFTER_LETTER = re.compile(
    r"\s+(?!(?:because|since|as|and|or|but|is|was|would|seems|appears|fits|matches|which|with|for|given)\b)[a-z]"
)
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|wrong|incorrect|false|eliminat\w+|rul(?:e|es|ed|ing) out|ruled|exclud\w+|instead of"
    r"|rather than|unlikely|cannot)\b|n't\b",
    re.I,
)
_CLAUSE = re.compile(r"[;!?\n]|[.](?=\s)|\b(?:but|so|therefore|hence|thus|because|since|while)\b", re.I)


def _clauses(given: str) -> Iterator[str]:
    """Yield the clauses that deny nothing."""
    return (clause for clause in _CLAUSE.split(given) if not _DENIED.search(clause))


def _declared(given: str) -> set[str]:
    """Return the letters that the answer is said to be: "the correct answer is (B)", "Option B", "Answer: b"."""
    found = set()
    for clause in _clauses(given):
        for match in _ANSWER_IS.finditer(clause):
            rest = clause[match.end() :]
            letter = re.match(r"([A-E])(?![\w']|-\w)|([a-e])(?=[\s\"')\].,:]*$|[)\].:])", rest)
            if letter is None or _is_article(clause, match.end()):
                continue
            found.add((letter[1] or letter[2]).upper())
            place = letter.end()
            while more := _MORE.match(rest, place):
                found.add(more[1])
                place = more.end()
    return found


def _letters(clause: str) -> Iterator[str]:
    """Yield the letters that a clause mentions."""
    for match in _LETTER.finditer(clause):
        if not _is_article(clause, match.start()):
            yield match[1]
    for match in _ENCLOSED.finditer(clause):
        yield (match[1] or match[2]).upper()


def _is_article(clause: str, place: int) -> bool:
    """Tell the "A" of "A dog" and "Answer: A dog" from the letter: it begins what is said, and a word follows."""
    if not clause.startswith("A", place) or not _AFTER_LETTER.match(clause, place + 1):
        return False
    return not re.search(r"[a-z]['\"(\s]*$", clause[:place], re.I)


def _belies(letter: str, given: str, choices: Mapping[str, str]) -> bool:
    """Whether the letter stands before another choice's text: "B. Red" where A is red."""
    texts = re.findall(rf"(?<![\w'.-]){letter}[.):\]]+\s*([^\n]+)", given, re.I)
    named = {_of_text(re.split(r"[.;](?:\s|$)", text)[0], choices) for text in texts} - {None}
    return bool(named) and letter not in named


_NONE_OF_THEM = re.compile(
    r"\bnone of (?:the |these |those )?(?:\w+ )?(?:above|options?|choices?|answers?|these|those|them)\b"
)
_UNSURE = re.compile(
    r"\b(?:no|not|never|neither|nor|without|cannot|unable|unsure|unclear|maybe|perhaps|possibly|might|could)\b|n't\b"
)


def _said(given: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter of the one choice that one sentence without a letter names, and does not deny or doubt."""
    sentences = [one for one in re.split(r"[.;!?\n](?:\s|$)", given.strip()) if one.strip(EDGES)]
    if len(sentences) != 1:
        return None
    said = _key(sentences[0])
    if _NONE_OF_THEM.search(sentences[0].lower()):
        nobody = [letter for letter, choice in choices.items() if _key(choice).startswith("none of")]
        return nobody[0] if len(nobody) == 1 else None
    if _UNSURE.search(sentences[0].lower()):
        return None
    keys = {letter: key for letter, choice in choices.items() if (key := _key(choice)) and f" {key} " in f" {said} "}
    longest = [one for one, key in keys.items() if not any(key != other and key in other for other in keys.values())]
    return longest[0] if len(longest) == 1 else None
