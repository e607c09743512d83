"""Tells whether a text can be in a language: by the script of its letters, then by its commonest words.

What reads English (a parser, a list of objects, a list of function words) asks here before it judges a text.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

FOREIGN_LETTERS = 0.2
"""From this share of letters in another script on, a text is not in a language of its own script."""
FEWEST_SIGNS = 2
SIGNS_PER_WORD = 0.12
"""So many different words must speak for another language, and so large a share; most English captions have none."""

SCRIPTS = {
    "zh": "CJK",
    "ja": "CJK HIRAGANA KATAKANA",
    "ko": "HANGUL CJK",
    **dict.fromkeys(("ru", "uk", "bg", "mk", "sr", "be", "kk", "ky", "tt"), "CYRILLIC"),
    **dict.fromkeys(("ar", "fa", "ur", "ug"), "ARABIC"),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), "DEVANAGARI"),
    "el": "GREEK",
    "grc": "GREEK",
    "he": "HEBREW",
    "th": "THAI",
    "bn": "BENGALI",
    "gu": "GUJARATI",
    "kn": "KANNADA",
    "ml": "MALAYALAM",
    "pa": "GURMUKHI",
    "si": "SINHALA",
    "ta": "TAMIL",
    "te": "TELUGU",
    "am": "ETHIOPIC",
    "hy": "ARMENIAN",
    "ka": "GEORGIAN",
    "km": "KHMER",
    "lo": "LAO",
    "my": "MYANMAR",
}
"""Language -> the scripts it is written in; all others are written in Latin letters."""
ANY_LANGUAGE = "xx"
"""spaCy's code of a pipeline for many languages."""
KNOWN_SCRIPTS = frozenset(" ".join(SCRIPTS.values()).split()) | {"LATIN"}

COMMON_WORDS = {
    "en": """the a an and of is are was were with this that these there which who from for his her their its to it in
        on at has have by they not no as or one two some""",
    "de": """der die das und ist sind ein eine einen einem einer auf mit von nicht zu im den dem des wird sich auch
        steht liegt sitzt zwei neben vor hinter keine kein""",
    "fr": """le la les des une un et est sont dans avec sur du au aux qui que pour pas il elle cette ce se deux de en
        d l ne y""",
    "es": "el la los las una un y es son con en del al que por para se su está hay sobre dos muy no de",
    "it": "il lo la gli i le una un e è sono con di del della nel nella che per si su due ci non dei sul sulla",
    "pt": "o a os as uma um e é são com em do da no na dos das que por para se está há não de",
    "nl": "de het een en is zijn met van op in niet die dat er staat aan te zit twee naast geen",
    "sv": "och en ett är på med som det den av för i inte till har två",
    "da": "og en et er på med som det den af for i ikke til har to",
    "nb": "og en et er på med som det den av for i ikke til har to",
    "fi": "ja on ovat ei se joka että kanssa hän ne kaksi myös",
    "pl": "i w na z jest są się nie to do oraz dwa dwie po obok który która",
    "cs": "a v na je jsou se s není to do který která dva dvě u vedle",
    "ro": "și este sunt un o cu pe în de la care nu se două",
    "hu": "és egy a az van nem hogy két vannak",
    "tr": "ve bir bu ile için var olan üzerinde iki değil da de",
    "vi": "và một là có trong của người được với trên các không hai",
    "id": "dan yang di ini itu dengan sebuah seorang dari ada pada dua tidak",
}
_WORD = re.compile(r"[^\W\d_]+")


def can_be(texts: str | Iterable[str], language: str) -> bool:
    """Say whether texts, taken together, can be in a language; a text too short to tell can be in any.

    Args:
        language: as spaCy and ISO 639 name it: `en`, `zh`, `fr`; `xx` stands for any.
    """
    if language == ANY_LANGUAGE:
        return True
    text = texts if isinstance(texts, str) else "\n".join(texts)
    scripts = SCRIPTS.get(language, "LATIN").split()
    if _foreign_share(text, scripts) >= FOREIGN_LETTERS:
        return False
    return language not in COMMON_WORDS or not _is_another(text, language)


def _foreign_share(text: str, scripts: list[str]) -> float:
    """Return the share of the letters that stand in a script which is not one of `scripts`."""
    if text.isascii() and "LATIN" in scripts:
        return 0.0
    foreign = letters = 0
    for letter in text:
        script = _script(letter)
        if script in KNOWN_SCRIPTS:
            letters += 1
            foreign += script not in scripts
    return foreign / letters if letters else 0.0


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def _is_another(text: str, language: str) -> bool:
    """Return whether more than twice as many different words speak for another language as for this one."""
    words = set(_WORD.findall(text.lower()))
    accented = sum(not word.isascii() for word in words) if language == "en" else 0
    counts = dict.fromkeys(COMMON_WORDS, 0)
    for word in words:
        for one in _languages_of().get(word, ()):
            counts[one] += 1
    own = counts.pop(language)
    signs = max(counts.values()) + accented
    return signs >= FEWEST_SIGNS and signs >= SIGNS_PER_WORD * len(words) and signs > 2 * own


@cache
def _languages_of() -> dict[str, tuple[str, ...]]:
    words = {word for listed in COMMON_WORDS.values() for word in listed.split()}
    return {word: tuple(one for one, listed in COMMON_WORDS.items() if word in listed.split()) for word in words}
