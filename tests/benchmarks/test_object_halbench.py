"""Object HalBench: shares of invented objects as its own script counts them, by CHAIR's rule or by a judge's list."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.asking.templates import own_template
from amp_cli.benchmarks import BENCHMARKS, object_halbench
from amp_cli.benchmarks.object_halbench_judged import listed, prompt, read_objects
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.records import Answer
from amp_cli.report.compare import compare_runs
from tests.support.settings import eval_settings

GOLDEN = Path(__file__).parents[1] / "golden" / "object_halbench"
"""Made-up images, answers and lists; `expected.json` is what the official script counted, its taggers replaced by
ones that know the few words."""
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
PLACES = {"response": "CHAIRs_refine", "object": "CHAIRi", "recall": "obj_rec", "words": "avg_word_len"}


def scored(name: str, out: Path, **settings: Any) -> dict[str, Any]:
    given = {"data": GOLDEN, "answers": GOLDEN / "answers.jsonl", **settings}
    return run_benchmark(eval_settings(benchmark=name, out=out, **given)).scores


def test_by_chairs_rule_the_counting_is_the_scripts_to_the_last_digit(tmp_path: Path) -> None:
    scores = scored("object-halbench", tmp_path / "out", rule="plain")
    assert {name: scores[name] for name in PLACES} == {name: EXPECTED["plain"][of] for name, of in PLACES.items()}
    assert (scores["n"], scores["naming"]) == (5, 4)


def test_by_a_judges_list_the_counting_is_the_scripts_to_the_last_digit(tmp_path: Path) -> None:
    scores = scored("object-halbench-judged", tmp_path / "out", verdicts=verdicts(tmp_path))
    assert {name: scores[name] for name in PLACES} == {name: EXPECTED["judged"][of] for name, of in PLACES.items()}
    assert (scores["n"], scores["naming"], scores["unscored"]) == (5, 4, 0)


def verdicts(folder: Path, **others: str) -> Path:
    said = {one["id"]: one["text"] for one in json.loads((GOLDEN / "lists.json").read_text())} | others
    file = folder / "verdicts.jsonl"
    file.write_text("".join(json.dumps({"id": item_id, "text": text}) + "\n" for item_id, text in said.items()))
    return file


def test_a_reply_without_a_list_is_unscored_and_not_without_inventions(tmp_path: Path) -> None:
    scores = scored("object-halbench-judged", tmp_path / "out", verdicts=verdicts(tmp_path, **{"101": "A man, a dog."}))
    assert (scores["unscored"], scores["naming"]) == (1, 3)
    assert scores["response"] == 2 / 3


LISTS = {
    '["dog", "cat"]': ["dog", "cat"],
    "```json\n[]\n```": [],
    'First ["dog"], then rather\n["dog", "cup"]': ["dog", "cup"],
    "[1, 2]": None,
    "a dog": None,
    "[see below]": None,
    '<think>["cat"]</think>["dog"]': ["dog"],
}


@pytest.mark.parametrize(("text", "objects"), LISTS.items())
def test_the_last_list_of_texts_counts(text: str, objects: list[str] | None) -> None:
    assert listed(text) == objects


def test_an_object_counts_once_for_each_word_that_names_it() -> None:
    (item, *_) = object_halbench.load(GOLDEN, EvalSettings(benchmark="object-halbench", out=Path("out"))).items
    reading = read_objects('["man", "men", "woman", "red cars", "tree"]', item)
    assert reading.ratings == (3, 1, 1, 2)  # man, woman, car: the car is not there; of person and dog one is named


def test_the_answer_stands_in_our_wording_between_marks() -> None:
    (item, *_) = object_halbench.load(GOLDEN, EvalSettings(benchmark="object-halbench", out=Path("out"))).items
    ((_, said),) = prompt(item, Answer(id=item.id, answers=("A dog.",)), own_template("object-halbench"))
    assert "A dog." in said
    assert item.questions[0] in said


def test_two_runs_are_compared(tmp_path: Path) -> None:
    for name, text in (("old", ""), ("new", "A man.")):
        answers = [json.loads(line) for line in (GOLDEN / "answers.jsonl").read_text().splitlines()]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(one | ({"text": text} if text else {})) + "\n" for one in answers))
        scored("object-halbench", tmp_path / name, answers=file)
    found = {one.name: one for one in compare_runs(tmp_path / "old", tmp_path / "new")}
    assert found["object"].other == 4 / 5  # a man stands in one of five images
    assert found["object"].n == 5


def test_images_in_the_file_of_questions_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    for file in GOLDEN.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (255, 0, 0)).save(stream, "JPEG")
    questions = data / object_halbench.FILE
    records = [json.loads(line) for line in questions.read_text().splitlines()]
    image = base64.b64encode(stream.getvalue()).decode()
    questions.write_text("".join(json.dumps(one | {"image": image}) + "\n" for one in records))
    settings = BENCHMARKS["object-halbench"].settle(EvalSettings(benchmark="object-halbench", out=tmp_path, data=data))
    assert settings.image_root is not None
    with Image.open(settings.image_root / "COCO_val2014_000000000101.jpg") as unpacked:
        assert unpacked.size == (6, 4)
    assert len(list(settings.image_root.iterdir())) == 5
    records[0]["image"] = "no base64!"
    questions.write_text("".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(AmpError, match="record 1, holds no image in base64"):
        object_halbench.with_images(EvalSettings(benchmark="object-halbench", out=tmp_path, data=data))


def test_an_image_that_the_annotations_do_not_know_is_refused(tmp_path: Path) -> None:
    for file in GOLDEN.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / object_halbench.FILE).write_text('{"image_id": 7, "question": "What?"}\n')
    with pytest.raises(AmpError, match="does not know 1 of the images, first 7"):
        object_halbench.load(tmp_path, EvalSettings(benchmark="object-halbench", out=tmp_path))


def test_without_annotations_the_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    (tmp_path / object_halbench.FILE).write_text('{"image_id": 7, "question": "What?"}\n')
    with pytest.raises(AmpError, match="No COCO annotations") as caught:
        object_halbench.load(tmp_path, EvalSettings(benchmark="object-halbench", out=tmp_path))
    assert "amp download chair" in str(caught.value.hint)
