"""Length bias and style shift: numbers by hand, warnings where the statistics are clear, silence where they are not."""

import math
import random
from collections import Counter

import pytest

from amp_cli.preferences.check.style import StyleShift, divergence
from amp_cli.preferences.check.texts import LengthBias
from amp_cli.records import Level, PreferenceItem


def item(*answers: str, sources: tuple[str, ...] = ("standard", "7b", "3b")) -> PreferenceItem:
    return PreferenceItem(
        id="a",
        images=(),
        questions=("What?",),
        levels=tuple(Level(answers=(text,), source=source) for text, source in zip(answers, sources, strict=False)),
    )


def words(count: int) -> str:
    return " ".join(["word"] * count)


def lengths(*items: tuple[int, ...]) -> LengthBias:
    bias = LengthBias()
    for counts in items:
        bias.take(item(*(words(count) for count in counts)))
    return bias


def test_the_effect_size_is_cohens_d() -> None:
    bias = lengths((4, 1), (6, 3))
    # means 5 and 2, both variances 2 (of 4, 6 and 1, 3), so the pooled deviation is sqrt(2)
    assert bias.effect == pytest.approx(3 / math.sqrt(2))


def test_all_pairs_of_levels_are_counted_and_equal_lengths_apart() -> None:
    bias = lengths((3, 2, 2), (1, 2, 1))
    assert (bias.longer, bias.shorter, bias.equal) == (2 + 1, 1, 2)
    assert bias.longer_share == 0.75


@pytest.mark.parametrize(
    ("counts", "word"), [([(10, 7), (30, 27), (60, 57)], "longer"), ([(7, 10), (27, 30), (57, 60)], "shorter")]
)
def test_a_best_answer_that_is_mostly_longer_or_shorter_is_warned_of(counts: list[tuple[int, int]], word: str) -> None:
    finding = lengths(*counts * 10).finding()
    assert finding is not None
    assert f"the better answer is {word} in 100%" in finding.message
    assert finding.count == 30


def test_a_large_effect_alone_is_warned_of() -> None:
    finding = lengths(*[(30, 10)] * 12, *[(9, 10)] * 8).finding()  # 60 % of pairs, but much longer
    assert finding is not None
    assert "d +" in finding.message


def test_balanced_lengths_and_few_items_are_not_warned_of() -> None:
    assert lengths(*[(10, 9)] * 20, *[(9, 10)] * 18).finding() is None
    assert lengths(*[(10, 5)] * 19).finding() is None


def test_two_sources_without_a_common_word_are_one_bit_apart_and_one_with_itself_none() -> None:
    many, others = {"a": 100_000}, {"b": 100_000}
    assert divergence(many, others) == pytest.approx(1.0, abs=1e-4)
    assert divergence(many, many) == 0.0


def test_the_divergence_of_a_half_is_as_by_hand() -> None:
    # p = (1, 0), q = (1/2, 1/2): 1/2 log2(4/3) + 1/4 log2(2/3) + 1/4 log2(2)
    by_hand = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    assert divergence({"a": 10**6}, {"a": 10**6, "b": 10**6}) == pytest.approx(by_hand, abs=1e-4)


def test_two_samples_of_one_distribution_do_not_differ() -> None:
    chance = random.Random(1)
    found = []
    for _ in range(20):
        one, other = (Counter(chance.choices("abcdefghij", k=300)) for _ in range(2))
        found.append(divergence(one, other))
    assert sum(found) / len(found) < 0.005


OBJECTS = ("dog", "cat", "bus", "boat", "tree", "sign", "chair")


def plain(chance: random.Random) -> str:
    one, two = chance.sample(OBJECTS, 2)
    return chance.choice(
        (f"A {one} is beside the {two}.", f"There is a {one} and a {two} in it.", f"The {one} is on the {two}.")
    )


def chatty(chance: random.Random) -> str:
    one, two = chance.sample(OBJECTS, 2)
    return (
        f"Sure! Here is what I can see:\n- **{one}**, which may be very near\n- **{two}**, which might have been there"
    )


def shift(best: list[str], worse: list[str], sources: tuple[str, str] = ("gpt4", "7b")) -> StyleShift:
    style = StyleShift()
    for one, other in zip(best, worse, strict=True):
        style.take(item(one, other, sources=sources))
    return style


def test_a_source_that_writes_in_another_style_is_warned_of_with_the_reasons() -> None:
    chance = random.Random(2)
    style = shift([plain(chance) for _ in range(300)], [chatty(chance) for _ in range(300)])
    finding = style.finding()
    assert finding is not None
    assert finding.examples == ("7b",)
    for reason in ("function words", "openings", "lists in 100% of answers, not 0%"):
        assert reason in finding.message
    assert style.best == "gpt4"


def test_sources_of_one_style_are_not_warned_of() -> None:
    chance = random.Random(3)
    style = shift([plain(chance) for _ in range(300)], [plain(chance) for _ in range(300)])
    assert style.finding() is None
    assert style.shifts()[1].function_words == pytest.approx(0, abs=0.01)


def test_too_few_answers_are_not_compared() -> None:
    chance = random.Random(4)
    style = shift([plain(chance) for _ in range(49)], [chatty(chance) for _ in range(49)])
    assert style.finding() is None
    assert style.shifts()[1].openings is None


def test_the_words_of_a_sentence_and_the_lists_are_counted() -> None:
    style = shift(["One two three. Four five! Six\nSeven."], ["- one\n- two"])
    best, other = style.shifts()
    assert best.words_per_sentence == 7 / 4
    assert (best.list_share, other.list_share) == (0.0, 1.0)
    assert other.opening == "one two"


def test_answers_in_other_languages_are_counted_and_not_compared() -> None:
    style = StyleShift()
    for _ in range(60):
        style.take(item("There is a dog on the lawn.", "草地上有一只狗。", "There is a cat on the lawn."))
    shifts = {shift.source: shift for shift in style.shifts()}
    assert (shifts["7b"].answers, shifts["7b"].in_other_languages, shifts["7b"].reasons) == (0, 60, ())
    assert (shifts["3b"].answers, shifts["3b"].in_other_languages) == (60, 0)
    found = style.other_languages()
    assert found is not None
    assert (found.check, found.count) == ("language", 60)
    assert "60 of 180 answers" in found.message


def test_english_alone_gives_no_warning_of_the_language() -> None:
    style = StyleShift()
    style.take(item("A dog.", "A cat.", "Two dogs."))
    assert style.other_languages() is None
