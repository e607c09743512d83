"""Levels: near-identical and empty responses leave, the better-ranked of two stays."""

import pytest

from amp_cli.preferences.levels import LevelDraft, Levels, choose_levels
from amp_cli.records import Level


def choose(*answers: str | tuple[str, ...]) -> Levels:
    """Sources are s0, s1, ... in the order given."""
    return choose_levels(
        [
            LevelDraft(level=Level(answers=(text,) if isinstance(text, str) else text, source=f"s{number}"))
            for number, text in enumerate(answers)
        ]
    )


def kept(levels: Levels) -> list[str]:
    return [draft.level.source for draft in levels.kept]


def test_case_spaces_and_punctuation_make_no_other_answer() -> None:
    levels = choose("A dog, and a cat.", "a  dog and\na cat", "A dog and two cats.")
    assert kept(levels) == ["s0", "s2"]
    assert levels.identical == ("s1",)


def test_the_better_ranked_of_two_like_answers_stays() -> None:
    levels = choose("A dog.", "A cat.", "A cow.", "a cat!")
    assert kept(levels) == ["s0", "s1", "s2"]
    assert levels.identical == ("s3",)


@pytest.mark.parametrize(
    ("one", "other"), [("3.5", "35"), ("A dog.", "A dog"), ("?", "?!"), ("C++", "C"), ("no", "No.")]
)
def test_what_counts_as_the_same(one: str, other: str) -> None:
    same = {("A dog.", "A dog"), ("no", "No.")}
    assert len(choose(one, other).kept) == (1 if (one, other) in same else 2)


def test_dialogues_are_the_same_only_when_every_round_is() -> None:
    assert len(choose(("A dog.", "Red."), ("A dog!", "red"), ("A dog.", "Blue.")).kept) == 2


def test_an_empty_answer_in_any_round_drops_the_response() -> None:
    levels = choose(("A dog.", "Red."), ("A cat.", " "))
    assert kept(levels) == ["s0"]
    assert levels.empty == ("s1",)
