"""What is known of the items before the first step: no pixels are read for it, and a kill costs little of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.disk.jsonl import RecordLog
from amp_cli.errors import AmpError
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.prompts import TextRules
from amp_cli.models.spec import ModelSpec
from amp_cli.records import PLAIN
from amp_cli.training import data as reading
from amp_cli.training import looking
from amp_cli.training.data import SYSTEMATIC, EncodedItems, load_items, prepare_items
from amp_cli.training.looking import ENCODABLE, LOOKED, ImageTokens, usable_items
from tests.support.training_items import preference, write_preferences

ITEMS = SYSTEMATIC + 10


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model(ModelSpec(model="tiny", device="cpu"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The images whose pixels were read."""
    seen: list[str] = []
    decode = reading.open_image

    def noted(path: Path) -> Any:
        seen.append(path.name)
        return decode(path)

    monkeypatch.setattr(reading, "open_image", noted)
    return seen


def prepare(folder: Path, loaded: LoadedModel, records: list[dict[str, Any]], max_length: int = 4096) -> EncodedItems:
    prepare_items(write_preferences(folder / "data", records), folder, image_root=None, method="mdpo")
    return EncodedItems(loaded, load_items(folder, "mdpo"), method="mdpo", max_length=max_length)


def many() -> list[dict[str, Any]]:
    return [preference(number, levels=2) for number in range(ITEMS)]


def reasons(folder: Path) -> dict[str, str]:
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {record["id"]: record["reason"] for record in map(json.loads, lines)}


def test_no_pixels_are_read_but_those_of_the_first_items(tmp_path: Path, tiny: LoadedModel, read: list[str]) -> None:
    data = prepare(tmp_path, tiny, many())
    assert read == []
    assert len(usable_items(data, tmp_path)) == ITEMS
    assert len(read) == SYSTEMATIC


def test_what_texts_and_lengths_show_is_rejected_with_the_reason(
    tmp_path: Path, tiny: LoadedModel, read: list[str]
) -> None:
    records = many()
    place = SYSTEMATIC + 2
    records[place]["levels"][1]["answers"] = ["a dog. " * 90]
    records[place + 1]["levels"][1]["answers"] = ["a dog <image> here"]
    records[place + 2]["questions"] = ["is there a dog? " * 15]
    data = prepare(tmp_path, tiny, records, max_length=150)
    assert len(usable_items(data, tmp_path)) == ITEMS - 2
    found = reasons(tmp_path)
    assert list(found) == [f"item-{place}", f"item-{place + 1}"]
    assert "max_length is 150" in found[f"item-{place}"]
    assert "special token '<image>'" in found[f"item-{place + 1}"]
    assert read[SYSTEMATIC:] == [f"{place}.png"]  # only what is too long by its tokens too is encoded, to be sure
    again = prepare(tmp_path, tiny, records, max_length=150)
    assert [item.id for item in usable_items(again, tmp_path).items] == [
        f"item-{number}" for number in range(ITEMS) if number not in (place, place + 1)
    ]


def test_what_a_killed_command_has_looked_at_is_not_looked_at_again(
    tmp_path: Path, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "PIECE", 10)
    data = prepare(tmp_path, tiny, many())
    log = RecordLog(tmp_path / LOOKED.format(1))  # of the second of two processes
    log.append({"piece": 1, "left_out": {"12": "as it was found"}})
    looked: list[int] = []
    look = looking.Bounds.look
    monkeypatch.setattr(looking.Bounds, "look", lambda self, number: (looked.append(number), look(self, number)))
    assert len(usable_items(data, tmp_path)) == ITEMS - 1
    assert looked == [*range(10), *range(20, ITEMS)]
    assert reasons(tmp_path) == {"item-12": "as it was found"}
    assert not list(tmp_path.glob(LOOKED.format("*")))
    assert (tmp_path / ENCODABLE).exists()


def test_processes_look_at_pieces_in_turn(tmp_path: Path, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "PIECE", 8)
    data = prepare(tmp_path, tiny, many())
    first, second = (looking._look(data, tmp_path, process=one, processes=2) for one in (0, 1))
    assert (sorted(first), sorted(second)) == ([0, 2], [1, 3])


def test_a_fault_of_all_first_items_ends_the_run(tmp_path: Path, tiny: LoadedModel) -> None:
    data = prepare(tmp_path, tiny, many(), max_length=5)
    with pytest.raises(AmpError, match=f"None of the first {SYSTEMATIC} items"):
        usable_items(data, tmp_path)
    assert len(reasons(tmp_path)) == SYSTEMATIC


TEXTS = ["a dog.", "", "ein Hündchen läuft", "一只棕色的狗", "🐕🐕🐕", "  spaces   and\n\nlines ", "ﷺ", "x" * 50]


@pytest.mark.parametrize("question", TEXTS)
def test_a_level_has_no_more_tokens_than_its_bytes_allow(tiny: LoadedModel, question: str) -> None:
    rules = TextRules.of(tiny)
    for answer in TEXTS[:1] + TEXTS[2:]:
        length = looking.text_length(tiny, [question, "?"], ["yes.", answer], 1, PLAIN)
        assert length <= rules.most_tokens([question, "?"], [["yes.", answer], ["no.", "a"]], 1, PLAIN)


def test_the_tokens_of_an_image_need_no_file_where_all_take_the_same(tmp_path: Path, tiny: LoadedModel) -> None:
    Image.new("RGB", (300, 50)).save(tmp_path / "wide.png")
    tokens = ImageTokens(tiny)
    assert tokens.of(tmp_path / "nowhere.png") == tokens.of(tmp_path / "wide.png") > 1


def test_a_bar_is_shown_only_of_work_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = looking.LateBar("Checking items", total=3, unit="items")
    bar.advance()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(looking, "SILENT", 0.0)
    bar.advance()
    bar.advance()
    assert [line.partition("amp-event ")[2] for line in capsys.readouterr().out.splitlines()] == [
        '{"total": 3, "done": 2, "label": "Checking items", "unit": "items"}',
        '{"step": 3}',
    ]
