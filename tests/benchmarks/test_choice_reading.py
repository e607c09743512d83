"""Which of the lettered choices an answer takes."""

import pytest

from amp_cli.benchmarks.choice_reading import choices_of, read_choice, read_letter

CHOICES = choices_of("Where is it?\nA. Red\nB. On the table\n C.In the box\nD) A dog\nE. None of the above\nChoose.")


def test_choices_stand_on_lines_of_their_own() -> None:
    assert CHOICES == {"A": "Red", "B": "On the table", "C": "In the box", "D": "A dog", "E": "None of the above"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(
            (form, "B")
            for form in ("B", "b", "(b)", "[B]", "B.", " B\n", "\uff22", "B - On the table", "b. on the table")
        ),
        *((form, "B") for form in ("Answer: **B**", "**Answer:** B", "answer: b", "The answer is (B).", "Option B")),
        *((form, "B") for form in ("\\boxed{\\text{B}}", "<answer>B</answer>", "<think>A? C?</think>B", "I choose B!")),
        *(
            (form, "B")
            for form in ("B is correct.", "The answer is B, not C.", "B. On the table. Not A.", '{"answer": "B"}')
        ),
        *((form, "B") for form in ("On the table", "on table.", "It is on the table.", "The answer is on the table")),
        ("The answer is A because it is red.", "A"),
        ("The options are: A) Red, B) On the table. So the correct answer is A) Red.", "A"),
        ("A is wrong, so the answer is C", "C"),
        ("A person stands there, so C", "C"),
        ("A, B and D can be ruled out; C remains.", "C"),
        ("The correct answer would be D. A dog", "D"),
        ("The answer is a dog.", "D"),
        ("None of these options are correct.", "E"),
        ("Options A, B and C are wrong, so the answer is E.", "E"),
        ("E. None of above", "E"),
    ],
)
def test_a_letter_or_its_text_is_read(answer: str, letter: str) -> None:
    assert read_choice(answer, CHOICES) == letter


@pytest.mark.parametrize(
    "answer",
    [
        *("", "I'm sorry, I cannot see the image.", "It depends.", "F", "ABCD"),
        *("A or B", "A/B", "The answer is A or B.", "Both A and C are correct.", "(A) Red\n(B) On the table"),
        *("B. Red", "The answer is B. Red", "\\boxed{A} \\boxed{B}", "<think>B? It is B"),
        *("not B", "The answer is not B.", "It is not on the table.", "It might be on the table."),
        *("A table stands there.", "A dog stands on the table.", "C-shaped", "It is on the table. It is red."),
    ],
)
def test_none_or_several_are_not_read(answer: str) -> None:
    assert read_choice(answer, CHOICES) is None


def test_a_text_that_two_choices_share_is_not_read() -> None:
    assert read_choice("Red", {"A": "Red", "B": "the red"}) is None
    assert read_choice("It is on the table", {"A": "table", "B": "On the table"}) == "B"


def test_the_official_reading_is_of_words_alone() -> None:
    assert [read_letter(text) for text in ("B", "(b)", "A cat", "B. a cat", "none", "C_")] == [
        "B",
        "B",
        "A",
        None,
        None,
        None,
    ]
