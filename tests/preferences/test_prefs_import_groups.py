"""Pairs of one prompt become one item of more levels where they leave one order, and stay pairs where not."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from amp_cli.preferences.formats.grouping import INCOMPLETE, INCONSISTENT, REPEATED, TOO_MANY, GivenIds, join_pairs
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.reading import read_items
from amp_cli.records import Level, PreferenceItem
from tests.support.prefs_formats import EXAMPLES, write_lines


def pair(good: str, bad: str) -> PreferenceItem:
    return PreferenceItem(
        id=f"{good}{bad}",
        images=("dog.png",),
        questions=("Q",),
        levels=(Level(answers=(good,), source="chosen"), Level(answers=(bad,), source="rejected")),
        meta={"from": f"{good}{bad}"},
    )


def joined(*pairs: str) -> tuple[list[str], dict[str, int]]:
    """Join pairs such as "AB" (A is better than B); an item is shown as its levels."""
    notes = Counter[str]()
    items = join_pairs([pair(*text) for text in pairs], notes)
    return ["".join(level.answers[0] for level in item.levels) for item in items], dict(+notes)


@pytest.mark.parametrize(
    ("pairs", "items", "notes"),
    [
        (["AB"], ["AB"], {}),
        (["AB", "BC"], ["ABC"], {}),
        (["BC", "AB"], ["ABC"], {}),
        (["AC", "AB", "BC"], ["ABC"], {}),
        (["AB", "BC", "CD", "DE"], ["ABCDE"], {}),
        (["AB", "CD"], ["AB", "CD"], {}),  # nothing in common: nothing lost either
        (["AB", "CD", "BC"], ["ABCD"], {}),
        (["AB", "AC"], ["AB", "AC"], {INCOMPLETE: 2}),
        (["AC", "BC"], ["AC", "BC"], {INCOMPLETE: 2}),
        (["AB", "BA"], ["AB", "BA"], {INCONSISTENT: 2}),
        (["AB", "BC", "CA"], ["AB", "BC", "CA"], {INCONSISTENT: 3}),
        (["AB", "BC", "XY", "YX"], ["ABC", "XY", "YX"], {INCONSISTENT: 2}),
        (["AB", "AB"], ["AB"], {REPEATED: 1}),
        (["AA"], ["AA"], {}),
        (["AB", "BC", "BD", "CD"], ["ABCD"], {}),
        (["AB", "BC", "CD", "DE", "EF", "FG", "GH"], ["ABCDEFGH"], {}),
        ([f"{one}{two}" for one, two in pairwise("ABCDEFGHI")], [*map("".join, pairwise("ABCDEFGHI"))], {TOO_MANY: 8}),
    ],
)
def test_pairs_are_joined_where_one_order_is_left(pairs: list[str], items: list[str], notes: dict[str, int]) -> None:
    assert joined(*pairs) == (items, notes)


def test_a_joined_item_names_its_pairs_and_keeps_the_first_ones_id_and_meta() -> None:
    (item,) = join_pairs([pair("B", "C"), pair("A", "B")], Counter())
    assert (item.id, item.meta) == ("BC", {"from": "BC", "pairs": ["BC", "AB"]})
    assert [level.source for level in item.levels] == ["level 0", "level 1", "level 2"]


def test_of_repeated_pairs_the_first_stays() -> None:
    (item,) = join_pairs([pair("A", "B"), replace(pair("A", "B"), id="later")], Counter())
    assert item.id == "AB"


def rlaif(question: str, good: str, bad: str, number: int, **changes: Any) -> dict[str, Any]:
    record = {**EXAMPLES["rlaif-v"][0], "question": question, "chosen": good, "rejected": bad, "idx": str(number)}
    return {**record, **changes}


def test_pairs_that_stand_far_apart_are_joined_and_prompts_keep_their_order(tmp_path: Path) -> None:
    others = [rlaif(f"Other {number}?", "Y", "N", number) for number in range(200)]
    records = [rlaif("First?", "A", "B", 900), *others, rlaif("First?", "B", "C", 901)]
    items = [
        item for item in read_items(write_lines(tmp_path / "a.jsonl", records)) if isinstance(item, PreferenceItem)
    ]
    assert len(items) == 201
    assert [level.answers for level in items[0].levels] == [("A",), ("B",), ("C",)]
    assert [item.questions[0] for item in items[1:3]] == ["Other 0?", "Other 1?"]


def test_the_same_question_on_another_image_is_another_prompt(tmp_path: Path) -> None:
    records = [rlaif("Q?", "A", "B", 1), rlaif("Q?", "B", "C", 2, image="cat.png")]
    assert len(list(read_items(write_lines(tmp_path / "a.jsonl", records)))) == 2


def test_pairs_left_unjoined_are_told_in_a_warning(tmp_path: Path) -> None:
    records = [rlaif("Q?", "A", "B", 1), rlaif("Q?", "B", "A", 2)]
    result = import_preferences(write_lines(tmp_path / "a.jsonl", records), tmp_path / "out")
    assert (result.items, result.levels) == (2, {"2": 2})
    assert f"{INCONSISTENT} (2 times)" in result.warnings


def test_given_ids_are_numbered_past_ids_that_are_taken() -> None:
    ids = GivenIds()
    given = [
        ids.unique("a", "1"),
        ids.unique("a-2", "2"),
        ids.unique("a", "3"),
        ids.unique("a", "3"),
        ids.unique("a", "1"),
    ]
    assert given == ["a", "a-2", "a-3", None, None]
