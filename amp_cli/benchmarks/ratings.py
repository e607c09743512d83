"""Reads ratings out of judges' replies: as each official script does, or strictly."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from amp_cli.benchmarks.replies import said_lines

HIGHEST = 6
"""MMHal-Bench and MRHal-Bench rate from 0 to this; below `HALLUCINATED` something is made up."""
HALLUCINATED = 3


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reply says: its ratings, or None and the reason.

    `substituted` marks ratings that the official script puts in place of what it could not read.
    """

    ratings: tuple[float, ...] | None
    reason: str = ""
    substituted: bool = False


class OfficialCrashError(Exception):
    """The official script would have stopped at this reply."""


def read_mmhal_official(text: str) -> Reading:
    """Look for `rating: 0` to `rating: 6` in the lower-cased reply: one of them, else 0. Takes `Rating: 10` for 1."""
    found = [rating for rating in range(HIGHEST + 1) if f"rating: {rating}" in text.lower()]
    if len(found) == 1:
        return Reading(ratings=(found[0],))
    reason = "several different ratings" if found else "no rating"
    return Reading(ratings=(0,), reason=reason, substituted=True)


def read_mrhal_official(text: str, rounds: int, previous: Sequence[float] | None) -> Reading:
    """Take the one list in brackets, or of two the last without Yes or No; else the list of the dialogue before.

    Raises:
        OfficialCrashError: an entry is neither N/A (counted as 0) nor a whole number, there are more or fewer than
            rounds, or there is no list yet.
    """
    lists = list(_lists_in_brackets(text))
    if len(lists) == 2:
        lists = [one for one in lists if "Yes" not in one and "No" not in one][-1:]
    if len(lists) != 1:
        if previous is None:
            raise OfficialCrashError("it holds no list of ratings, and there is none before it")
        _refuse_other_length(previous, rounds, "the list of the dialogue before, which the script takes instead,")
        return Reading(ratings=tuple(previous), reason="no single list of ratings", substituted=True)
    try:
        ratings = [0 if "N/A" in entry else int(entry) for entry in lists[0].split(",")]
    except ValueError as error:
        raise OfficialCrashError(f"its list [{lists[0]:.80}] holds something that is not a whole number") from error
    _refuse_other_length(ratings, rounds, "its list")
    return Reading(ratings=tuple(ratings))


def _lists_in_brackets(text: str) -> Iterator[str]:
    """Yield what the script's `\\[(.*?)\\]` finds, in one pass however many brackets are never closed."""
    for line in text.split("\n"):
        end = 0
        while (begin := line.find("[", end)) >= 0 and (end := line.find("]", begin)) >= 0:
            yield line[begin + 1 : end]


def _refuse_other_length(ratings: Sequence[float], rounds: int, whose: str) -> None:
    if len(ratings) != rounds:
        raise OfficialCrashError(f"{whose} has {len(ratings)} ratings for {rounds} rounds")


def read_pair_official(text: str) -> Reading:
    """Split the first line at blanks and commas: exactly two numbers, else -1 and -1, which stay in the means."""
    parts = text.split("\n")[0].replace(",", " ").split(" ")
    if len(parts) == 2:
        try:
            return Reading(ratings=(float(parts[0]), float(parts[1])))
        except ValueError:
            pass
    return Reading(ratings=(-1.0, -1.0), reason="the first line is not two numbers", substituted=True)


_NUMBER = r"(?<![\w.])\d++(?:\.\d++)?+(?![\w.]*\d)"
_SEPARATOR = r"(?:[:=|–—]|-(?=\s)|(?:is|of)\b)"
_BEGIN = r"^[\s\d.)•+-]*(?:(?:overall|final|my|the|so|therefore|thus|hence)\b[\s,:]*)*"
_RATING = r"(?<!\w)ratings?\b"
_OUT_OF = r"(?:\s*(?:/|out\s+of)\s*(\d+(?:\.\d+)?))?"
_OR = r"(?:-|–|to\b|or\b|and\b|(?:or|to|and)\s+(?:maybe|perhaps|possibly|even)\b)"
_MORE = rf"(?:{_OR}\s*\d|(?:,\s*\d+\s*)+[\])])"
_ONE = re.compile(rf"{_RATING}\s*{_SEPARATOR}?\s*[\[(]?\s*({_NUMBER}){_OUT_OF}(\s*{_MORE})?", re.I)
_DECLARED = re.compile(rf"{_BEGIN}{_RATING}\s*(?:[:=|–—]|-\s|(?:is|of)?\s*[\[(]?\s*\d)", re.I)
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^“”\n]*”|«[^«»\n]*»|'[^'\n]*rating[^'\n]*'", re.I)
_WEIGHED = re.compile(
    r"\b(?:guess|initial(?:ly)?|first (?:thought|impression|glance)|at first|tempted|might|could|maybe|perhaps"
    r"|not|\w{1,8}n['’]t|cannot|if|whether|instead of|rather than)\b",
    re.I,
)
_BEFORE = 200
"""Characters before a rating in which its sentence may weigh it or turn it down."""


def read_mmhal_strict(text: str) -> Reading:
    """Read the one rating that a reply declares, from 0 to 6.

    A last line that declares a rating decides. Otherwise all lines that begin with one must agree; where no line
    does, all ratings in running text that are not in quotation marks must, and none may be just considered.
    """
    lines = _lines(text)
    declared = [line for line in lines if _DECLARED.search(line)]
    if lines and declared and lines[-1] is declared[-1]:
        declared = declared[-1:]
    if any(not _ONE.search(line) for line in declared):
        return Reading(ratings=None, reason="a rating without a number")
    said = [_QUOTED.sub(" ", line) for line in declared or lines]
    if not declared and any(map(_is_considered, said)):
        return Reading(ratings=None, reason="a rating that is only considered")
    found = [rating for line in said for rating in _single_ratings(line)]
    return _agreed([None if rating is None else (rating,) for rating in found], "rating", "ratings")


_SCALE = re.compile(rf"\(\s*(?:on a scale |scale )?(?:from |of )?0\s*(?:-|–|—|to)\s*{HIGHEST}(?: scale)?\s*\)", re.I)
_HEADING = re.compile(rf"{_BEGIN}{_RATING}\s*{_SEPARATOR}?", re.I)
_ONE_ROUND = re.compile(rf"[\s•-]*(?:(?:round|question|turn|q)\s*\d+\s*[:=)-]\s*)?({_NUMBER}{_OUT_OF})\s*[.,;]?", re.I)


def _lines(text: str) -> list[str]:
    """Return the lines of a reply; a heading that announces a rating stands on the line with what it announces.

    A scale behind the word, as in `Rating (0-6): 5`, is left out.
    """
    lines = [_SCALE.sub("", line).strip() for line in said_lines(text)]
    joined: list[str] = []
    while lines:
        line = lines.pop(0)
        if lines and _HEADING.fullmatch(line):
            line = _announced(lines)
        joined.append(line)
    return joined


def _announced(lines: list[str]) -> str:
    """Take from what follows a heading the line, or the lines of one round each, that it announces."""
    if _DECLARED.search(lines[0]):
        return lines.pop(0)
    rounds: list[str] = []
    while lines and (one := _ONE_ROUND.fullmatch(lines[0])):
        rounds.append(one[1])
        lines.pop(0)
    if len(rounds) > 1:
        return f"Ratings: [{', '.join(rounds)}]"
    return f"Rating: {rounds[0] if rounds else lines.pop(0)}"


def _is_considered(line: str) -> bool:
    """Tell whether a rating in running text is weighed or turned down before it is said, in the same sentence."""
    before = (line[max(0, match.start() - _BEFORE) : match.start()] for match in _ONE.finditer(line))
    return any(_WEIGHED.search(re.split(r"[.!?]", text)[-1]) for text in before)


def _single_ratings(line: str) -> list[float | None]:
    """Return the ratings in a line; None for one that is on no scale of 0 to 6 in whole numbers."""
    return [
        None if match[3] or match[2] not in (None, str(HIGHEST)) else _whole(match[1]) for match in _ONE.finditer(line)
    ]


def _whole(number: str) -> float | None:
    value = float(number)
    return value if value in range(HIGHEST + 1) else None


def _agreed(found: Iterable[tuple[float, ...] | None], one: str, many: str) -> Reading:
    """Return what all say, or why they say nothing in common."""
    distinct = set(found)
    if None in distinct:
        return Reading(ratings=None, reason=f"a {one} that is not in whole numbers from 0 to {HIGHEST}")
    if len(distinct) != 1:
        return Reading(ratings=None, reason=f"several different {many}" if distinct else f"no {one}")
    return Reading(ratings=distinct.pop())


_LIST = r"\[([^\[\]]*)\]"
_DECLARED_LIST = re.compile(rf"{_BEGIN}{_RATING}\s*(?:(?:[:=|–—]|-\s)\s*(.*)|(?:are|is)?\s*([\[\d].*))", re.I)
_ROUND = re.compile(r"^\s*(?:round|question|q)?\s*\d+\s*[:=]\s*", re.I)


def read_mrhal_strict(text: str, rounds: int) -> Reading:
    """Read the one list of ratings that a reply declares, one whole number from 0 to 6 for each round.

    As `read_mmhal_strict`: a last line that declares a list decides; otherwise all lines that do must agree; where
    none does, all lists of numbers that are not in quotation marks must.
    """
    lines = _lines(text)
    declared = [match for line in lines if (match := _DECLARED_LIST.search(line))]
    if declared and declared[-1].string is lines[-1]:
        declared = declared[-1:]
    if declared:
        said = [match[1] if match[2] is None else match[2] for match in declared]
        found = [listed[1] if (listed := re.match(_LIST, one)) else one for one in said]
    else:
        unquoted = (_QUOTED.sub(" ", line) for line in lines)
        found = [one for line in unquoted for one in re.findall(_LIST, line) if re.search(r"\d", one)]
    reading = _agreed(map(_ratings_of, found), "list of ratings", "lists of ratings")
    if reading.ratings is not None and len(reading.ratings) != rounds:
        return Reading(ratings=None, reason=f"{len(reading.ratings)} ratings for {rounds} rounds")
    return reading


def _ratings_of(entries: str) -> tuple[float, ...] | None:
    ratings = []
    for entry in entries.strip().rstrip(".").split(","):
        match = re.fullmatch(rf"\s*({_NUMBER}){_OUT_OF}\s*", _ROUND.sub("", entry), re.I)
        rating = None if match is None or match[2] not in (None, str(HIGHEST)) else _whole(match[1])
        if rating is None:
            return None
        ratings.append(rating)
    return tuple(ratings)


_LABEL = re.compile(
    r"(?:(?:the\s+)?(?:assistant|answer|response|model)\s*#?\s*[12ab]\b(?:'s)?\s*)?(?:scores?|ratings?)?\s*[:=]\s*",
    re.I,
)
_TEN = re.compile(r"(?<=[\d\s])\s*(?:/|out\s+of)\s*10(?:\.0)?\b", re.I)
_PAIR = re.compile(r"[\s\[(]*(\d+(?:\.\d+)?)\s*(?:[\s,;&|]|\band\b)\s*(\d+(?:\.\d+)?)[\s\])]*\.?", re.I)


def read_pair_strict(text: str) -> Reading:
    """Read two scores: the first line that is not empty, or, where that is other text, the last one.

    The judge is asked for 1 to 10; real ones give an empty answer a 0, which is a rating.
    """
    lines = _lines(text)
    for line in (lines[0], lines[-1]) if lines else ():
        match = _PAIR.fullmatch(re.sub(r"\s*,\s*", " , ", _TEN.sub(" ", _LABEL.sub(" ", line))).replace(" ,", ","))
        if match:
            scores = (float(match[1]), float(match[2]))
            if all(score <= 10 for score in scores):
                return Reading(ratings=scores)
            return Reading(ratings=None, reason="scores that are not from 0 to 10")
    return Reading(ratings=None, reason="neither the first nor the last line is two scores")
