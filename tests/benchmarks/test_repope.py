"""RePOPE: POPE's answers under corrected labels; what it dropped is left aside and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.benchmarks.runner import EvalResult, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.benchmarks.yes_no_reading import read_letters
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app

SPLITS = ("random", "popular", "adversarial")
THINGS = {"dog": "yes", "cat": "no", "bear": "yes", "cup": "no"}
"""POPE's labels. RePOPE finds a cat in the image, and whether there is a bear cannot be said."""
CORRECTED = {"dog": "yes", "cat": "yes", "cup": "no"}


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def labels(folder: Path, stem: str, truth: dict[str, str], splits: tuple[str, ...] = SPLITS) -> Path:
    for split in splits:
        questions = [
            {"question_id": number, "image": "a.jpg", "text": f"Is there a {thing} in the image?", "label": label}
            for number, (thing, label) in enumerate(truth.items(), start=1)
        ]
        write_lines(folder / f"{stem}_{split}.json", questions)
    return folder


def asked(folder: Path) -> Path:
    """A questions file as LLaVA's: numbers over all splits, and which question each is."""
    rows = [(split, thing) for split in SPLITS for thing in THINGS]
    return write_lines(
        folder / "asked.jsonl",
        [
            {"question_id": n, "image": "a.jpg", "text": f"Is there a {thing} in the image?", "category": split}
            for n, (split, thing) in enumerate(rows)
        ],
    )


@pytest.fixture
def pope_run(tmp_path: Path) -> Path:
    """A run of POPE that says yes to everything, by upstream's answer file."""
    data = labels(tmp_path / "pope", "coco_pope", THINGS)
    questions = asked(data)
    answers = write_lines(tmp_path / "said.jsonl", [{"question_id": number, "text": "Yes"} for number in range(12)])
    run_benchmark(
        EvalSettings(benchmark="pope", data=data, questions=questions, answers=answers, out=tmp_path / "pope-run")
    )
    return tmp_path / "pope-run"


def rescored(pope_run: Path, answers: Path, **settings: Any) -> EvalResult:
    data = labels(pope_run.parent / "repope", "coco_repope", CORRECTED)
    out = pope_run.parent / "repope-run"
    return run_benchmark(EvalSettings(benchmark="repope", data=data, answers=answers, out=out, **settings))


def test_answers_of_a_pope_run_are_scored_by_the_corrected_labels(
    pope_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((pope_run / "scores.json").read_text())
    assert before["overall"]["accuracy"] == 6 / 12
    result = rescored(pope_run, pope_run / "answers.jsonl")
    assert result.scores["benchmark"] == "repope"
    assert result.scores["overall"]["n"] == 9
    assert result.scores["overall"]["accuracy"] == 6 / 9  # dog and cat are there, the cup is not
    assert result.scores["splits"]["random"]["tp"] == 2
    assert result.rejected == {}
    assert result.scores["left_aside"] == 3  # the bear, once in each split
    assert "Left aside: 3 answers to questions that repope does not ask" in capsys.readouterr().err
    again = run_benchmark(EvalSettings(benchmark="repope", out=result.out, only="score"))
    assert again.scores == result.scores
    assert Run.read(result.out).facts["data"]["questions"] == {"random": 3, "popular": 3, "adversarial": 3}


def test_the_command_rescores_a_pope_run(pope_run: Path) -> None:
    data = labels(pope_run.parent / "repope", "coco_repope", CORRECTED)
    words = ["--answers", str(pope_run / "answers.jsonl"), "--data", str(data), "--out", str(pope_run.parent / "out")]
    result = CliRunner().invoke(app, ["eval", "repope", *words, "--json"])
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert (scores["benchmark"], scores["overall"]["n"], scores["left_aside"]) == ("repope", 9, 3)
    assert "Left aside: 3 answers to questions that repope does not ask" in result.stderr


def test_upstreams_answers_to_pope_are_scored_by_way_of_its_questions(pope_run: Path) -> None:
    said = pope_run.parent / "said.jsonl"
    result = rescored(pope_run, said, questions=pope_run.parent / "pope" / "asked.jsonl")
    assert (result.scores["overall"]["n"], result.scores["left_aside"]) == (9, 3)


def test_a_question_that_pope_was_not_asked_is_left_out_and_named(pope_run: Path) -> None:
    lines = (pope_run / "answers.jsonl").read_text().splitlines(keepends=True)
    fewer = pope_run.parent / "fewer.jsonl"
    fewer.write_text("".join(lines[1:]))  # without the dog of the random split
    result = rescored(pope_run, fewer)
    assert list(result.rejected.values()) == ["no answer"]
    assert (result.scores["overall"]["n"], result.scores["rejected"], result.scores["left_aside"]) == (8, 1, 3)


def test_answers_to_something_else_are_refused(pope_run: Path) -> None:
    strange = write_lines(pope_run.parent / "strange.jsonl", [{"id": "random-b-00000000", "answers": ["Yes"]}])
    with pytest.raises(AmpError, match="no answer to 9 of 9 questions"):
        rescored(pope_run, strange)


def test_without_its_files_the_download_is_named(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="No coco_repope_random") as caught:
        run_benchmark(EvalSettings(benchmark="repope", data=tmp_path, out=tmp_path / "out"))
    assert "amp download repope" in str(caught.value.hint)


READINGS = {
    "Yes.": True,
    "YES": True,
    "No, yesterday": True,
    "no": False,
    "I do not know": False,
    "Unknown": False,
    "maybe": None,
}


@pytest.mark.parametrize(("text", "reading"), READINGS.items())
def test_the_official_rule_reads_letters_only(text: str, reading: bool | None) -> None:
    assert read_letters(text) is reading
