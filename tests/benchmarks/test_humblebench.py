"""HumbleBench: lettered choices, the official numbers to the last digit, its own answer files."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.benchmarks import BENCHMARKS, humblebench
from amp_cli.benchmarks.humblebench import ChoiceScore
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.report.compare import compare_runs
from amp_cli.report.report import build_report
from amp_cli.report.runs import ReportRun

GOLDEN = Path(__file__).parents[1] / "golden" / "humblebench"
"""Made-up questions and answers; `*_results.json` are what the official `compute_metrics` made of them."""


def scored(out: Path, answers: Path = GOLDEN / "original.jsonl", **settings: Any) -> dict[str, Any]:
    return run_benchmark(
        EvalSettings(benchmark="humblebench", data=GOLDEN, answers=answers, out=out, **settings),
    ).scores


@pytest.mark.parametrize(("part", "name"), [("original", "original"), ("nota-only", "nota_only")])
def test_the_official_rule_gives_the_official_numbers_to_the_last_digit(part: str, name: str, tmp_path: Path) -> None:
    scores = scored(tmp_path / "out", GOLDEN / f"{name}.jsonl", rule="official", part=part)
    official = json.loads((GOLDEN / f"{name}_results.json").read_text())
    overall = scores["overall"]
    assert {
        **{f"{kind}_accuracy": block["accuracy"] * 100 for kind, block in scores["types"].items()},
        "Overall_accuracy": overall["accuracy"] * 100,
        "E_accuracy": overall["none_accuracy"] * 100,
    } == official["Accuracy"]
    assert {f"{letter}_proportion": share * 100 for letter, share in overall["said"].items()} == official["Proportions"]


def test_the_strict_rule_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    """11 of 14 can be read; of those 10 are right, and so are 3 of the 4 where none of the above is."""
    overall = scored(tmp_path / "out")["overall"]
    assert (overall["n"], overall["unparsed"], overall["accuracy"]) == (14, 3, 10 / 11)
    assert (overall["none_accuracy"], overall["none_ratio"]) == (3 / 4, 3 / 11)
    assert overall["ci95"]["accuracy"][0] <= overall["accuracy"]
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert [one["id"] for one in items if one["reading"] is None] == ["10", "11", "14"]


def test_a_question_is_asked_with_its_choices_or_without_the_right_one() -> None:
    settings = EvalSettings(benchmark="humblebench", out=Path("out"))
    first, second = humblebench.load(GOLDEN, settings).items[:2]
    choices = "A. One\nB. Two\nC. Three\nD. Four\nE. None of the above"
    suffix = "\nAnswer with the letter of the right choice alone."
    assert BENCHMARKS["humblebench"].ask(first, settings) == (f"How many boats lie in the harbour?\n{choices}{suffix}",)
    assert (first.id, first.images, first.reference["label"]) == ("1", ("images/7.jpg",), "B")
    settings = EvalSettings(benchmark="humblebench", out=Path("out"), part="nota-only")
    without, same = humblebench.load(GOLDEN, settings).items[:2]
    assert without.questions == ("How many boats lie in the harbour?\n" + choices.replace("B. Two\n", ""),)
    assert (without.id, without.reference["label"]) == ("1-nota-only", "E")
    assert same.questions == second.questions


def test_answers_to_other_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="not those of question 1 with --part original") as caught:
        scored(tmp_path / "out", GOLDEN / "nota_only.jsonl")
    assert "--part nota-only" in str(caught.value.hint)


def test_two_runs_are_compared_and_an_invented_choice_is_shown(tmp_path: Path) -> None:
    records = [json.loads(line) for line in (GOLDEN / "original.jsonl").read_text().splitlines()]
    right = tmp_path / "right.jsonl"
    right.write_text("".join(json.dumps({**one, "prediction": one["label"]}) + "\n" for one in records))
    scored(tmp_path / "old", rule="official")
    scored(tmp_path / "new", right, rule="official")
    found = {one.name: one for one in compare_runs(tmp_path / "old", tmp_path / "new")}
    assert found["overall/accuracy"].test == "mcnemar"
    assert (found["overall/none_accuracy"].other, found["overall/none_accuracy"].n) == (1.0, 4)
    runs = [ReportRun(name=name, path=tmp_path / name) for name in ("old", "new")]
    build_report(runs, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "none of the above" in page
    assert "14 of 14 questions" in page


def test_a_wrong_choice_invents_and_a_wrong_none_of_the_above_does_not() -> None:
    def said(letter: str, label: str) -> bool:
        one = ChoiceScore(
            id="1", type="Object", images=("1.jpg",), question="?", answer=letter, label=label, reading=letter
        )
        return humblebench.row(one, [("run", one)]).replies[0].made_up

    assert said("A", "E")
    assert said("A", "B")
    assert not said("E", "B")
    assert not said("E", "E")


def test_a_model_answers_and_the_images_are_found(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "metadata.jsonl").write_text((GOLDEN / "metadata.jsonl").read_text())
    for name in ("7", "21", "300", "4512"):
        Image.new("RGB", (16, 16)).save(tmp_path / "data" / "images" / f"{name}.jpg")
    line = ["eval", "humblebench", "--model", "tiny", "--data", str(tmp_path / "data"), "--limit", "3", "--json"]
    result = CliRunner().invoke(app, [*line, "--max-new-tokens", "2", "--out", str(tmp_path / "out")])
    assert result.exit_code in (0, 3), result.output
    assert json.loads(result.stdout)["limit"] == {"asked": 3, "of": 14, "items": "questions", "seed": 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "F"}, "has the label 'F'"),
        ({"question": None}, "has no text 'question'"),
        ({"file_name": 7}, "has no text 'file_name'"),
        ({"question_id": 1}, "asks question '1' twice"),
    ],
)
def test_a_damaged_record_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (GOLDEN / "metadata.jsonl").read_text().splitlines()]
    records[1] |= change
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(AmpError, match=r"metadata\.jsonl") as caught:
        humblebench.load(tmp_path, EvalSettings(benchmark="humblebench", out=tmp_path / "out"))
    assert said in caught.value.message


def test_of_answers_that_cannot_be_read_there_is_no_table_of_letters(tmp_path: Path) -> None:
    records = [json.loads(line) for line in (GOLDEN / "original.jsonl").read_text().splitlines()]
    mute = tmp_path / "mute.jsonl"
    mute.write_text("".join(json.dumps({**one, "prediction": "I cannot see that."}) + "\n" for one in records))
    titles = [
        [title for title, _, _ in humblebench.tables(scored(tmp_path / name, file))]
        for name, file in (("some", GOLDEN / "original.jsonl"), ("none", mute))
    ]
    assert [len(ones) for ones in titles] == [2, 1]
