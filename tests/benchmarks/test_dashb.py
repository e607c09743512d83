"""DASH-B: questions from its two files, the official numbers to the last digit, its own answer files."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.benchmarks import BENCHMARKS, dashb
from amp_cli.benchmarks.files import unpack_images
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.records import BenchmarkItem
from amp_cli.report.compare import compare_runs

GOLDEN = Path(__file__).parents[1] / "golden" / "dashb"
"""Made-up objects and answers; `answers.json` and `results.json` are what the official script wrote of them."""


def scored(out: Path, answers: Path = GOLDEN / "answers.json", **settings: Any) -> dict[str, Any]:
    return run_benchmark(
        EvalSettings(benchmark="dashb", data=GOLDEN, answers=answers, out=out, **settings),
    ).scores


def test_the_official_rule_gives_the_official_numbers_to_the_last_digit(tmp_path: Path) -> None:
    scores = scored(tmp_path / "out", rule="official")
    official = json.loads((GOLDEN / "results.json").read_text())
    assert {
        "ACC": scores["overall"]["accuracy"],
        "TNR": scores["splits"]["neg"]["accuracy"],
        "TPR": scores["splits"]["pos"]["accuracy"],
        "Harmonic Mean": scores["overall"]["harmonic_mean"],
    } == official
    low, high = scores["overall"]["ci95"]["harmonic_mean"]
    assert low <= official["Harmonic Mean"] <= high


def test_the_strict_rule_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    answers = json.loads((GOLDEN / "answers.json").read_text())
    for record in answers:
        record["response"] = "Yes." if record["gt"] == "yes" else "No."
    answers[0]["response"] = "Hard to say"
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(answers))
    scores = scored(tmp_path / "out", file)
    assert (scores["overall"]["accuracy"], scores["overall"]["unparsed"], scores["overall"]["n"]) == (1.0, 1, 13)
    assert scores["overall"]["harmonic_mean"] == 1.0


def test_a_question_is_asked_in_the_official_words_without_an_instruction_of_ours() -> None:
    settings = EvalSettings(benchmark="dashb", out=Path("out"))
    loaded = dashb.load(GOLDEN, settings)
    item = next(one for one in loaded.items if one.reference["object"] == "surf board")
    asked = ("Can you see a surf board in this image? Please answer only with yes or no.",)
    assert BENCHMARKS["dashb"].ask(item, settings) == asked
    assert item.images == ("neg/coco/surf board/4.png",)
    assert len({one.id for one in loaded.items}) == 13


def test_two_runs_are_compared_by_the_harmonic_mean_too(tmp_path: Path) -> None:
    scored(tmp_path / "old", rule="official")
    answers = json.loads((GOLDEN / "answers.json").read_text())
    right = tmp_path / "right.json"
    right.write_text(json.dumps([{**one, "response": one["gt"]} for one in answers]))
    scored(tmp_path / "new", right, rule="official")
    found = {one.name: one for one in compare_runs(tmp_path / "old", tmp_path / "new")}
    assert found["overall/harmonic_mean"].difference == 1 - 0.375
    assert found["overall/harmonic_mean"].is_clear


def test_answers_known_by_number_alone_are_refused_with_the_file_to_give(tmp_path: Path) -> None:
    file = tmp_path / "x_dash_b_responses.jsonl"
    file.write_text('{"question_id": 1, "response": "yes"}\n')
    with pytest.raises(AmpError, match="no img_id, object_name, gt and response") as caught:
        scored(tmp_path / "out", file)
    assert "NAME_answers.json" in str(caught.value.hint)


def test_without_both_files_the_download_is_named(tmp_path: Path) -> None:
    (tmp_path / "dash_benchmark_neg.json").write_text('{"coco": {"cup": ["1.png"]}}')
    words = ["eval", "dashb", "--model", "tiny", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, AmpError)
    assert "No dash_benchmark_pos.json below" in result.exception.message
    assert "amp download dashb" in str(result.exception.hint)


def test_images_in_two_archives_are_found_by_their_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects have an image called 1.png, and both archives too."""
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    items = []
    for split in ("neg", "pos"):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            for thing in ("cup", "dog"):
                name = f"{split}/coco/{thing}/1.png"
                archive.writestr(name, name)
                items.append(BenchmarkItem(id=name, images=(name,), questions=("?",)))
    folder = unpack_images(items, tmp_path)
    assert folder is not None
    assert {item.id: (folder / item.images[0]).read_text() for item in items} == {item.id: item.id for item in items}
    stray = BenchmarkItem(id="stray", images=("elsewhere/1.png",), questions=("?",))
    assert unpack_images([stray], tmp_path) is None  # there are two 1.png, and neither is it


def test_white_space_around_names_changes_nothing(tmp_path: Path) -> None:
    records = json.loads((GOLDEN / "answers.json").read_text())
    padded = [{name: f" {text}\n" if isinstance(text, str) else text for name, text in one.items()} for one in records]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(padded))
    assert scored(tmp_path / "padded", file)["overall"] == scored(tmp_path / "plain")["overall"]
