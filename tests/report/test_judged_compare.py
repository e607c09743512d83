"""Two judged runs side by side: item by item, by the same judge, beside the paper's rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.report.compare import compare_runs
from tests.support.judged_data import FakeJudge, Script, mmhal_folder, mrhal_folder, write_json
from tests.support.settings import eval_settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mmhal_folder(tmp_path / "data", count=4)


def settings(data: Path, **changes: Any) -> EvalSettings:
    return eval_settings(**{"benchmark": "mmhal", "data": data, "out": data.parent / "out", **changes})


def by_name(base: Path, other: Path) -> dict[str, Difference]:
    return {one.name: one for one in compare_runs(base, other)}


def test_two_runs_are_compared_item_by_item_and_chance_is_told_from_difference(tmp_path: Path) -> None:
    data = mmhal_folder(tmp_path / "data", count=48)
    for name, plus in (("base", 0), ("better", 1)):
        ratings = {(f"id{number}", 0): number % 5 + plus for number in range(48)}
        run_benchmark(settings(data, out=tmp_path / name), answerer=Script(), judge=FakeJudge(ratings=ratings))
    differences = by_name(tmp_path / "base", tmp_path / "better")
    score = differences["score"]
    assert score.difference == pytest.approx(1.0)
    assert score.ci95 == pytest.approx((1.0, 1.0))  # every item gained 1: the pair is kept together
    assert score.is_clear
    assert score.n == 48
    assert differences["hallucination_rate"].difference == pytest.approx(-10 / 48)


def test_an_item_that_one_run_has_unscored_is_left_out_of_the_pair(data: Path) -> None:
    texts = ["Rating: 4", "?", "Rating: 4", "Rating: 4"]
    replies = write_json(data.parent / "replies.json", texts)
    run_benchmark(settings(data, judge=f"replay:{replies}"), answerer=Script())
    run_benchmark(settings(data, out=data.parent / "other"), answerer=Script(), judge=FakeJudge())
    score = by_name(data.parent / "out", data.parent / "other")["score"]
    assert (score.n, score.base, score.other) == (3, 4.0, 5.0)


def test_ratings_by_two_judges_are_not_compared(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark(settings(data), answerer=Script(), judge=FakeJudge())
    run_benchmark(settings(data, out=data.parent / "b"), answerer=Script(), judge=FakeJudge(name="another"))
    with pytest.raises(AmpError, match="judges' models are 'fake' and 'another'"):
        compare_runs(data.parent / "out", data.parent / "b")
    shown = CliRunner().invoke(app, ["report", str(data.parent / "out"), str(data.parent / "b"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["runs"][1]["differences"] == []


def test_the_report_fits_80_columns_and_quotes_the_paper(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    dialogues = mrhal_folder(tmp_path / "dialogues")
    replies = write_json(tmp_path / "mrhal.json", ["Ratings: [6, 0]", "Ratings: [1, 2, 3]"])
    for name in ("base", "other"):
        run_benchmark(settings(data, out=tmp_path / name / "mmhal"), answerer=Script(), judge=FakeJudge())
        mrhal = settings(dialogues, benchmark="mrhal", out=tmp_path / name / "mrhal", judge=f"replay:{replies}")
        run_benchmark(mrhal, answerer=Script())
    page = tmp_path / "report.html"
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "base"), str(tmp_path / "other"), "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "AMP-MEG-13B" in shown.stdout
    assert "Difference to base" in shown.stdout
    text = page.read_text()
    assert "MRHal-Bench" in text
    assert "judged by fake-2; template amp/mmhal.txt (own" in text
    assert "quoted" in text
