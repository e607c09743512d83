"""Turns runs' item files into rows to look at: a question, the truth, and what every run answered, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from amp_cli.benchmarks.amber import AmberAnswer, AmberDescription, AmberScore, read_score
from amp_cli.benchmarks.chair import ChairScore
from amp_cli.benchmarks.judged_scores import JudgedScore
from amp_cli.benchmarks.pope import PopeScore
from amp_cli.benchmarks.runner import ITEMS
from amp_cli.disk.jsonl import RecordLog
from amp_cli.report.runs import GatheredRun

One = TypeVar("One")
Given = Sequence[tuple[str, One]]
"""A run's name and its result, for every run that has the item."""
Reader = tuple[Callable[[Mapping[str, Any]], Any], Callable[[Any, Given[Any]], "Row"]]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an answer; `kind` is "invented", "right", "denied" or "" for plain text."""

    text: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One run's answer to a question.

    `verdict` is "right", "wrong" or "unclear", "" for a description; `judged` what a judge said, one text per repeat.
    """

    run: str
    pieces: tuple[Piece, ...]
    verdict: str = ""
    summary: str = ""
    judged: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question, the truth (and what kind of truth that is), and the runs' answers side by side.

    A short one is a line of a table: a yes/no question.
    """

    images: tuple[str, ...]
    question: str
    truth: str
    note: str
    replies: tuple[Reply, ...]
    differs: bool
    is_short: bool
    truth_is: str = "In the image"
    benchmark: str = ""

    def reply_of(self, run: str) -> Reply | None:
        """Return a run's reply, None where it has not answered."""
        return next((reply for reply in self.replies if reply.run == run), None)


def rows_of(name: str, runs: Sequence[GatheredRun]) -> list[Row]:
    """Return the rows of one benchmark; the items are those of the first run, each with every run that has it."""
    read, make = READERS[name]
    by_run = [
        (run.name, {record["id"]: read(record) for record in RecordLog(run.evaluations[name].folder / ITEMS).read()})
        for run in runs
    ]
    return [
        replace(make(first, [(run, scores[item_id]) for run, scores in by_run if item_id in scores]), benchmark=name)
        for item_id, first in by_run[0][1].items()
    ]


def _chair_row(first: ChairScore, given: Given[ChairScore]) -> Row:
    named = {(frozenset(m.name for m in one.counted), frozenset(m.name for m in one.invented)) for _, one in given}
    return Row(
        images=first.images,
        question=first.question,
        truth=", ".join(first.present) or "none of the objects looked for",
        note="",
        replies=tuple(_chair_reply(name, one) for name, one in given),
        differs=len(named) > 1,
        is_short=False,
    )


def _chair_reply(run: str, one: ChairScore) -> Reply:
    spans = [
        (mention.start, mention.end, _kind(mention in one.counted, mention.name not in one.present))
        for mention in one.mentions
    ]
    invented = sorted({mention.name for mention in one.invented})
    return Reply(run=run, pieces=_pieces(one.answer, spans), summary=_summary(invented, one.missed))


def _amber_row(first: AmberScore, given: Given[AmberScore]) -> Row:
    if isinstance(first, AmberAnswer):
        answers = [(name, one) for name, one in given if isinstance(one, AmberAnswer)]
        return Row(
            images=first.images,
            question=first.question,
            truth="yes" if first.label else "no",
            note=first.kind,
            replies=tuple(_yes_no(name, one.answer, one.correct) for name, one in answers),
            differs=len({one.reading for _, one in answers}) > 1,
            is_short=True,
        )
    descriptions = [(name, one) for name, one in given if isinstance(one, AmberDescription)]
    named = {(one.covered, frozenset(found.word for found in one.invented)) for _, one in descriptions}
    return Row(
        images=first.images,
        question=first.question,
        truth=", ".join(dict.fromkeys(first.truth)),
        note="",
        replies=tuple(_amber_reply(name, one) for name, one in descriptions),
        differs=len(named) > 1,
        is_short=False,
    )


def _amber_reply(run: str, one: AmberDescription) -> Reply:
    spans = [(found.start, found.end, _kind(found in one.counted, found.invented)) for found in one.objects]
    invented = sorted({found.word for found in one.invented})
    missed = [word for place, word in enumerate(one.truth) if place not in one.covered]
    return Reply(run=run, pieces=_pieces(one.answer, spans), summary=_summary(invented, missed))


def _pope_row(first: PopeScore, given: Given[PopeScore]) -> Row:
    return Row(
        images=first.images,
        question=first.question,
        truth="yes" if first.label else "no",
        note=first.split,
        replies=tuple(_yes_no(name, one.answer, one.correct) for name, one in given),
        differs=len({one.reading for _, one in given}) > 1,
        is_short=True,
    )


def _judged_row(first: JudgedScore, given: Given[JudgedScore], *, rated: Callable[[Sequence[float]], str]) -> Row:
    return Row(
        images=first.images,
        question=_rounds(first.questions),
        truth=_rounds(first.references),
        note=first.group,
        replies=tuple(_judged_reply(name, one, rated) for name, one in given),
        differs=len({one.ratings for _, one in given}) > 1,
        is_short=False,
        truth_is="Reference",
    )


def _judged_reply(run: str, one: JudgedScore, rated: Callable[[Sequence[float]], str]) -> Reply:
    reasons = [reading.reason for reading in one.readings if reading.reason]
    if one.ratings is None:
        summary = f"unscored: {reasons[0]}" if reasons else "unscored"
    else:
        summary = rated(one.ratings)
        if len(one.readings) > 1:
            summary += f" (mean; {len(one.readable)} of {len(one.readings)} verdicts could be read)"
    text = _rounds(one.answers) or "(the answer was not given)"
    verdict = "unclear" if one.ratings is None else ""
    return Reply(run=run, pieces=(Piece(text=text),), verdict=verdict, summary=summary, judged=one.verdicts)


def _rated(ratings: Sequence[float]) -> str:
    return f"rated {', '.join(f'{rating:g}' for rating in ratings)} of 6"


def _rated_beside_reference(ratings: Sequence[float]) -> str:
    reference, model = ratings
    return f"rated {model:g} of 10, the reference {reference:g}"


def _rounds(texts: Sequence[str]) -> str:
    """Return one text, or several as numbered lines: the rounds of a dialogue."""
    if len(texts) < 2:
        return "".join(texts)
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def _yes_no(run: str, answer: str, correct: bool | None) -> Reply:
    verdict = {True: "right", False: "wrong", None: "unclear"}[correct]
    return Reply(run=run, pieces=(Piece(text=answer or "(empty answer)"),), verdict=verdict)


def _kind(is_counted: bool, is_invented: bool) -> str:
    if not is_counted:
        return "denied"
    return "invented" if is_invented else "right"


def _pieces(text: str, spans: Sequence[tuple[int, int, str]]) -> tuple[Piece, ...]:
    """Cut a text at the places (start, end, kind) of the objects that it names."""
    pieces = []
    position = 0
    for start, end, kind in spans:
        pieces += [Piece(text=text[position:start]), Piece(text=text[start:end], kind=kind)]
        position = end
    pieces.append(Piece(text=text[position:]))
    return tuple(piece for piece in pieces if piece.text)


def _summary(invented: Sequence[str], missed: Sequence[str]) -> str:
    summary = f"not in the image: {', '.join(invented)}" if invented else "nothing invented"
    return summary + (f"; not mentioned: {', '.join(dict.fromkeys(missed))}" if missed else "")


_JUDGED: Reader = (JudgedScore.from_json, partial(_judged_row, rated=_rated))
_COMPARED: Reader = (JudgedScore.from_json, partial(_judged_row, rated=_rated_beside_reference))
READERS: dict[str, Reader] = {
    "mmhal": _JUDGED,
    "mrhal": _JUDGED,
    "llava-bench": _COMPARED,
    "llava-bench-wild": _COMPARED,
    "chair": (ChairScore.from_json, _chair_row),
    "amber": (read_score, _amber_row),
    "pope": (PopeScore.from_json, _pope_row),
}
"""How each benchmark's lines are read and shown, in the order of the page."""
