"""Answers side by side: marked by what is known, resumed by id, kept where asked, and safe to open."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.asking.answerer import Answerer, Request, Running
from amp_cli.asking.faults import ItemRejectedError
from amp_cli.benchmarks import pope
from amp_cli.benchmarks.sampling import BY_ITEM, take
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.compare.comparing import CompareResult, compare_models
from amp_cli.compare.questions import find_data
from amp_cli.compare.sides import CompareSettings
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences.experts import Expert
from amp_cli.world.encoder import WorldEncoder
from tests.support.answering import one_by_one

SIDES = (Expert(name="before", model="tiny"), Expert(name="after", model="tiny", adapter="run"))


class Script:
    """Answers by side and question; is killed before some (side, id)."""

    def __init__(self, says: Mapping[str, Any], killed_at: tuple[str, str] | None = None) -> None:
        self.says = says
        self.killed_at = killed_at
        self.asked: list[tuple[str, str]] = []

    def __call__(self, expert: Expert, folder: Path) -> Answerer:
        def say(request: Request) -> str:
            if (expert.name, request.id) == self.killed_at:
                raise KeyboardInterrupt
            self.asked.append((expert.name, request.id))
            said = self.says[expert.name]
            text = said if isinstance(said, str) else said[request.id]
            if text == "refused":
                raise ItemRejectedError("cannot be asked")
            return str(text)

        return one_by_one(say)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (99 * number, 0, 0)).save(path)
    return paths


def compared(script: Script, **changes: Any) -> CompareResult:
    return compare_models(CompareSettings(sides=SIDES, **changes), answering=script, encoder=WorldEncoder())


def marks(result: CompareResult, side: str, item: int = 0) -> list[tuple[str, str]]:
    """Return what is marked in an answer: (text, kind)."""
    replies = {reply.run: reply for reply in result.items[item].rounds[0].replies}
    return [(piece.text, piece.kind) for piece in replies[side].pieces if piece.kind]


def test_without_a_reference_the_words_are_marked_that_the_other_does_not_have(images: list[Path]) -> None:
    script = Script({"before": "A cat, on a red mat.", "after": "a dog on a mat!"})
    result = compared(script, image=(images[0],), ask=("What is there?",))
    assert marks(result, "before") == [("cat,", "other"), ("red", "other")]
    assert marks(result, "after") == [("dog", "other")]
    assert result.differing == 1
    assert result.totals["before"]["unsupported"] is None


def test_answers_that_differ_in_case_and_punctuation_alone_do_not_differ(images: list[Path]) -> None:
    result = compared(Script({"before": "Yes.", "after": "yes"}), image=(images[0],))
    assert result.differing == 0
    assert marks(result, "before") == marks(result, "after") == []


def test_each_image_is_asked_each_question(images: list[Path]) -> None:
    result = compared(Script({"before": "x", "after": "y"}), image=tuple(images), ask=("A?", "B?"))
    asked = [(item.images[0].name, item.rounds[0].question) for item in result.items]
    assert sorted(asked) == [("one.png", "A?"), ("one.png", "B?"), ("two.png", "A?"), ("two.png", "B?")]


def write_data(folder: Path, images: list[Path], standard: str) -> Path:
    path = folder / "data.json"
    items = [
        {"id": image.stem, "images": [image.name], "questions": ["What is there?"], "answers": [standard]}
        for image in images
    ]
    path.write_text(json.dumps(items))
    return path


def test_what_a_reference_answer_supports_is_told_from_what_it_does_not(tmp_path: Path, images: list[Path]) -> None:
    data = write_data(tmp_path, images[:1], "There is a red ball. There is a blue bird.")
    says = {"before": "There is a red ball and a green boat.", "after": "There is a red ball. There is no green boat."}
    result = compared(Script(says), data=data)
    assert marks(result, "before") == [("a red ball", "right"), ("a green boat", "invented")]
    assert marks(result, "after") == [("a red ball", "right")]  # what is denied is not invented
    assert result.totals["before"] == {
        "answers": 1, "words": 9.0, "supported": 1, "unsupported": 1, "answers_with_unsupported": 1, "marked": 1,
        "right": None, "wrong": None, "unclear": None,
    }  # fmt: skip
    assert result.totals["after"]["unsupported"] == 0


def test_the_best_level_of_a_preference_file_is_its_reference(tmp_path: Path, images: list[Path]) -> None:
    levels = [{"answers": ["There is a red ball."]}, {"answers": ["There is a green boat."]}]
    item = {"id": "x", "images": [images[0].name], "questions": ["What is there?"], "levels": levels}
    (tmp_path / "prefs.jsonl").write_text(json.dumps(item) + "\n")
    says = {"before": "There is a green boat.", "after": "There is a red ball."}
    result = compared(Script(says), data=tmp_path / "prefs.jsonl")
    assert marks(result, "before") == [("a green boat", "invented")]
    assert marks(result, "after") == [("a red ball", "right")]


def test_a_benchmark_marks_by_its_own_objects(tmp_path: Path, images: list[Path]) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    annotations = {
        "images": [{"id": 1, "file_name": "one.png"}],
        "annotations": [{"image_id": 1, "category_id": 7}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(annotations))
    assert find_data(str(folder)) == (folder, "chair")
    script = Script({"before": "A cat and two dogs.", "after": "A cat, no dog."})
    result = compared(script, data=folder, benchmark="chair", image_root=tmp_path)
    assert marks(result, "before") == [("cat", "right"), ("dogs", "invented")]
    assert marks(result, "after") == [("cat", "right"), ("dog", "denied")]
    assert result.totals["before"]["unsupported"] == 1
    assert result.items[0].rounds[0].truth == "cat"


def test_a_killed_comparison_goes_on_where_it_was(tmp_path: Path, images: list[Path]) -> None:
    data = write_data(tmp_path, images, "There is a red ball.")
    says = {"before": "a ball", "after": "a boat"}
    with pytest.raises(KeyboardInterrupt):
        compared(Script(says, killed_at=("after", "two")), data=data, out=tmp_path / "out", auto_check=False)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "interrupted"
    again = Script(says)
    compared(again, data=data, out=tmp_path / "out", auto_check=False)
    assert again.asked == [("after", "two")]
    compared(Script(says), data=data, out=tmp_path / "whole", auto_check=False)
    for name in ("answers.jsonl", "compare.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_questions_in_the_same_folder_are_refused_and_other_marks_are_not(
    tmp_path: Path, images: list[Path]
) -> None:
    script = Script({"before": "x", "after": "y"})
    compared(script, image=(images[0],), out=tmp_path / "out")
    asked = len(script.asked)
    compared(script, image=(images[0],), out=tmp_path / "out", auto_check=False)
    assert len(script.asked) == asked
    with pytest.raises(AmpError, match="was made with ask"):
        compared(script, image=(images[0],), ask=("Why?",), out=tmp_path / "out")


def test_an_item_that_one_side_cannot_answer_is_left_out_and_listed(tmp_path: Path, images: list[Path]) -> None:
    data = write_data(tmp_path, images, "There is a red ball.")
    says = {"before": {"one": "a ball", "two": "refused"}, "after": "a boat"}
    result = compared(Script(says), data=data, out=tmp_path / "out", auto_check=False)
    assert [item.id for item in result.items] == ["one"]
    assert [(one.id, one.source) for one in result.rejected] == [("two", "before")]


def test_a_limit_draws_the_same_items_for_the_same_seed(tmp_path: Path, images: list[Path]) -> None:
    for number in range(9):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    data = write_data(tmp_path, [tmp_path / f"{number}.png" for number in range(9)], "There is a red ball.")
    results = [compared(Script({"before": "x", "after": "y"}), data=data, limit=3, auto_check=False) for _ in range(2)]
    ids = [[item.id for item in result.items] for result in results]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 3
    assert results[0].total == 9


def test_a_limit_draws_from_a_benchmark_as_many_questions_each_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "pope"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = [
        {"image": f"{number}.png", "text": f"Is there a {thing}?", "label": label}
        for number in range(8)
        for thing, label in (("cat", "yes"), ("dog", "no"))
    ]
    (folder / "coco_pope_random.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = EvalSettings(benchmark="pope", data=folder, out=tmp_path)
    drawn = take(pope.load(folder, settings).items, BY_ITEM, 5, 1)
    script = Script({"before": "Yes", "after": "No"})
    result = compared(
        script, data=folder, benchmark="pope", image_root=tmp_path, limit=5, running=Running(seed=1), auto_check=False
    )
    assert sorted(item.id for item in result.items) == sorted(item.id for item in drawn)
    assert (len(result.items), result.total) == (5, 16)


def test_the_page_fetches_nothing_and_markup_in_answers_and_names_is_text(tmp_path: Path, images: list[Path]) -> None:
    evil = "<script>alert(1)</script> & <b>bold</b>"
    compared(Script({"before": evil, "after": "y"}), image=(images[0],), ask=(evil,), out=tmp_path / "out")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert evil not in page
    assert page.count("<script>") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import|https?://', page)
    assert 'alt="The image that is asked about: one.png"' in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "say what is asked"),
        (["a", "b", "--image", "x.png", "--data", "d"], "one of the two"),
        (["a", "b", "--ask", "Why?"], "belongs to an --image"),
        (["a", "b", "--image", "x.png", "--ask", " "], "the question is empty"),
        (["a", "b", "--data", "d.json"], "say where the answers go"),
        (["a", "b", "--serve", "--image", "x.png"], "chosen on the page"),
        (["a", "b", "--serve", "--json"], "--json have no part in"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["compare", *words], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize(
    ("word", "message"),
    [("nowhere", "no file or folder"), ("pope=nowhere", "no folder 'nowhere'"), (".", "cannot be told which")],
)
def test_data_that_are_not_there_or_not_known_are_a_sentence(
    word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AmpError, match=message):
        find_data(word)
