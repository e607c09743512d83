"""Records refuse bad values in words, and come back from JSON as they went."""

from typing import Any

import pytest

from amp_cli.errors import AmpError
from amp_cli.records import Answer, Candidate, Level, PreferenceItem, SourceItem

CONTRACT_ITEM = {
    "id": "coco-000000000009-0",
    "images": ["images/000000000009.jpg"],
    "questions": ["What is on the plate?", "What colour is it?"],
    "levels": [
        {"answers": ["Broccoli and bread.", "Green."], "source": "standard"},
        {"answers": ["Broccoli and a steak.", "Green."], "source": "llava-13b", "accuracy": 0.5, "score": 0.91},
    ],
    "meta": {"dataset": "x"},
}


def test_the_contract_s_item_comes_back_unchanged() -> None:
    assert PreferenceItem.from_json(CONTRACT_ITEM).to_json() == CONTRACT_ITEM


def test_source_candidate_and_answer_come_back_unchanged() -> None:
    source = SourceItem(id="a", images=("a.png",), questions=("q",), answers=("s",), meta={"k": 1})
    candidate = Candidate(id="a", source="13b", answers=("x",))
    answer = Answer(id="a", answers=("x", ""))
    assert SourceItem.from_json(source.to_json()) == source
    assert Candidate.from_json(candidate.to_json()) == candidate
    assert Answer.from_json(answer.to_json()) == answer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"levels": CONTRACT_ITEM["levels"][:1]}, "at least 2"),
        ({"levels": CONTRACT_ITEM["levels"][:1] * 9}, "9 levels; at most 8"),
        ({"levels": "two"}, "must be a list"),
        ({"questions": ["What?"]}, "2 answers for 1 questions"),
        ({"questions": []}, "no question"),
        ({"questions": "What?"}, "must be a list of texts"),
        ({"images": [7]}, "must hold texts only"),
        ({"id": " "}, "an id must be a text"),
        ({"levels": [{"answers": ["a", " "], "source": "s"}, CONTRACT_ITEM["levels"][1]]}, "empty answer in round 2"),
        ({"levels": [{"source": "s"}, CONTRACT_ITEM["levels"][1]]}, "'answers' is missing"),
        ({"levels": [1, 2]}, "a level must be an object with named fields, not 1"),
        ({"levels": [{"answers": ["a", "b"], "accuracy": "high"}] * 2}, "'accuracy' of a level must be a number"),
        ({"meta": ["x"]}, "'meta' must be an object"),
    ],
)
def test_a_bad_item_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(AmpError, match=reason):
        PreferenceItem.from_json({**CONTRACT_ITEM, **change})


def test_a_rating_that_is_nan_is_left_out_and_its_answer_kept() -> None:
    level = {"answers": ["a", "b"], "score": float("nan"), "accuracy": float("inf")}
    item = PreferenceItem.from_json({**CONTRACT_ITEM, "levels": [level, {**level, "score": 0.5}]})
    assert [(one.score, one.accuracy) for one in item.levels] == [(None, None), (0.5, None)]


def test_a_level_without_auto_check_writes_no_numbers() -> None:
    assert Level(answers=("a",), source="standard").to_json() == {"answers": ["a"], "source": "standard"}
