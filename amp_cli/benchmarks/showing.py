"""How results are shown to people: numbers with their intervals, tables, and rows of answers side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from amp_cli.benchmarks.sampling import sample_text

Table = tuple[str, list[str], list[list[str]]]
"""Title, columns, rows."""
DIGITS = {"words": 1, "relative": 1, "score": 2, "reference": 2, "model": 2, "margin": 2, "threshold_at_balance": 2}
"""Digits after the point by the last part of a score's name; 3 for the others."""


def digits_of(name: str) -> int:
    """Return how many digits after the point a score is shown with."""
    return DIGITS.get(name.rpartition("/")[2], 3)


def shown(value: float | None, bounds: Sequence[float] | None = None, *, name: str = "") -> str:
    """Return `0.850` and below it `0.831-0.868`, with the digits of the score `name`; a dash for the undefined."""
    if value is None:
        return "-"
    digits = digits_of(name)
    text = f"{value:.{digits}f}"
    return text if bounds is None else f"{text}\n{bounds[0]:.{digits}f}-{bounds[1]:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a benchmark's table: a score by its place in `scores.json`.

    `lower_is_better` is None where neither end is good; `difference` is the score's name where two runs are compared;
    `full` is the score that fills a chart, if it has one.
    """

    title: str
    group: tuple[str, ...]
    name: str
    lower_is_better: bool | None
    difference: str | None = None
    full: float = 1.0
    is_charted: bool = True

    def value(self, scores: Mapping[str, Any]) -> float | None:
        """Return the score, None where it is undefined."""
        block = self._block(scores)
        return None if block is None else block.get(self.name)

    def interval(self, scores: Mapping[str, Any]) -> list[float] | None:
        """Return the score's 95 % interval."""
        block = self._block(scores)
        return None if block is None else block.get("ci95", {}).get(self.name)

    def _block(self, scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
        block: Any = scores
        for key in self.group:
            block = block.get(key)
            if block is None:
                return None
        return dict(block)


def column(title: str, path: str, *, lower_is_better: bool | None = False, full: float = 1.0) -> Column:
    """Return a column whose score is named by its place in the scores, in a comparison too: `mean/score`."""
    *group, name = path.split("/")
    return Column(
        title=title, group=tuple(group), name=name, lower_is_better=lower_is_better, difference=path, full=full
    )


def title_of(scores: Mapping[str, Any]) -> str:
    """Return the title of an evaluation's table."""
    sample = sample_text(scores)
    asked = f", {sample}" if sample else ""
    return f"{scores['benchmark'].upper()}, rule {scores['rule']}{asked}; below each score its 95 % interval"


def one_line(scores: Mapping[str, Any], counts: Mapping[str, Any], columns: Sequence[Column]) -> Table:
    """Return a table of one line: what was counted, by its title, and every score that is known."""
    known = [one for one in columns if one.value(scores) is not None]
    cells = [shown(one.value(scores), one.interval(scores), name=one.name) for one in known]
    return (title_of(scores), [*counts, *(one.title for one in known)], [[*map(str, counts.values()), *cells]])


def block_rows(blocks: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each type, category or way of counting; how many items and how many unscored where it says."""
    counts = [count for count in ("n", "unscored") if all(count in block for block in blocks.values())]
    rows = [
        [
            group,
            *(shown(block[name], block["ci95"].get(name), name=name) for name in names),
            *(str(block[count]) for count in counts),
        ]
        for group, block in blocks.items()
    ]
    return ["", *(name.replace("_", " ") for name in names), *counts], rows


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an answer; `kind` is "invented", "right", "denied" or "" for plain text."""

    text: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One run's answer to a question.

    Attributes:
        verdict: "right", "wrong" or "unclear", "" for a description.
        judged: what a judge said, one text per repeat.
        fault: how much is wrong with it, to sort by: the number of invented objects, 1 for a wrong answer, or the
            share of the best rating that a judge took off.
        made_up: whether it was found to say something that is not in the image.
    """

    run: str
    pieces: tuple[Piece, ...]
    verdict: str = ""
    summary: str = ""
    judged: tuple[str, ...] = ()
    fault: float = 0.0
    made_up: bool = False


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

    def invents(self, reply: Reply) -> bool:
        """Whether a reply says what is not there: an invented object, a low rating, or a yes where the truth is no."""
        return reply.made_up or (self.is_short and self.truth == "no" and reply.verdict == "wrong")

    @property
    def difference(self) -> float:
        """How far the runs are apart in what is wrong with their answers; 0 or more."""
        faults = [reply.fault for reply in self.replies]
        return max(faults, default=0.0) - min(faults, default=0.0)


One = TypeVar("One")
Given = Sequence[tuple[str, One]]
"""A run's name and its result, for every run that has the item."""


def yes_no_reply(run: str, answer: str, correct: bool | None) -> Reply:
    """Return an answer to a yes/no question with its verdict."""
    verdict = {True: "right", False: "wrong", None: "unclear"}[correct]
    fault = {"right": 0.0, "wrong": 1.0, "unclear": 0.5}[verdict]
    return Reply(run=run, pieces=(Piece(text=answer or "(empty answer)"),), verdict=verdict, fault=fault)


def description_reply(
    run: str, text: str, spans: Sequence[tuple[int, int, str]], *, invented: Sequence[str], missed: Sequence[str]
) -> Reply:
    """Return a description with the objects that it names marked.

    Args:
        spans: (start, end, kind) of each object in the text; see `kind_of`.
    """
    summary = f"not in the image: {', '.join(invented)}" if invented else "nothing invented"
    summary += f"; not mentioned: {', '.join(dict.fromkeys(missed))}" if missed else ""
    pieces = _pieces(text, spans) or (Piece(text="(empty answer)"),)
    return Reply(run=run, pieces=pieces, summary=summary, fault=float(len(invented)), made_up=bool(invented))


def kind_of(*, is_counted: bool, is_invented: bool) -> str:
    """Return the kind of a named object."""
    if not is_counted:
        return "denied"
    return "invented" if is_invented else "right"


def _pieces(text: str, spans: Sequence[tuple[int, int, str]]) -> tuple[Piece, ...]:
    pieces = []
    position = 0
    for start, end, kind in spans:
        pieces += [Piece(text=text[position:start]), Piece(text=text[start:end], kind=kind)]
        position = end
    pieces.append(Piece(text=text[position:]))
    return tuple(piece for piece in pieces if piece.text)
