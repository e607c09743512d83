"""What is done where answers cannot be read: a warning from 2 % on, and status 3 where nothing can be scored."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.main import app
from tests.support.judged_data import (
    llava_folder,
    mmhal_folder,
    mmhal_records,
    mrhal_folder,
    write_json,
    write_lines,
)


def evaluate(*line: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, line)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def yes_no(folder: Path, stem: str, said: list[str]) -> tuple[Path, Path]:
    rows = [{"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog in the image?"} for n in range(len(said))]
    write_lines(folder / "data" / f"{stem}_random.json", [{**row, "label": "yes"} for row in rows])
    answers = [{**row, "prompt": row["text"], "text": text} for row, text in zip(rows, said, strict=True)]
    return folder / "data", write_lines(folder / "answers.jsonl", answers)


@pytest.mark.parametrize(("name", "stem"), [("pope", "coco_pope"), ("repope", "coco_repope")])
@pytest.mark.parametrize("rule", ["strict", "official"])
def test_nothing_readable_is_status_3(name: str, stem: str, rule: str, tmp_path: Path) -> None:
    data, answers = yes_no(tmp_path, stem, ["<think>Is it a dog? Yes", "Perhaps.", ""])
    status, said = evaluate(name, "--data", data, "--answers", answers, "--out", tmp_path / "o", "--rule", rule)
    assert status == 3
    assert "Nothing could be scored: not one of 3 could be read" in said
    assert "3 of 3 answers cannot be read as yes or no" in said
    assert evaluate(name, "--only", "score", "--out", tmp_path / "o", "--rule", rule)[0] == 3


@pytest.mark.parametrize(("unclear", "is_said"), [(0, False), (2, False), (3, True)])
def test_more_than_2_percent_is_said(unclear: int, is_said: bool, tmp_path: Path) -> None:
    data, answers = yes_no(tmp_path, "coco_pope", ["hm"] * unclear + ["Yes"] * (100 - unclear))
    status, said = evaluate("pope", "--data", data, "--answers", answers, "--out", tmp_path / "o")
    assert status == 0
    assert (f"{unclear} of 100 answers cannot be read as yes or no" in said) is is_said
    assert ("'hm'" in said) is is_said


def test_descriptions_that_name_nothing_are_status_3(tmp_path: Path) -> None:
    instances: dict[str, Any] = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}
    write_json(tmp_path / "data" / "instances.json", {**instances, "categories": [{"id": 1, "name": "dog"}]})
    for text, status in (("Un perro.", 3), ("", 3), ("A dog.", 0), ("There is no dog.", 0)):
        answers = write_lines(tmp_path / "a.jsonl", [{"image_id": 1, "caption": text}])
        line = ("chair", "--data", tmp_path / "data", "--answers", answers, "--out", tmp_path / "o", "--overwrite")
        assert evaluate(*line)[0] == status, text


def test_ambers_answers_that_say_nothing_are_status_3(tmp_path: Path) -> None:
    asked = [
        (1, "Describe this image.", "generative", ["dog"]),
        (2, "Is there a dog in this image?", "relation", "yes"),
    ]
    write_json(tmp_path / "data" / "query_all.json", [{"id": n, "image": "a.jpg", "query": q} for n, q, _, _ in asked])
    truths = [{"id": n, "type": kind, "truth": truth} for n, _, kind, truth in asked]
    write_json(tmp_path / "data" / "annotations.json", truths)
    write_json(tmp_path / "data" / "relation.json", {"dog": []})
    (tmp_path / "data" / "safe_words.txt").write_text("")
    for texts, status in ((["Nice.", "hm"], 3), (["A dog.", "hm"], 0), (["Nice.", "No"], 0)):
        answers = write_json(tmp_path / "a.json", [{"id": n, "response": t} for n, t in enumerate(texts, start=1)])
        line = ("amber", "--data", tmp_path / "data", "--answers", answers, "--out", tmp_path / "o", "--overwrite")
        assert evaluate(*line)[0] == status, texts


@pytest.mark.parametrize(
    ("name", "rule"),
    [("mmhal", "strict"), ("mrhal", "strict"), ("llava-bench", "strict"), ("llava-bench", "official")],
)
def test_verdicts_without_any_rating_are_status_3(name: str, rule: str, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "o"
    if name == "mmhal":
        mmhal_folder(data)
        answers = write_json(tmp_path / "a.json", [{**one, "model_answer": "x"} for one in mmhal_records()])
        ids = [record["image_id"] for record in mmhal_records()]
    elif name == "mrhal":
        mrhal_folder(data)
        answers = write_lines(tmp_path / "a.jsonl", [{"id": str(n), "answers": ["x"] * (n + 2)} for n in range(2)])
        ids = ["0", "1"]
    else:
        llava_folder(data)
        answers = write_lines(tmp_path / "a.jsonl", [{"question_id": n, "text": "x"} for n in range(3)])
        ids = ["0", "1", "2"]
    replies = write_lines(tmp_path / "r.jsonl", [{"id": item_id, "text": "I cannot judge."} for item_id in ids])
    line = (name, "--data", data, "--answers", answers, "--judge", f"replay:{replies}", "--rule", rule, "--out", out)
    status, said = evaluate(*line)
    assert status == 3, said
    assert "Nothing could be scored" in said
    assert json.loads((out / "scores.json").read_text())["benchmark"] == name
