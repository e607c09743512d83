"""Auto-check against similarity matrices written by hand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from amp_cli.errors import AmpError
from amp_cli.preferences.autocheck import Checker, RankedCandidate, attributes_disagree, autocheck, check_items
from amp_cli.preferences.nounchunks import Chunk, ChunkParser, ParsedText


class SlashParser(ChunkParser):
    """Reads "a dog/a cat.|a tree." as two sentences of two chunks and one; a text without "." has none."""

    def parse(self, texts: Sequence[str]) -> list[ParsedText]:
        return [self._read(text) for text in texts]

    def _read(self, text: str) -> ParsedText:
        chunks: list[Chunk] = []
        sentences = text.split("|") if "." in text else []
        for number, sentence in enumerate(sentences):
            for piece in sentence.rstrip(".").split("/"):
                start = text.index(piece)
                chunks.append(Chunk(text=piece, start=start, end=start + len(piece), sentence=number))
        return ParsedText(chunks=tuple(chunks), sentences=tuple(sentences))


class TableEncoder:
    """Gives unit vectors whose cosines are those of a table; pieces that are not in it are orthogonal to all others."""

    name = "table"
    tau = 0.85
    language = "xx"

    def __init__(self, cosines: Mapping[str, Mapping[str, float]]) -> None:
        self.cosines = cosines
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        known = sorted({standard for row in self.cosines.values() for standard in row})
        axes = {text: axis for axis, text in enumerate([*known, *(f"own {text}" for text in texts)])}
        rows = np.zeros((len(texts), len(axes)), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            if text in axes:
                row[axes[text]] = 1
                continue
            for standard, cosine in self.cosines.get(text, {}).items():
                row[axes[standard]] = cosine
            row[axes[f"own {text}"]] = math.sqrt(1 - float((row**2).sum()))
        return rows


def check(
    encoder: TableEncoder,
    standard: str | tuple[str, ...],
    *candidates: str | tuple[str, ...],
    coverage: str = "standard",
    tau: float | None = None,
) -> list[RankedCandidate]:
    checker = Checker(encoder=encoder, parser=SlashParser(), coverage=coverage, tau=tau)
    as_rounds = [(text,) if isinstance(text, str) else text for text in (standard, *candidates)]
    return next(check_items([(as_rounds[0], as_rounds[1:])], checker))


# local S (standard x candidate): dog 0.9, cat 0.2; global S: "dog." 0.8, "cat." 0.3
HOUND = TableEncoder({"hound": {"dog": 0.9, "cat": 0.2}, "hound.": {"dog.": 0.8, "cat.": 0.3}})


def test_accuracy_and_score_are_the_means_of_local_and_global() -> None:
    (one,) = check(HOUND, "dog.|cat.", "hound.")
    # local: p = (1, 0), s = (0.9, 0.2); global: p = (0, 0), s = (0.8, 0.3)
    assert one.accuracy == pytest.approx((0.5 + 0.0) / 2)
    assert one.score == pytest.approx((0.55 + 0.55) / 2)


def test_both_directions_are_averaged_when_asked() -> None:
    (one,) = check(HOUND, "dog.|cat.", "hound.", coverage="both")
    # back: local p = (1), s = (0.9); global p = (0), s = (0.8)
    assert one.accuracy == pytest.approx(((0.5 + 1) / 2 + 0) / 2)
    assert one.score == pytest.approx(((0.55 + 0.9) / 2 + (0.55 + 0.8) / 2) / 2)


def test_what_a_candidate_adds_costs_only_when_both_directions_count() -> None:
    plain, adding = "dog.", "dog.|dragon."
    encoder = TableEncoder({})
    one_way = check(encoder, "dog.", adding, plain)
    assert [candidate.accuracy for candidate in one_way] == [1.0, 1.0]
    assert [candidate.index for candidate in one_way] == [0, 1]
    both = check(encoder, "dog.", adding, plain, coverage="both")
    assert [(candidate.index, candidate.accuracy) for candidate in both] == [(1, 1.0), (0, 0.75)]


def test_accuracy_ranks_before_score_and_score_before_the_given_order() -> None:
    encoder = TableEncoder(
        {
            "near": {"dog": 0.84}, "near.": {"dog.": 0.84},  # accuracy 0, score 0.84
            "hit": {"dog": 0.86}, "hit.": {"dog.": 0.1},  # accuracy 0.5, score 0.48
            "far": {"dog": 0.5}, "far.": {"dog.": 0.5},  # accuracy 0, score 0.5
            "also far": {"dog": 0.5}, "also far.": {"dog.": 0.5},
        }
    )  # fmt: skip
    ranked = check(encoder, "dog.", "far.", "near.", "also far.", "hit.")
    assert [candidate.index for candidate in ranked] == [3, 1, 0, 2]
    assert [candidate.score for candidate in ranked] == pytest.approx([0.48, 0.84, 0.5, 0.5])


def test_a_cosine_of_exactly_tau_does_not_support() -> None:
    encoder = TableEncoder({"half": {"dog": 0.5}, "half.": {"dog.": 0.5}})
    assert check(encoder, "dog.", "half.", tau=0.5)[0].accuracy == 0
    assert check(encoder, "dog.", "half.", tau=0.499)[0].accuracy == 1


def test_a_standard_without_a_chunk_leaves_the_order() -> None:
    ranked = check(TableEncoder({}), "yes", "no", "dog.")
    assert [(candidate.index, candidate.accuracy, candidate.score) for candidate in ranked] == [
        (0, None, None),
        (1, None, None),
    ]
    assert ranked[1].marks[0][0].supported is None


@pytest.mark.parametrize(
    ("standard", "candidate"),
    [
        ("一只狗在草地上跑。", "hound."),
        ("dog/cat.", "一只狗在草地上跑。"),
        ("Le chien est dans la rue.", "hound."),
        (("dog.", "Der Hund sitzt auf dem Tisch."), ("hound.", "hound.")),
    ],
)
def test_what_is_not_in_the_parsers_language_is_not_compared(standard: Any, candidate: Any) -> None:
    ranked = check(HOUND, standard, candidate, candidate)
    assert [(one.index, one.accuracy, one.score, one.marks) for one in ranked] == [
        (0, None, None, ()),
        (1, None, None, ()),
    ]


def test_a_candidate_without_a_chunk_gets_nothing() -> None:
    ranked = check(TableEncoder({}), "dog.", "yes", "dog.")
    assert [(candidate.index, candidate.accuracy, candidate.score) for candidate in ranked] == [(1, 1, 1), (0, 0, 0)]


def test_a_chunk_of_one_round_does_not_support_another_round() -> None:
    (same,) = check(TableEncoder({}), ("dog.", "cat."), ("dog.", "cat."))
    (swapped,) = check(TableEncoder({}), ("dog.", "cat."), ("cat.", "dog."))
    assert (same.accuracy, swapped.accuracy) == (1, 0)


def test_the_mean_is_over_all_chunks_and_not_over_rounds() -> None:
    (one,) = check(TableEncoder({}), ("dog/cat/cow.", "tree."), ("none.", "tree."))
    # local: 1 of 4 chunks; global: 1 of 2 sentences
    assert one.accuracy == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_a_round_whose_standard_names_nothing_counts_in_neither_direction() -> None:
    (one,) = check(TableEncoder({}), ("yes", "tree."), ("yes/a dog.", "tree."), coverage="both")
    assert one.accuracy == 1
    assert [mark.supported for mark in one.marks[0]] == [None, None]


def test_marks_tell_which_chunks_of_the_candidate_are_supported() -> None:
    (one,) = check(HOUND, "dog.|cat.", "hound/dragon.")
    assert [(mark.start, mark.end, mark.supported) for mark in one.marks[0]] == [(0, 5, True), (6, 12, False)]


def test_each_piece_is_embedded_once_for_all_items() -> None:
    encoder = TableEncoder({})
    checker = Checker(encoder=encoder, parser=SlashParser())
    list(check_items([(("dog.",), [("dog.",), ("cat.",)]), (("cat.",), [("dog.",)])], checker))
    assert encoder.calls == [["cat", "cat.", "dog", "dog."]]


def test_a_ranked_candidate_survives_the_file() -> None:
    (one,) = check(HOUND, "dog.|cat.", "hound.")
    assert RankedCandidate.from_json(one.to_json(), [("hound.",)]) == one


def test_another_number_of_rounds_is_refused() -> None:
    with pytest.raises(AmpError, match="as many answers"):
        check(TableEncoder({}), ("dog.", "cat."), "dog.")


@pytest.mark.parametrize("arguments", [{"coverage": "half"}, {"tau": 1.5}, {"tau": 0.0}])
def test_settings_that_cannot_work_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(AmpError):
        Checker(encoder=HOUND, parser=SlashParser(), **arguments)


def chunk(number: int | None = None, *colours: str) -> Chunk:
    return Chunk(text="x", start=0, end=1, sentence=0, number=number, colours=frozenset(colours))


@pytest.mark.parametrize(
    ("one", "other", "disagree"),
    [
        (chunk(2), chunk(3), True),
        (chunk(2), chunk(2), False),
        (chunk(2), chunk(None), False),
        (chunk(0), chunk(1), True),
        (chunk(None, "red"), chunk(None, "blue"), True),
        (chunk(None, "red", "white"), chunk(None, "white"), False),
        (chunk(None, "red"), chunk(None), False),
    ],
)
def test_numbers_and_colours_disagree_only_when_both_tell_them(one: Chunk, other: Chunk, disagree: bool) -> None:
    assert attributes_disagree(one, other) is disagree
    assert attributes_disagree(other, one) is disagree


def test_the_embedded_encoder_ranks_a_true_answer_above_a_false_one() -> None:
    standard = "Two bicycles are leaning against a brick wall. A brown dog is lying on the pavement."
    false = "Three bicycles are leaning against a brick wall. A black cat is sitting on a car."
    true = "A brown dog is lying on the sidewalk, and two bikes lean against a wall."
    ranked = autocheck(standard, [false, true])
    assert [candidate.index for candidate in ranked] == [1, 0]
    supported = {false[mark.start : mark.end]: mark.supported for mark in ranked[1].marks[0]}
    assert supported["A black cat"] is False
    assert not supported["Three bicycles"]
    without = {
        false[mark.start : mark.end]: mark.supported
        for mark in autocheck(standard, [false], compare_attributes=False)[0].marks[0]
    }
    assert without["Three bicycles"]
