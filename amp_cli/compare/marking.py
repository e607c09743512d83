"""Marks answers side by side: what a reference supports and what it does not, or else only where they differ.

the reference says   A cat sleeps on a red sofa.
an answer            A cat and a dog lie on a sofa.      marked: "A cat" right, "a dog" invented, "a sofa" right
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.benchmarks.mentions import count_words, is_denied
from amp_cli.benchmarks.showing import Piece, Reply
from amp_cli.compare.questions import ComparedQuestions, Wanted
from amp_cli.preferences.autocheck import Checker, Mark, check_items
from amp_cli.preferences.page import split_at_marks
from amp_cli.records import Answer

OTHER = "other"
"""The kind of a piece that the answer beside it does not have."""
KINDS = {"supported": "right", "unsupported": "invented", "plain": ""}
_WORDS = re.compile(r"\S+")
_NONE = re.compile(r"(?:no|neither|none)\b", re.IGNORECASE)
_INSIDE = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Said = Mapping[str, tuple[str, ...]]
"""A side's name -> its answer to each question."""


@dataclass(frozen=True, kw_only=True)
class ComparedRound:
    """A question, what it is held against, and the answers side by side.

    Attributes:
        truth, truth_is: the reference, and what it is; '' where there is none.
        supported, unsupported: how many words of each reply are so, by side; empty where nothing was marked.
    """

    question: str
    replies: tuple[Reply, ...]
    differs: bool
    truth: str = ""
    truth_is: str = ""
    supported: tuple[int, ...] = ()
    unsupported: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ComparedItem:
    """An item with its images' files and its rounds."""

    id: str
    images: tuple[Path, ...]
    rounds: tuple[ComparedRound, ...]

    @property
    def differs(self) -> bool:
        """Whether the answers differ in any round."""
        return any(one.differs for one in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Return it with each mark as (start, end, kind) of the answer's characters."""
        return {
            "id": self.id,
            "images": list(map(str, self.images)),
            "differs": self.differs,
            "rounds": [
                {
                    "question": one.question,
                    "reference": one.truth or None,
                    "reference_is": one.truth_is or None,
                    "answers": {reply.run: _reply_to_json(reply) for reply in one.replies},
                }
                for one in self.rounds
            ],
        }


def _reply_to_json(reply: Reply) -> dict[str, Any]:
    marks, at = [], 0
    for piece in reply.pieces:
        if piece.kind:
            marks.append([at, at + len(piece.text), piece.kind])
        at += len(piece.text)
    text = "".join(piece.text for piece in reply.pieces)
    return {"text": text, "marks": marks, "verdict": reply.verdict or None, "summary": reply.summary or None}


def mark_items(
    questions: ComparedQuestions, answers: Mapping[str, Said], checker: Checker | None
) -> Iterator[ComparedItem]:
    """Yield the answered items in their order, marked by what is known of each.

    A benchmark that scores by itself marks as it counts. Else a reference answer does, by auto-check's noun chunks,
    where there is a checker that can read it. What neither of them says anything of shows where the sides differ.

    Args:
        answers: item id -> what each side said.
    """
    answered = [one for one in questions.wanted if one.request.id in answers]
    benchmark = questions.benchmark
    if benchmark is not None and benchmark.score is not None:
        for one in answered:
            scored = _scored(benchmark, one, answers[one.request.id], questions.rule)
            yield ComparedItem(id=one.request.id, images=one.request.images, rounds=(scored,))
        return
    checked = checker is not None and all(one.standard for one in answered)
    marks = _checked(answered, answers, checker) if checked and checker is not None else iter([()] * len(answered))
    for one, of_sides in zip(answered, marks, strict=True):
        said = answers[one.request.id]
        rounds = tuple(
            _round(one, number, said, [its[number] for its in of_sides if its])
            for number in range(len(one.request.questions))
        )
        yield ComparedItem(id=one.request.id, images=one.request.images, rounds=rounds)


def _scored(benchmark: Benchmark[Any], one: Wanted, said: Said, rule: str) -> ComparedRound:
    """Return a round as a benchmark sees it: yes/no answers with verdicts, descriptions with their objects marked."""
    assert one.item is not None
    assert benchmark.score is not None
    scores = [
        (name, benchmark.score(one.item, Answer(id=one.item.id, answers=texts), rule)) for name, texts in said.items()
    ]
    row = benchmark.row(scores[0][1], scores)
    is_marked = not row.is_short
    return ComparedRound(
        question="\n".join(one.request.questions),
        replies=row.replies,
        differs=row.differs,
        truth=row.truth,
        truth_is=row.truth_is,
        supported=tuple(_count(reply, "right") for reply in row.replies) if is_marked else (),
        unsupported=tuple(_count(reply, "invented") for reply in row.replies) if is_marked else (),
    )


def _count(reply: Reply, kind: str) -> int:
    return sum(piece.kind == kind for piece in reply.pieces)


def _checked(
    answered: Sequence[Wanted], answers: Mapping[str, Said], checker: Checker
) -> Iterator[list[tuple[tuple[Mark, ...], ...]]]:
    """Yield for each item and side the noun chunks of each round; () of a side that nothing could be said of."""
    given = ((one.standard, list(answers[one.request.id].values())) for one in answered)
    for ranked in check_items(given, checker):
        yield [one.marks for one in sorted(ranked, key=lambda one: one.index)]


def _round(one: Wanted, number: int, said: Said, marks: Sequence[Sequence[Mark]]) -> ComparedRound:
    """Return a round of texts: marked by the reference's noun chunks, or with the words that differ."""
    texts = [answers[number] for answers in said.values()]
    names = list(said)
    truth = one.standard[number] if one.standard else ""
    plain = ComparedRound(
        question=one.request.questions[number],
        replies=tuple(map(_differing, names, texts, _beside(texts))),
        differs=len({_plain(text) for text in texts}) > 1,
        truth=truth,
        truth_is="Reference answer" if truth else "",
    )
    if not any(mark.supported is not None for its in marks for mark in its):
        return plain
    asserted = [_asserted(text, its) for text, its in zip(texts, marks, strict=True)]
    return replace(
        plain,
        replies=tuple(
            Reply(run=name, pieces=_pieces(text, its), summary=_unsupported(text, its))
            for name, text, its in zip(names, texts, asserted, strict=True)
        ),
        supported=tuple(sum(mark.supported is True for mark in its) for its in asserted),
        unsupported=tuple(sum(mark.supported is False for mark in its) for its in asserted),
    )


def _asserted(text: str, marks: Sequence[Mark]) -> list[Mark]:
    """Return the marks without those of what the text says is not there."""
    return [mark for mark in marks if mark.supported or not _is_denied(text, mark)]


def _is_denied(text: str, mark: Mark) -> bool:
    """Whether a text says that it is not there: before the chunk, or with its first word ("no green boat")."""
    return _NONE.match(text, mark.start) is not None or is_denied(text, mark.start, mark.end)


def _pieces(text: str, marks: Sequence[Mark]) -> tuple[Piece, ...]:
    return tuple(Piece(text=run.text, kind=KINDS[run.state]) for run in split_at_marks(text, marks))


def _unsupported(text: str, marks: Sequence[Mark]) -> str:
    named = dict.fromkeys(text[mark.start : mark.end] for mark in marks if mark.supported is False)
    return f"not in the reference: {', '.join(named)}" if named else ""


def _beside(texts: Sequence[str]) -> list[str]:
    """Return for each text the one that it is held against: the first, and for the first the second."""
    return [texts[1], *([texts[0]] * (len(texts) - 1))]


def _differing(name: str, text: str, other: str) -> Reply:
    """Return a reply with the words marked that the other text does not have at this place."""
    words = [(found[0], found.start(), found.end()) for found in _WORDS.finditer(text)]
    mine, theirs = [_plain(word) for word, _, _ in words], [_plain(word) for word in _WORDS.findall(other)]
    pieces: list[Piece] = []
    position = 0
    for operation, first, last, _, _ in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if operation != "equal" and last > first:
            start, end = words[first][1], words[last - 1][2]
            pieces += [Piece(text=text[position:start]), Piece(text=text[start:end], kind=OTHER)]
            position = end
    pieces.append(Piece(text=text[position:]))
    return Reply(run=name, pieces=tuple(piece for piece in pieces if piece.text))


def _plain(text: str) -> str:
    """Return a text's words in one case, without punctuation; the text itself where it has none."""
    return " ".join(_INSIDE.findall(text.casefold())) or text.strip()


def totals_of(items: Sequence[ComparedItem], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return of each side how many answers, their mean words, and what was marked in them; None where nothing was."""
    return {name: _totals(items, place) for place, name in enumerate(names)}


def _totals(items: Sequence[ComparedItem], place: int) -> dict[str, Any]:
    rounds = [one for item in items for one in item.rounds]
    replies = [one.replies[place] for one in rounds]
    texts = ["".join(piece.text for piece in reply.pieces) for reply in replies]
    marked = [one for one in rounds if one.unsupported]
    judged = [reply.verdict for reply in replies if reply.verdict]

    def summed(count: Callable[[ComparedRound], int]) -> int | None:
        return sum(map(count, marked)) if marked else None

    return {
        "answers": len(replies),
        "words": sum(map(count_words, texts)) / len(texts) if texts else None,
        "supported": summed(lambda one: one.supported[place]),
        "unsupported": summed(lambda one: one.unsupported[place]),
        "answers_with_unsupported": summed(lambda one: one.unsupported[place] > 0),
        "marked": len(marked),
        "right": judged.count("right") if judged else None,
        "wrong": judged.count("wrong") if judged else None,
        "unclear": judged.count("unclear") if judged else None,
    }
