"""Reading judges' replies: what each official script reads, and what the strict rule reads and refuses."""

import json
import math

import pytest

from amp_cli.benchmarks.ratings import (
    OfficialCrashError,
    read_mmhal_official,
    read_mmhal_strict,
    read_mrhal_official,
    read_mrhal_strict,
    read_pair_official,
    read_pair_strict,
)


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: 5", 5),
        ("**Rating:** 5", 5),
        ("**Rating**: 5", 5),
        ("Rating - 4", 4),
        ("Rating:6", 6),
        ("RATING: 4", 4),
        ("Rating: [5]", 5),
        ("Rating: 5/6", 5),
        ("Rating: 2 out of 6", 2),
        ("Rating: 5.", 5),
        ("Rating: 0, not informative, with hallucination", 0),
        ("- Explanation: short.\n- Rating: 1, somewhat informative", 1),
        ("It matches. Rating: 4, somewhat informative", 4),
        ("Rating: 6. I repeat: rating: 6", 6),
        ("The final rating is 4.", 4),
        ("Rating: 3 - not informative", 3),
        ("| Rating | 5 |", 5),
    ],
)
def test_a_rating_is_read_in_the_forms_that_judges_write(reply: str, rating: int) -> None:
    assert read_mmhal_strict(reply).ratings == (rating,)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "No rating given",
        "Rating: N/A",
        "Rating: six",
        "Rating: 10",
        "Rating: 60",
        "Rating: 7",
        "Rating: -1",
        "Rating: 4.5",
        "Rating: 5/10",
        "Rating: 4 or 5",
        "Rating: 4-5",
        "My overrating: 5",
        "Rating: 5, then on reflection Rating: 3",
        "I cannot help with that.",
    ],
)
def test_what_is_no_single_whole_rating_from_0_to_6_is_unscored_with_a_reason(reply: str) -> None:
    reading = read_mmhal_strict(reply)
    assert reading.ratings is None
    assert reading.reason


def test_of_two_different_ratings_the_last_line_decides_and_only_the_last_line() -> None:
    assert read_mmhal_strict("Rating: 5\nOn reflection:\nRating: 3").ratings == (3,)
    assert read_mmhal_strict("Rating: 5\nRating: 3\nThat is all.").ratings is None


def test_a_rating_that_the_judge_quotes_from_the_answer_is_not_its_own() -> None:
    assert read_mmhal_strict('The answer orders "Rating: 6", which is no evidence.\nRating: 0').ratings == (0,)
    assert read_mmhal_strict('Rating: 0\nThe answer ends with "Rating: 6".').ratings == (0,)
    assert read_mmhal_strict('Rating: 0, though it says "Rating: 6"').ratings == (0,)
    assert read_mmhal_strict('It only says "Rating: 6".').ratings is None


def test_mmhal_s_script_reads_one_of_seven_texts_and_else_counts_0() -> None:
    assert read_mmhal_official("RATING: 4").ratings == (4,)
    assert read_mmhal_official("Rating: 10").ratings == (1,)  # its own weakness, reproduced
    for reply in ("Rating:6", "**Rating**: 5", "Rating: 7", "", "Rating: 5, or rating: 3"):
        reading = read_mmhal_official(reply)
        assert reading.ratings == (0,)
        assert reading.substituted


@pytest.mark.parametrize(
    ("reply", "ratings"),
    [
        ("Ratings: [6, 3]", (6, 3)),
        ("**Ratings:** [6,\n3]", (6, 3)),
        ("Ratings: 6, 3", (6, 3)),
        ("[6, 3]", (6, 3)),
        ("Ratings: [6/6, 3/6]", (6, 3)),
        ("Ratings: [Round 1: 6, Round 2: 3]", (6, 3)),
        ("Hallucination: [Yes, No]\nRatings: [0, 4]", (0, 4)),
        ('It says "Ratings: [6, 6]".\nRatings: [0, 1]', (0, 1)),
        ("Ratings: [6, 6]\nNo:\nRatings: [0, 1]", (0, 1)),
    ],
)
def test_a_list_of_ratings_is_read_in_the_forms_that_judges_write(reply: str, ratings: tuple[int, ...]) -> None:
    assert read_mrhal_strict(reply, 2).ratings == ratings


@pytest.mark.parametrize(
    "reply",
    [
        "no list",
        "Ratings: [N/A, 5]",
        "Ratings: [7, 5]",
        "Ratings: [4.5, 5]",
        "Ratings: [5]",
        "Ratings: [5, 5, 5]",
        "First [3, 4] but finally [5, 6]",
        "Hallucination: [Yes, No]",
    ],
)
def test_what_is_no_single_list_with_a_rating_for_each_round_is_unscored(reply: str) -> None:
    assert read_mrhal_strict(reply, 2).ratings is None


def test_mrhal_s_script_takes_the_list_before_where_it_finds_none_or_several() -> None:
    for reply in ("none", "[a] [b] [c]", "Hallucination: [Yes, No] and [No, No]"):
        reading = read_mrhal_official(reply, 2, (6, 1))
        assert reading.ratings == (6, 1)
        assert reading.substituted
    assert read_mrhal_official("[Yes, No] then [N/A, 6]", 2, None).ratings == (0, 6)


@pytest.mark.parametrize(
    ("reply", "previous"), [("none", None), ("none", (1.0, 2.0, 3.0)), ("[6]", None), ("[4.5, 3]", None), ("[]", None)]
)
def test_where_mrhal_s_script_would_crash_is_known(reply: str, previous: tuple[float, ...] | None) -> None:
    with pytest.raises(OfficialCrashError):
        read_mrhal_official(reply, 2, previous)


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        ("8 9\nfine", (8, 9), (8, 9)),
        ("8,9\ncomma", (8, 9), (8, 9)),
        ("8, 9\n", (-1, -1), (8, 9)),
        (" 8 9", (-1, -1), (8, 9)),
        ("8\t9", (-1, -1), (8, 9)),
        ("\n8 9", (-1, -1), (8, 9)),
        ("8/10 9/10", (-1, -1), (8, 9)),
        ("**8.5 7**", (-1, -1), (8.5, 7)),
        ("Assistant 1: 8, Assistant 2: 9", (-1, -1), (8, 9)),
        ("Both are good.\n8 9", (-1, -1), (8, 9)),
        ("1e1 5", (10, 5), None),
        ("10 11", (10, 11), None),
        ("0 5", (0, 5), (0, 5)),
        ("8/9", (-1, -1), None),
        ("8 9 7", (-1, -1), None),
        ("N/A N/A", (-1, -1), None),
        ("", (-1, -1), None),
    ],
)
def test_two_scores_are_read_as_the_script_does_or_strictly(
    reply: str, official: tuple[float, ...], strict: tuple[float, ...] | None
) -> None:
    assert read_pair_official(reply).ratings == official
    assert read_pair_strict(reply).ratings == strict


def test_the_official_rule_lets_nan_pass_and_the_strict_one_does_not() -> None:
    reading = read_pair_official("nan 5\n").ratings
    assert reading is not None
    assert math.isnan(reading[0])
    assert read_pair_strict("nan 5\n").ratings is None


def test_a_structured_reply_is_read_as_its_texts() -> None:
    reply = json.dumps({"findings": "The answer says 'Rating: 6'.\nIt invents a dog.", "verdict": "Rating: 2"})
    assert read_mmhal_strict(reply).ratings == (2,)
    assert read_mmhal_official(json.dumps({"findings": "A dog.", "verdict": "Rating: 2"})).ratings == (2,)
    rounds = json.dumps({"findings": "Round 2 is wrong.", "verdict": "Ratings: [6, 0]"})
    assert read_mrhal_strict(rounds, 2).ratings == (6, 0)
    assert read_mrhal_official(rounds, 2, None).ratings == (6, 0)
    assert read_mmhal_strict('{"findings": "cut off').ratings is None
