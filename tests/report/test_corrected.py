"""Differences of a report: tested in pairs, corrected for their number, and what an unclear one would need."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from amp_cli.benchmarks.comparing import (
    difference_of,
    false_discoveries,
    items_needed,
    mcnemar,
    paired_differences,
    wald,
)
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.report.report import build_report
from amp_cli.report.runs import ReportRun, gather, sentences


def test_the_correction_is_that_of_benjamini_and_hochberg() -> None:
    """By hand: the p-values by rank times 4 over the rank, none above one after it."""
    assert false_discoveries([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])
    assert false_discoveries([]) == []


def test_a_difference_of_1_96_standard_errors_is_at_the_level() -> None:
    assert wald(0.0196, 0.01) == pytest.approx(0.05, abs=1e-4)
    assert wald(0.0, 0.0) == 1.0
    assert (
        wald(0.5, 0.001) == mcnemar(5000, 0) == sys.float_info.min
    )  # e ** -125,000: no number is so small, nor is it 0
    assert wald(1.0, 0.0) is None  # three items that all changed alike say nothing of chance


def test_items_needed_is_the_textbook_formula() -> None:
    """(1.96 + 0.8416)^2 * variance / effect^2, with the variance of one paired difference 0.1, measured over 500."""
    assert items_needed((0.1 / 500) ** 0.5, 500, 0.02) == pytest.approx(
        (1.959964 + 0.841621) ** 2 * 0.1 / 0.02**2, abs=1
    )


def test_that_many_items_show_it_in_4_of_5_tries() -> None:
    """A simulation of discordant pairs: 12 % right in the second run only, 10 % in the first only."""
    shares = [0.10, 0.78, 0.12]
    error = (0.22 - 0.02**2) ** 0.5 / 1000**0.5
    needed = items_needed(error, 1000, 0.02)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(needed, shares, size=2000)
    difference = (counts[:, 2] - counts[:, 0]) / needed
    spread = np.sqrt((counts[:, 2] + counts[:, 0]) / needed - difference**2) / needed**0.5
    assert np.mean(difference / spread > 1.959964) == pytest.approx(0.8, abs=0.03)


def test_the_standard_error_is_that_of_the_draws() -> None:
    """1,000 images, of which 100 are right in the second run only: the variance is 0.1 * 0.9 / 1,000."""
    changed = np.zeros((1000, 1))
    pairs = [(changed[number], changed[number] + (number < 100)) for number in range(1000)]
    found = paired_differences(
        pairs, lambda ones: np.array(ones).reshape(-1, 1) / 1000, lambda sums: {"share": sums[:, 0]}
    )["share"]
    assert found.difference == pytest.approx(0.1)
    assert found.error == pytest.approx((0.09 / 1000) ** 0.5, rel=0.05)
    assert found.test == "bootstrap"


def test_a_score_that_is_undefined_has_no_test() -> None:
    nothing = np.array([np.nan])
    found = difference_of("x", nothing, nothing, np.array([np.nan, np.nan]), n=3)
    assert (found.p_value, found.error, found.ci95) == (None, None, None)


@pytest.fixture
def runs(tmp_path: Path) -> list[ReportRun]:
    """60 questions; the second run is right on 2 more of them, the third on 30 more."""
    data = tmp_path / "data"
    data.mkdir()
    for split in ("neg", "pos"):
        (data / f"dash_benchmark_{split}.json").write_text(
            json.dumps({"toy": {"cup": [f"{number}.png" for number in range(30)]}})
        )
    found = []
    for name, right in (("base", 20), ("little", 22), ("much", 50)):
        answers = [
            {
                "img_id": f"{number}.png",
                "object_name": "cup",
                "gt": gt,
                "response": gt if number + 30 * (gt == "yes") < right else {"yes": "no", "no": "yes"}[gt],
            }
            for gt in ("no", "yes")
            for number in range(30)
        ]
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(answers))
        run_benchmark(EvalSettings(benchmark="dashb", data=data, answers=file, out=tmp_path / name))
        found.append(ReportRun(name=name, path=tmp_path / name))
    return found


def test_all_differences_of_a_report_are_corrected_together(runs: list[ReportRun]) -> None:
    report = build_report(runs)
    differences = [one for run in report["runs"] for one in run["differences"]]
    tested = [one for one in differences if one["p_value"] is not None]
    assert report["correction"] == {"method": "benjamini-hochberg", "comparisons": len(tested)}
    assert [one["adjusted"] for one in tested] == pytest.approx(false_discoveries([one["p_value"] for one in tested]))
    accuracy = {run["name"]: one for run in report["runs"] for one in run["differences"] if one["name"] == ACCURACY}
    assert (accuracy["little"]["test"], accuracy["little"]["p_value"]) == ("mcnemar", 0.5)  # 2 of 2: 2 / 2^2
    assert not accuracy["little"]["clear"]
    assert accuracy["much"]["clear"]
    assert accuracy["much"]["adjusted"] >= accuracy["much"]["p_value"]


ACCURACY = "overall/accuracy"


def test_an_unclear_difference_says_how_many_items_would_show_2_points(runs: list[ReportRun]) -> None:
    from amp_cli.benchmarks import BENCHMARKS

    _, little, much = gather(runs)
    evaluation = little.evaluations["dashb"]
    accuracy = next(one for one in evaluation.differences if one.name == ACCURACY)
    assert accuracy.error is not None
    needed = items_needed(accuracy.error, 60, 0.02)
    said = sentences(BENCHMARKS["dashb"], evaluation)[-1]
    assert f"accuracy, all: {needed:,} (here 60)" in said
    assert said.startswith("What is not clear needs so many questions to show a difference of 2 % of its scale")
    assert "accuracy, all" not in sentences(BENCHMARKS["dashb"], much.evaluations["dashb"])[-1]


def test_what_is_clear_alone_and_not_among_many_is_not_clear(runs: list[ReportRun]) -> None:
    from dataclasses import replace

    _, _, much = gather(runs)
    one = next(one for one in much.evaluations["dashb"].differences if one.name == ACCURACY)
    assert one.is_clear
    assert not replace(one, adjusted=0.06).is_clear


def test_the_page_says_what_is_corrected(runs: list[ReportRun], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    build_report(runs, html=page)
    text = page.read_text()
    assert "p = 0.500, corrected" in text
    assert "corrected for all differences of this report (Benjamini and Hochberg)" in text
    assert "in 4 of 5 tries" in text
