"""Auto-check: ranks candidates by what they share with the standard response, noun chunk by noun chunk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from amp_cli.dialogues.language import can_be
from amp_cli.errors import AmpError
from amp_cli.preferences.encoders import Encoder, MiniLMEncoder
from amp_cli.preferences.nounchunks import Chunk, ChunkParser, ParsedText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


COVERAGES = ("standard", "both")
ITEMS_AT_ONCE = 64
DIGITS = 6
"""Accuracy and score are rounded to this many digits, so that the last bits of a dot product decide no tie."""

Rounds = tuple[str, ...]
"""A response: one answer per round."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One noun chunk of an answer: its characters, and whether the standard response supports it.

    `supported` is None where the standard response of the round names nothing to compare with.
    """

    start: int
    end: int
    supported: bool | None


@dataclass(frozen=True, kw_only=True)
class RankedCandidate:
    """A candidate in its place of the quality order.

    `index` is its place in the order it was given in, `accuracy` and `score` (0..1) are None where the standard
    response has no noun chunk, or the item is not in the parser's language; `marks` holds the chunks of each round's
    answer in reading order, and is empty where nothing was parsed.
    """

    index: int
    answers: Rounds
    accuracy: float | None
    score: float | None
    marks: tuple[tuple[Mark, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return all but the answers, which stand in candidates.jsonl."""
        marks = [[[mark.start, mark.end, mark.supported] for mark in answer] for answer in self.marks]
        return {"index": self.index, "accuracy": self.accuracy, "score": self.score, "marks": marks}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], candidates: Sequence[Rounds]) -> Self:
        return cls(
            index=record["index"],
            answers=candidates[record["index"]],
            accuracy=record["accuracy"],
            score=record["score"],
            marks=tuple(
                tuple(Mark(start=start, end=end, supported=supported) for start, end, supported in answer)
                for answer in record["marks"]
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Checker:
    """What auto-check compares with.

    Args:
        tau: cosine above which two chunks or two sentences say the same; the encoder's own when None.
        coverage: `standard` (the paper) asks which of the standard's chunks the candidate has. `both` asks the reverse
            too and takes the mean, so that what a candidate adds and the standard does not know costs as well.
        compare_attributes: chunks whose numbers or colours disagree do not support each other; on for MiniLM when None.
    """

    encoder: Encoder
    parser: ChunkParser
    tau: float | None = None
    coverage: str = "standard"
    compare_attributes: bool | None = None

    def __post_init__(self) -> None:
        if self.coverage not in COVERAGES:
            raise AmpError(f"There is no coverage '{self.coverage}'", hint=f"Use {' or '.join(COVERAGES)}")
        if self.tau is not None and not 0 < self.tau < 1:
            raise AmpError(f"tau must lie between 0 and 1, not {self.tau}", hint="Leave out --tau for the default")

    @property
    def threshold(self) -> float:
        return self.encoder.tau if self.tau is None else self.tau

    def can_read(self, standard: Rounds, candidates: Sequence[Rounds]) -> bool:
        """Return whether all of an item's responses can be in the parser's language; others have no order of ours."""
        return all(can_be(response, self.parser.language) for response in (standard, *candidates))

    @property
    def attributes_are_compared(self) -> bool:
        """MiniLM gives "two bicycles" and "three bicycles" .80, far above its tau."""
        if self.compare_attributes is None:
            return self.encoder.name == MiniLMEncoder.name
        return self.compare_attributes


def autocheck(
    standard: str | Sequence[str],
    candidates: Sequence[str | Sequence[str]],
    *,
    encoder: Encoder | None = None,
    tau: float | None = None,
    coverage: str = "standard",
    compare_attributes: bool | None = None,
) -> list[RankedCandidate]:
    """Rank the candidates of one item, best first, against its standard response (paper, section 3.1).

    A response is a text, or one text per round; rounds are compared one by one. Local accuracy and score are means over
    the standard's noun chunks of "found in the candidate" (cosine above tau) and of the best cosine; global ones the
    same over the sentences they stand in; the result is the mean of local and global. Ranked by accuracy, ties by
    score, further ties as given. See `Checker` for the other arguments.
    """
    checker = Checker(
        encoder=encoder or MiniLMEncoder(),
        parser=ChunkParser(),
        tau=tau,
        coverage=coverage,
        compare_attributes=compare_attributes,
    )
    return next(check_items([(_rounds(standard), [_rounds(candidate) for candidate in candidates])], checker))


def _rounds(response: str | Sequence[str]) -> Rounds:
    return (response,) if isinstance(response, str) else tuple(response)


def check_items(items: Iterable[tuple[Rounds, Sequence[Rounds]]], checker: Checker) -> Iterator[list[RankedCandidate]]:
    """Rank the candidates of many items `(standard, candidates)`, a bounded number of them in memory at a time."""
    remaining = iter(items)
    while batch := list(islice(remaining, ITEMS_AT_ONCE)):
        readable = [checker.can_read(standard, candidates) for standard, candidates in batch]
        answers = [
            answer
            for (standard, candidates), is_readable in zip(batch, readable, strict=True)
            if is_readable
            for rounds in (standard, *candidates)
            for answer in rounds
        ]
        parsed = dict(zip(answers, checker.parser.parse(answers), strict=True))
        comparison = _Comparison(checker, parsed)
        for (standard, candidates), is_readable in zip(batch, readable, strict=True):
            yield comparison.rank(standard, candidates) if is_readable else as_given(candidates)


def as_given(candidates: Sequence[Rounds]) -> list[RankedCandidate]:
    """Return candidates in the order they have, nothing compared."""
    return [
        RankedCandidate(index=index, answers=answers, accuracy=None, score=None, marks=())
        for index, answers in enumerate(candidates)
    ]


class _Comparison:
    """Parsed texts and the vectors of their chunks and sentences, each embedded once."""

    def __init__(self, checker: Checker, parsed: dict[str, ParsedText]) -> None:
        self.checker = checker
        self.parsed = parsed
        pieces = {chunk.text for text in parsed.values() for chunk in text.chunks}
        pieces.update(sentence for text in parsed.values() for sentence in text.sentences)
        ordered = sorted(pieces)
        self._row = {piece: row for row, piece in enumerate(ordered)}
        self._vectors = checker.encoder.embed(ordered)  # (pieces, d)

    def rank(self, standard: Rounds, candidates: Sequence[Rounds]) -> list[RankedCandidate]:
        if any(len(candidate) != len(standard) for candidate in candidates):
            raise AmpError(
                f"A candidate does not have as many answers as the standard response ({len(standard)})",
                hint="Generate it again: remove its line from candidates.jsonl",
            )
        compared = [self._compare(index, standard, candidate) for index, candidate in enumerate(candidates)]
        return sorted(compared, key=lambda one: (-(one.accuracy or 0), -(one.score or 0), one.index))

    def _compare(self, index: int, standard: Rounds, candidate: Rounds) -> RankedCandidate:
        local, whole, marks = _Tally(self.checker), _Tally(self.checker), []
        for round_standard, round_answer in zip(standard, candidate, strict=True):
            truth, answer = self.parsed[round_standard], self.parsed[round_answer]
            chunk_cosines = self._chunk_cosines(truth.chunks, answer.chunks)  # (m, n)
            local.add(chunk_cosines)
            whole.add(self._cosines(truth.sentences, answer.sentences))
            marks.append(self._marks(answer.chunks, chunk_cosines))
        accuracy = score = None
        if local.compared:
            accuracy = round((local.accuracy + whole.accuracy) / 2, DIGITS)
            score = round((local.score + whole.score) / 2, DIGITS)
        return RankedCandidate(index=index, answers=candidate, accuracy=accuracy, score=score, marks=tuple(marks))

    def _cosines(self, ours: Sequence[str], theirs: Sequence[str]) -> "Matrix":
        """Return (m, n) cosines of two lists of pieces."""
        vectors = self._vectors
        return vectors[[self._row[piece] for piece in ours]] @ vectors[[self._row[piece] for piece in theirs]].T

    def _chunk_cosines(self, ours: Sequence[Chunk], theirs: Sequence[Chunk]) -> "Matrix":
        """Return (m, n) cosines, at most tau (too low to support) where numbers or colours disagree."""
        cosines = self._cosines([chunk.text for chunk in ours], [chunk.text for chunk in theirs])
        if self.checker.attributes_are_compared:
            for m, our in enumerate(ours):
                for n, their in enumerate(theirs):
                    if attributes_disagree(our, their):
                        cosines[m, n] = min(cosines[m, n], self.checker.threshold)
        return cosines

    def _marks(self, chunks: Sequence[Chunk], cosines: "Matrix") -> tuple[Mark, ...]:
        known = cosines.shape[0] > 0
        best = cosines.max(axis=0, initial=0.0)  # (n,)
        return tuple(
            Mark(start=chunk.start, end=chunk.end, supported=bool(cosine > self.checker.threshold) if known else None)
            for chunk, cosine in zip(chunks, best, strict=True)
        )


class _Tally:
    """Sums of found pieces and best cosines over the rounds of a dialogue, per direction."""

    def __init__(self, checker: Checker) -> None:
        self._tau = checker.threshold
        self._axes = (1, 0) if checker.coverage == "both" else (1,)
        self._found = [0.0, 0.0]
        self._best = [0.0, 0.0]
        self._count = [0, 0]

    def add(self, cosines: "Matrix") -> None:
        """Add one round's (m, n) cosines of standard and candidate; if the standard names nothing, nothing counts."""
        if cosines.shape[0] == 0:
            return
        for direction, axis in enumerate(self._axes):
            best = cosines.max(axis=axis, initial=0.0)  # (m,) or (n,); 0 where the other side has nothing
            self._found[direction] += float((best > self._tau).sum())
            self._best[direction] += float(best.sum())
            self._count[direction] += len(best)

    @property
    def compared(self) -> bool:
        return self._count[0] > 0

    @property
    def accuracy(self) -> float:
        return self._mean(self._found)

    @property
    def score(self) -> float:
        return self._mean(self._best)

    def _mean(self, sums: Sequence[float]) -> float:
        """Mean over the pieces of each direction, then over the directions that have any."""
        means = [total / count for total, count in zip(sums, self._count, strict=True) if count]
        return sum(means) / len(means)


def attributes_disagree(one: Chunk, other: Chunk) -> bool:
    """Say whether both chunks tell a number, and not the same, or both tell colours, and share none."""
    numbers = {one.number, other.number}
    if None not in numbers and len(numbers) == 2:
        return True
    return bool(one.colours and other.colours and not one.colours & other.colours)
