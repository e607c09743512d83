"""Dialogues are read by one set of rules: images in the round that asks for them, system messages, other media, ids."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.reading import read_items
from amp_cli.preferences.sources import read_sources
from amp_cli.records import PreferenceItem

ASKED, GOOD, BAD = "What colour is it?", "Red.", "Blue."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        Image.new("RGB", (8, 8), (200 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder: Path, *records: dict[str, Any], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def ranked(*turns: str, images: int = 1, **more: Any) -> dict[str, Any]:
    """An entry of LLaMA-Factory's layout; `turns` end with a question."""
    said = [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(turns)]
    answers = {"chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}
    return {"conversations": said, **answers, "images": [f"{number}.png" for number in range(images)], **more}


def only(folder: Path, record: dict[str, Any]) -> PreferenceItem | LeftOut:
    (found,) = read_items(write(folder, record))
    return found


def item(folder: Path, record: dict[str, Any]) -> PreferenceItem:
    found = only(folder, record)
    assert isinstance(found, PreferenceItem), found
    return found


def reason(folder: Path, record: dict[str, Any]) -> str:
    found = only(folder, record)
    assert isinstance(found, LeftOut), found
    return found.reason


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ranked(f"<image>{ASKED}", images=2), "the questions ask for 1 images, the item has 2"),
        (ranked(f"<image><image>{ASKED}"), "the questions ask for 2 images, the item has 1"),
        (ranked(f"<image>{ASKED}", images=0), "names no image"),
        (ranked("Compare <image> with <image> and say which is red.", images=2), "several images by their places"),
        ({**ranked(f"<image>{ASKED}"), "chosen": {"from": "gpt", "value": "<image>\nRed."}}, "an answer holds <image>"),
    ],
)
def test_another_number_of_images_than_is_asked_for_is_refused(
    folder: Path, record: dict[str, Any], words: str
) -> None:
    assert words in reason(folder, record)


def test_an_image_of_the_second_round_is_shown_in_the_second_round(folder: Path) -> None:
    found = item(folder, ranked("Hello.", "Hi.", f"<image>\n{ASKED}"))
    assert found.questions == ("Hello.", ASKED)
    assert found.frame.image_rounds == (1,)
    assert found.to_json()["image_rounds"] == [1]
    both = item(folder, ranked(f"<image>{ASKED}", GOOD, "And <image>?", images=2))
    assert both.frame.image_rounds == (0, 1)


def test_images_that_nothing_asks_for_stand_with_the_first_question_and_the_line_says_nothing_of_it(
    folder: Path,
) -> None:
    found = item(folder, ranked(ASKED, GOOD, "Sure?", images=2))
    assert found.frame.image_rounds == ()
    assert "image_rounds" not in found.to_json()


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"idx": 1, "video": "1.mp4", "question": "What happens?", "chosen": GOOD, "rejected": BAD}, "video"),
        ({"prompt": "<video>\nWhat happens?", "chosen": GOOD, "rejected": BAD, "image": "0.png"}, "video"),
        ({"id": "a", "video": "1.mp4", "prompt": "What?", "responses": [GOOD, BAD], "ranks": [1, 2]}, "video"),
        (ranked(ASKED, audios=["1.wav"]), "audio"),
        (ranked(f"<audio>{ASKED}"), "audio"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "video", "video": "1.mp4"}, {"type": "text", "text": "?"}]},
                    {"role": "assistant", "content": GOOD},
                ],
                "rejected_response": BAD,
            },
            "video",
        ),
    ],
)
def test_video_and_audio_are_refused_wherever_they_are_named(folder: Path, record: dict[str, Any], kind: str) -> None:
    assert f"{kind} cannot be used" in reason(folder, record)


def test_video_is_refused_among_standard_responses_too(folder: Path) -> None:
    good = {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": GOOD}]}
    filmed = {**good, "id": "filmed", "video": "1.mp4"}
    sources = read_sources(write(folder, good, filmed))
    assert [one.reason for one in sources.refused] == ["video cannot be used, only images"]
    result = import_preferences(write(folder, good, filmed), folder / "out")
    assert (result.items, result.rejected) == (1, 1)


def test_messages_are_standard_responses(folder: Path) -> None:
    said = [{"role": "user", "content": f"<image>{ASKED}"}, {"role": "assistant", "content": GOOD}]
    parts = [{"type": "image", "image": "0.png"}, {"type": "text", "text": ASKED}]
    in_parts = [{"role": "user", "content": parts}, {"role": "assistant", "content": GOOD}]
    data = write(folder, {"messages": said, "images": ["0.png"]}, {"messages": in_parts})
    result = import_preferences(data, folder / "out")
    assert (result.items, result.is_standard_only) == (1, True)  # the second is the same item, in other words
    (first, *_) = read_sources(write(folder, {"messages": said, "images": ["0.png"]})).items
    assert (first.questions, first.answers) == ((ASKED,), (GOOD,))


def test_a_completion_may_be_one_message(folder: Path) -> None:
    turns = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": ASKED}]
    answers = {"chosen": {"role": "assistant", "content": GOOD}, "rejected": {"role": "assistant", "content": BAD}}
    found = item(folder, {"prompt": turns, **answers})
    assert [level.answers for level in found.levels] == [(GOOD,), (BAD,)]
    assert found.frame.system == "You are terse."


def test_a_file_address_is_a_path_and_another_address_is_refused(folder: Path) -> None:
    def asked(address: str) -> dict[str, Any]:
        parts = [{"type": "image", "image": address}, {"type": "text", "text": ASKED}]
        said = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", GOOD), ("rejected", BAD))}
        return {"prompt": [{"role": "user", "content": parts}], **said}

    assert item(folder, asked((folder / "0.png").as_uri())).images == (str(folder / "0.png"),)
    assert "download it first" in reason(folder, asked("https://example.org/a.png"))


def test_one_dialogue_has_one_id_in_every_layout(folder: Path) -> None:
    turns = [{"from": "human", "value": f"<image>\n{ASKED}"}, {"from": "gpt", "value": GOOD}]
    llava = {"image": "0.png", "conversations": turns}
    said = [{"role": "user", "content": f"<image>{ASKED}"}, {"role": "assistant", "content": f"{GOOD} "}]
    own = {"images": ["0.png"], "questions": [ASKED], "answers": [GOOD]}
    ids = {
        read_sources(write(folder, record)).items[0].id
        for record in (llava, {"messages": said, "images": "0.png"}, own)
    }
    assert len(ids) == 1
    import_preferences(write(folder, llava), folder / "out")
    assert json.loads((folder / "out" / "sources.jsonl").read_text())["id"] in ids


def test_gzip_is_read_as_it_is(folder: Path) -> None:
    plain = write(folder, ranked(f"<image>{ASKED}", id="a"))
    (folder / "data.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_items(folder / "data.jsonl.gz")) == list(read_items(plain))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"prompt,chosen,rejected\n", "CSV table"),
        ("a.tsv", b"prompt\tchosen\n", "TSV table"),
        ("a.jsonl", b"PK\x03\x04 and so on", "ZIP archive"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd and so on", "zstd"),
        ("a.jsonl", '{"id": 1}'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"id": 1}'.encode("utf-16-le"), "UTF-16"),
        ("a.jsonl", b"x" * 257 + b"ustar" + b"\0" * 300, "TAR archive"),
        ("a.jsonl.gz", b"\x1f\x8bnothing", "damaged gzip"),
    ],
)
def test_what_is_not_json_is_named(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    for read in (read_sources, lambda path: list(read_items(path))):
        with pytest.raises(AmpError, match=words) as error:
            read(folder / name)
        assert error.value.hint
