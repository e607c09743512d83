"""Reads a yes or a no out of an answer: as POPE's own script does, and carefully."""

import re

_VERDICTS = {
    **dict.fromkeys(("yes", "yeah", "yep", "yup"), True),
    **dict.fromkeys(("no", "nope", "nah", "not"), False),
}
_WHOLE = {  # a verdict only where nothing else is said: "Correct, there is no dog" is none
    **dict.fromkeys(("y", "true", "correct", "right", "affirmative", "sure", "certainly", "indeed"), True),
    **dict.fromkeys(("n", "false", "incorrect", "wrong", "negative"), False),
}
_EITHER = re.compile(r"\byes\s*(?:/|or|and)\s*no\b")
_LEADING = re.compile(r"^(?:[^a-z]|answer\b|the answer is\b)*(yes|yeah|yep|yup|no|nope|nah)\b(?! ?(?:idea|clue))")
_CONCLUSION = re.compile(r"\banswer(?: is|:) *[^a-z]*(yes|no)\b")
_SEGMENT_END = re.compile(r"[.,;:!?\n]+")
_EDGES = " \t\r\n\"'()[].,;:!?-"
_SENTENCE_END = re.compile(r"[.;!?\n]+")
_DOUBLE_NEGATION = re.compile(
    r"\b(?:no doubt|without (?:a |any )?doubt|no question|undoubtedly|not only|not just|cannot be denied)\b"
)
_UNCERTAIN = re.compile(
    r"\b(?:cannot|can't|could not|couldn't|unable to|not able to|impossible to|hard to|difficult to|not possible to)"
    r" (?:be )?(?:tell|say|determined?|answer|know|confirm|verify|identify|judge)\b"
    r"|\b(?:cannot|can't|unable to) see (?:clearly|well|the image|the image|any image|any image|images)\b"
    r"|\b(?:not sure|unsure|not certain|uncertain|unclear|not clear|don't know|do not know|no idea|no clue)\b"
    r"|\b(?:maybe|perhaps|possibly)\b"
    r"|\b(?:might|may|could) be\b"
)
_NEGATIVE = re.compile(r"\b(?:no|not|cannot|without|never|none|neither|nothing|absent|missing|lacks?)\b|n't\b")
_AFFIRMATIVE = re.compile(
    r"\bthere(?: is|'s| are| appears?| seems?)\b|\b(?:i|we|you) (?:can |do )?(?:clearly )?see\b|\bit (?:is|does)\b"
    r"|\b(?:is|are) (?:\w+ )?(?:visible|present|shown|seen|depicted|there|in)\b"
    r"|\b(?:image|image|photo|scene|it)(?: \w+)? (?:shows?|contains?|has|have|includes?|features?|depicts?)\b"
    r"|^\W*(?:absolutely|definitely|of course|surely|clearly|obviously)\b"
)
_PRONOUN = re.compile(r"\b(?:it|one|any|such|that|this|them)\b")


def read_official(text: str) -> bool:
    """Return True for yes, by the rule of POPE's evaluate.py.

    Only what stands before the first full stop counts, commas vanish, single blanks separate words; "No", "not" or "no"
    among them is a no, everything else (nothing at all, "NO", "Nope", "no" before a line break) a yes.
    """
    head, _, _ = text.partition(".")
    return {"No", "not", "no"}.isdisjoint(head.replace(",", "").split(" "))


def read_strict(text: str) -> bool | None:
    """Return True for yes, False for no, None where the answer cannot be read as either.

    A yes or no that stands by itself decides; without one the sentences do: "There isn't a dog." is a no, "I can see a
    dog." a yes. An answer that contradicts itself, hedges without a verdict, or says nothing is unclear.
    """
    plain = _DOUBLE_NEGATION.sub(" ", text.lower().replace("’", "'").replace("*", "").replace("_", " "))
    if plain.strip(_EDGES) in _WHOLE:
        return _WHOLE[plain.strip(_EDGES)]
    alone = {_VERDICTS[word] for part in _SEGMENT_END.split(plain) if (word := part.strip(_EDGES)) in _VERDICTS}
    alone |= {_VERDICTS[word] for word in _CONCLUSION.findall(plain)}
    leading = _LEADING.match(plain)
    if leading:
        alone.add(_VERDICTS[leading[1]])
    if _EITHER.search(plain):
        return None
    if len(alone) == 2:
        return None
    if leading:
        return alone.pop()
    if alone:
        return _unless_contradicted(alone.pop(), plain)
    return _read_sentences(plain)


def _unless_contradicted(verdict: bool, plain: str) -> bool | None:
    """Return a verdict that follows other sentences, or None where one of them denies "it", the thing asked about."""
    for sentence in _SENTENCE_END.split(plain):
        if verdict and _NEGATIVE.search(sentence) and _PRONOUN.search(sentence) and not _UNCERTAIN.search(sentence):
            return None
    return verdict


def _read_sentences(plain: str) -> bool | None:
    if _UNCERTAIN.search(plain):
        return None
    readings = set()
    for sentence in _SENTENCE_END.split(plain):
        if _NEGATIVE.search(sentence):
            readings.add(False)
        elif _AFFIRMATIVE.search(sentence):
            readings.add(True)
    return readings.pop() if len(readings) == 1 else None
