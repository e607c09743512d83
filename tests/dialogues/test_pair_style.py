"""What the length of the better side teaches, told for the pairs that are trained on, and what helps."""

import json
import math
from pathlib import Path

import pytest

from amp_cli.dialogues.pair_style import Mean, length_lesson
from amp_cli.records import Level, PreferenceItem
from amp_cli.training.data import prepare_items
from tests.support.training_items import preference, write_preferences


def item(number: int, *words: int) -> PreferenceItem:
    levels = tuple(Level(answers=(" ".join(["word"] * count),), source="a") for count in words)
    return PreferenceItem(id=str(number), images=(), questions=("What?",), levels=levels)


def items(*words: int, count: int = 20) -> list[PreferenceItem]:
    return [item(number, *words) for number in range(count)]


def test_pairs_of_one_item_do_not_make_the_interval_narrower() -> None:
    single, repeated = Mean(), Mean()
    for total in (1.0, 3.0, 5.0):
        single.take(total, 1)
        repeated.take(7 * total, 7)  # the same difference in each of seven pairs
    assert repeated.ci95 == pytest.approx(single.ci95)
    assert single.ci95 == pytest.approx((3 - 1.96 * 2 / math.sqrt(3), 3 + 1.96 * 2 / math.sqrt(3)))


def test_the_pairs_that_are_trained_on_decide_and_the_set_that_leans_least_is_named() -> None:
    # with level 0: -12, -11 and -7; among the others: +1, +5 and +4
    told = length_lesson(items(30, 42, 41, 37), "best-vs-rest")
    assert told is not None
    assert "is 10.0 words (25%) shorter on average, in 100% of them" in told[0]
    assert "95 % interval -10.0 to -10.0 words" in told[0]
    assert "with level 0 10.0 words (25%) shorter, among the others 3.3 words (9%) longer" in told[0]
    # adjacent: (-12 + 1 + 4) / 3, of (42 + 41 + 37) / 3
    assert told[1] == "--set pairs=adjacent: over its pairs the better side is 2.3 words (6%) shorter"
    assert length_lesson(items(30, 42, 41, 37), "all") is None  # -20 words over 6 pairs, of 39
    assert length_lesson(items(30, 42, 41, 37), "adjacent") is None


def test_where_no_pair_set_helps_none_is_named() -> None:
    told = length_lesson(items(20, 10), "all")
    assert told is not None
    assert "is 10.0 words (100%) longer on average, in 100% of them" in told[0]
    assert "among the others" not in told[0]
    assert told[1].startswith("no other --set pairs=... of these data leans much less")


def test_where_no_pair_set_helps_and_some_pairs_lean_the_other_way_they_may_be_balanced() -> None:
    told = length_lesson([*items(20, 10, count=40), *(item(n, 10, 12) for n in range(100, 110))], "all")
    assert told is not None
    assert told[1].startswith("--set length_balance=1: pairs weigh so")


def test_few_items_small_differences_and_empty_data_are_passed_over() -> None:
    assert length_lesson(items(20, 10, count=19), "all") is None
    assert length_lesson(items(20, 21), "all") is None
    assert length_lesson([item(n, 10, 20) if n % 2 else item(n, 21, 11) for n in range(40)], "all") is None
    assert length_lesson([], "all") is None


@pytest.mark.parametrize(("pairs", "is_told"), [("all", True), (None, False)])
def test_training_warns_once_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: str | None, is_told: bool
) -> None:
    records = [preference(0, levels=2) for _ in range(20)]
    for number, record in enumerate(records):
        record["id"] = str(number)
        record["levels"][0]["answers"] = ["a dog."]
    prefs = write_preferences(tmp_path / "data", records)
    for _ in range(2):
        prepare_items(prefs, tmp_path / "run", image_root=None, method="mdpo", pairs=pairs)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("length may be learned in place of truth") == is_told
    assert json.loads((tmp_path / "run" / "items.jsonl").read_text().splitlines()[0])["id"] == "0"
