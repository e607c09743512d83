"""Reading what preferences are made from: both formats, and every kind of bad record."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.errors import AmpError
from amp_cli.preferences.sources import SYSTEMATIC_AFTER, read_sources

GOOD = {"id": "good", "image": "dog.png", "question": "What is this?", "answer": "A dog."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "dog.png")
    return tmp_path


def write(folder: Path, records: list[Any], name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_all_spellings_of_our_fields_give_the_same_item(folder: Path) -> None:
    records = [
        {"id": "a", "image": "dog.png", "question": "<image>\nWhat is this?", "answer": "A dog."},
        {"id": "b", "images": ["dog.png"], "questions": ["What is this?"], "answers": ["A dog."]},
        {"id": "c", "image": "dog.png", "prompt": "What is this? <image>", "answer": " A dog. "},
        {
            "id": 7,
            "image": "dog.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": "A dog."},
            ],
        },
    ]
    items = read_sources(write(folder, records)).items
    assert [item.id for item in items] == ["a", "b", "c", "7"]
    assert {(item.images, item.questions, item.answers) for item in items} == {
        ((str((folder / "dog.png").resolve()),), ("What is this?",), ("A dog.",))
    }


def test_a_dialogue_keeps_its_rounds(folder: Path) -> None:
    turns = [("human", "<image>\nOne?"), ("gpt", "1."), ("human", "Two?"), ("gpt", "2.")]
    record = {"id": "d", "image": "dog.png", "conversations": [{"from": who, "value": text} for who, text in turns]}
    (item,) = read_sources(write(folder, [record])).items
    assert (item.questions, item.answers) == (("One?", "Two?"), ("1.", "2."))


def test_an_item_without_id_gets_one_from_its_content(folder: Path) -> None:
    nameless = {key: value for key, value in GOOD.items() if key != "id"}
    first = read_sources(write(folder, [GOOD, nameless])).items[1].id
    again = read_sources(write(folder, [nameless, GOOD], "other.json")).items[0].id
    changed = read_sources(write(folder, [{**nameless, "answer": "A cat."}], "third.json")).items[0].id
    assert first == again
    assert first != changed


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "good"}, "no question"),
        ({**GOOD}, "repeats the id 'good'"),
        ({"id": "x", "image": "dog.png", "question": "What?"}, "no standard answer"),
        ({"id": "x", "image": "dog.png", "question": "What?", "answer": " "}, "empty answer in round 1"),
        ({"id": "x", "image": "dog.png", "question": "<image>", "answer": "A."}, "question of round 1 is empty"),
        ({"id": "x", "questions": ["a", "b"], "answers": ["c"]}, "1 answers for 2 questions"),
        ({"id": "x", "question": "What?", "answer": 3}, "'answer' must be a list"),
        ({"id": "x", "question": "<image> What?", "answer": "A."}, "names no image"),
        ({"id": ["x"], "question": "What?", "answer": "A."}, "an id must be"),
        ({"id": "x", "conversations": []}, "must be a list of turns"),
        ({"id": "x", "conversations": [{"from": "gpt", "value": "A."}]}, "the user's was expected"),
        ({"id": "x", "conversations": [{"from": "human", "value": "Q"}]}, "no standard answer"),
        ({"id": "x", "conversations": [{"from": "human"}]}, "has no text"),
        ({**GOOD, "id": "x", "image": "cat.png"}, "No image at"),
        ({**GOOD, "id": "x", "image": "../dog.png"}, "leaves the folder"),
        ({**GOOD, "id": "x", "image": "empty.png"}, "empty (0 bytes)"),
        ({**GOOD, "id": "x", "image": "torn.png"}, "cannot be read"),
        ({**GOOD, "id": "x", "image": 3}, "'image' must be a path"),
        ({**GOOD, "id": "x", "answer": "a" * 100_001}, "100,001 characters"),
        ("no object", "not a JSON object"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason_and_the_rest_goes_on(folder: Path, record: Any, reason: str) -> None:
    (folder / "empty.png").touch()
    (folder / "torn.png").write_bytes((folder / "dog.png").read_bytes()[:40])
    sources = read_sources(write(folder, [GOOD, record, {**GOOD, "id": "last"}]))
    assert [item.id for item in sources.items] == ["good", "last"]
    (refusal,) = sources.refused
    assert reason in refusal.reason


def test_lines_with_a_byte_order_mark_crlf_and_a_torn_end_are_read(folder: Path) -> None:
    path = folder / "data.jsonl"
    line = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n\xff\xfe\n" + line[:30])
    sources = read_sources(path)
    assert [item.id for item in sources.items] == ["good"]
    assert [refusal.id for refusal in sources.refused] == ["record 3", "record 4"]


def test_a_wrong_image_root_stops_at_once(folder: Path) -> None:
    records = [{**GOOD, "id": str(number)} for number in range(SYSTEMATIC_AFTER + 5)]
    with pytest.raises(AmpError, match="all fail in the same way; the first: No image at") as caught:
        read_sources(write(folder, records), image_root=folder / "elsewhere")
    assert caught.value.hint is not None
    assert "--image-root" in caught.value.hint


def test_different_faults_at_the_start_do_not_stop(folder: Path) -> None:
    missing = [{**GOOD, "id": str(number), "image": "none.png"} for number in range(SYSTEMATIC_AFTER - 1)]
    sources = read_sources(write(folder, [{"id": "x"}, *missing, GOOD]))
    assert [item.id for item in sources.items] == ["good"]
    assert len(sources.refused) == SYSTEMATIC_AFTER


def test_a_file_without_one_usable_item_is_an_error(folder: Path) -> None:
    with pytest.raises(AmpError, match="None of the 1 records"):
        read_sources(write(folder, [{"id": "x"}]))
