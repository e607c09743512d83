"""`amp prefs import` as people run it, its result folder, and `amp train` on foreign formats."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences.formats import items
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.reading import read_items
from amp_cli.records import PreferenceItem
from tests.support.prefs_formats import EXAMPLES, in_base64, write_json, write_lines

PAIR = EXAMPLES["plain-dpo"][0]


def amp(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "dog.png")
    return tmp_path


def test_the_command_counts_in_json_and_exits_3_when_records_gave_no_item(folder: Path) -> None:
    records = [*EXAMPLES["vlfeedback"], {**EXAMPLES["vlfeedback"][0], "id": "bad", "prompt": 5}]
    result = amp("prefs", "import", write_lines(folder / "a.jsonl", records), "--out", folder / "out", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "format": "vlfeedback",
        "items": 2,
        "rejected": 1,
        "levels": {"4": 2},
        "warnings": [],
        "pictures": 0,
        "preferences": str(folder / "out" / "preferences.jsonl"),
    }
    lines = (folder / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "bad", "reason": "'prompt' must be a text, not 5"}]
    run = json.loads((folder / "out" / "run.json").read_text())
    assert (run["command"], run["state"], run["settings"]["format"]) == ("prefs import", "done", "vlfeedback")
    assert run["result"]["levels"] == {"4": 2}


def test_the_command_shows_a_table_and_the_next_command(folder: Path) -> None:
    result = amp("prefs", "import", write_json(folder / "a.json", EXAMPLES["povid"]), "--out", folder / "out")
    assert result.exit_code == 0
    assert "povid" in result.stdout
    assert "amp prefs check" in result.stderr


def test_standard_responses_are_said_to_be_no_preferences(folder: Path) -> None:
    source = write_json(folder / "a.json", EXAMPLES["llava-instruct"])
    result = amp("prefs", "import", source, "--out", folder / "out", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["sources"] == str(folder / "out" / "sources.jsonl")
    assert "amp generate-prefs" in result.stderr


@pytest.mark.parametrize(("weights", "words"), [("helpfulness", "NAME=NUMBER"), ("x=1", "no rating 'x'")])
def test_weights_that_cannot_be_are_refused(folder: Path, weights: str, words: str) -> None:
    source = write_json(folder / "a.json", EXAMPLES["vlfeedback"])
    result = amp("prefs", "import", source, "--out", folder / "out", "--rating-weights", weights)
    assert result.exit_code != 0
    assert words in (result.stderr + str(result.exception))


@pytest.mark.parametrize("weights", ["helpfulness=0", "helpfulness=-1", "helpfulness=nan"])
def test_weights_that_weigh_nothing_are_refused(folder: Path, weights: str) -> None:
    source = write_json(folder / "a.json", EXAMPLES["vlfeedback"])
    result = amp("prefs", "import", source, "--out", folder / "out", "--rating-weights", weights)
    assert isinstance(result.exception, AmpError)


def test_images_beside_the_result_are_named_relative_and_others_absolute(folder: Path) -> None:
    (folder / "out").mkdir()
    source = write_json(folder / "a.json", [PAIR, {**PAIR, "image": "prefs/../dog.png", "chosen": "B."}])
    outside = import_preferences(source, folder / "out" / "prefs")
    assert {item.images for item in read_items(outside.file) if isinstance(item, PreferenceItem)} == {
        (str(folder / "dog.png"),)
    }
    (folder / "new" / "pictures").mkdir(parents=True)
    (folder / "dog.png").rename(folder / "new" / "pictures" / "dog.png")
    rooted = import_preferences(
        write_json(folder / "b.json", [PAIR]), folder / "over", image_root=folder / "new" / "pictures"
    )
    assert rooted.warnings == ()


def test_images_inside_the_result_folder_are_named_relative(folder: Path) -> None:
    from amp_cli.dialogues.named_images import SourceImage
    from amp_cli.preferences.formats.items import ImportedImages

    images = ImportedImages(folder / "out.part", folder)
    assert images.name(SourceImage(names=("dog.png",)), folder) == "dog.png"
    assert images.name(SourceImage(names=("/x/dog.png",)), folder) == "/x/dog.png"
    assert images.missing == 1


def test_a_relative_path_that_leaves_its_folder_is_refused_and_a_missing_image_counted(folder: Path) -> None:
    records = [{**PAIR, "image": "../secret.png"}, {**PAIR, "image": "nowhere.png"}]
    result = import_preferences(write_lines(folder / "a.jsonl", records), folder / "out")
    assert (result.items, result.rejected) == (1, 1)
    assert "leaves the folder" in result.rejected_file.read_text()
    assert result.warnings == ("1 image is not where its path says; --image-root says where the paths start",)


def test_embedded_images_are_checked_and_written_once(folder: Path) -> None:
    embedded = [
        {**PAIR, "image": in_base64(colour), "chosen": f"{number}"} for number, colour in enumerate(("red", "red"))
    ]
    broken = {**PAIR, "image": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(80)).decode()}
    result = import_preferences(write_lines(folder / "a.jsonl", [*embedded, broken]), folder / "out")
    assert (result.items, result.rejected, result.images) == (2, 1, 1)
    names = {item.images[0] for item in read_items(result.file) if isinstance(item, PreferenceItem)}
    assert [path.relative_to(folder / "out").as_posix() for path in (folder / "out" / "images").iterdir()] == list(
        names
    )
    assert "the image in the data cannot be read" in result.rejected_file.read_text()


def test_nothing_usable_is_an_error_with_the_first_reason_and_leaves_nothing(folder: Path) -> None:
    source = write_lines(folder / "a.jsonl", [{**PAIR, "chosen": " "}] * 3)
    with pytest.raises(AmpError, match=r"None of the 3 records.*empty answer"):
        import_preferences(source, folder / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "dog.png"]


def test_a_killed_import_leaves_no_result_and_the_same_command_makes_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(folder / "a.jsonl", [{**PAIR, "chosen": f"{number}."} for number in range(5)])
    real, made = items._item, []

    def killed(*arguments: Any) -> Any:
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(items, "_item", killed)
    with pytest.raises(KeyboardInterrupt):
        import_preferences(source, folder / "out")
    assert not (folder / "out").exists()
    monkeypatch.undo()
    assert import_preferences(source, folder / "out").items == 5
    assert not (folder / "out.part").exists()


def test_the_same_import_is_not_done_twice_and_another_is_refused(folder: Path) -> None:
    source = write_lines(folder / "a.jsonl", [PAIR])
    first = import_preferences(source, folder / "out")
    again = import_preferences(source, folder / "out")
    assert (first.was_there, again.was_there) == (False, True)
    assert again.to_json() == first.to_json()
    write_lines(source, [PAIR, {**PAIR, "chosen": "B."}])
    with pytest.raises(AmpError, match="is not empty"):
        import_preferences(source, folder / "out")
    assert import_preferences(source, folder / "out", overwrite=True).items == 2


def test_a_folder_with_other_files_is_never_replaced(folder: Path) -> None:
    source = write_lines(folder / "a.jsonl", [PAIR])
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(AmpError, match="is not empty"):
        import_preferences(source, folder / "mine", overwrite=True)
    assert (folder / "mine" / "thesis.txt").exists()


class Trained:
    """Stands for the training: notes what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[dict[str, Any]] = []
        monkeypatch.setattr("amp_cli.training.launch.train_model", self._train)

    def _train(self, config: Any, **arguments: Any) -> Any:
        self.given.append(arguments)
        raise AmpError("no training in this test", hint="none")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(monkeypatch)


def train(folder: Path, prefs: object, *more: str) -> Any:
    return amp("train", "--size", "tiny", "--prefs", prefs, "--out", folder / "run", *more)


def test_training_takes_a_foreign_format_says_so_and_imports_it_once(folder: Path, trained: Trained) -> None:
    source = write_json(folder / "a.json", EXAMPLES["povid"])
    first = train(folder, source)
    file = folder / "run.imported" / "preferences.jsonl"
    assert (trained.given[0]["prefs"], trained.given[0]["image_root"]) == (file, None)
    assert "is in the format povid; it is imported" in first.stderr
    stamp = file.stat().st_mtime_ns
    assert "it was imported before" in train(folder, source).stderr
    assert file.stat().st_mtime_ns == stamp
    write_json(source, [*EXAMPLES["povid"], {**EXAMPLES["povid"][0], "id": "second"}])
    assert "2 items" in train(folder, source).stderr


def test_training_takes_our_own_file_as_it_is(folder: Path, trained: Trained) -> None:
    source = write_lines(folder / "preferences.jsonl", EXAMPLES["amp"])
    train(folder, source, "--image-root", str(folder))
    assert (trained.given[0]["prefs"], trained.given[0]["image_root"]) == (source, folder)
    assert not (folder / "run.imported").exists()


def test_training_on_standard_responses_needs_the_method_for_it(folder: Path, trained: Trained) -> None:
    source = write_json(folder / "a.json", EXAMPLES["llava-instruct"])
    result = train(folder, source)
    assert "one response per question" in str(result.exception)
    assert not trained.given
    train(folder, source, "--method", "sft")
    assert trained.given[0]["prefs"] == folder / "run.imported" / "sources.jsonl"


def test_training_names_a_file_that_is_not_there_in_its_own_words(folder: Path, trained: Trained) -> None:
    train(folder, folder / "missing.jsonl")
    assert trained.given[0]["prefs"] == folder / "missing.jsonl"
