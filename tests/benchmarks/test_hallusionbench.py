"""HallusionBench: its accuracies as its own script and as VLMEvalKit count them, with and without a judge."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amp_cli.benchmarks import hallusionbench, hallusionbench_judged
from amp_cli.benchmarks.hallusionbench import SCORES, rates, set_counts
from amp_cli.benchmarks.hallusionbench_judged import read_official, read_strict
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.benchmarks.yes_no_reading import read_words
from amp_cli.errors import AmpError
from amp_cli.report.compare import compare_runs
from tests.support.settings import eval_settings

GOLDEN = Path(__file__).parents[1] / "golden" / "hallusionbench"
"""Made-up questions, answers and verdicts; `expected.json` is what both official codes made of them."""
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
ANSWERS = GOLDEN / "HallusionBench_result.json"


def scored(out: Path, answers: Path = ANSWERS, **settings: Any) -> dict[str, Any]:
    given = {"data": GOLDEN, "answers": answers, **settings}
    return run_benchmark(EvalSettings(benchmark="hallusionbench", out=out, **given)).scores


def accuracies(outcomes: dict[str, bool | None]) -> dict[str, float]:
    sums = set_counts(list(outcomes.items())).sum(axis=0, keepdims=True)
    return {name: float(value[0]) for name, value in rates(sums).items() if "/" not in name}


def test_figures_and_pairs_are_right_as_a_whole() -> None:
    """The drawing at the top of the file."""
    right = {
        "VD_map_0_0_0_easy": True,
        "VD_map_0_0_1_easy": True,
        "VD_map_0_1_0_hard": True,
        "VD_map_0_1_1_hard": False,
    }
    assert accuracies(right) == {"aAcc": 3 / 4, "fAcc": 1 / 2, "qAcc": 1 / 2, "easy": 1.0, "hard": 1 / 2}


def test_what_is_not_known_leaves_its_figure_and_pair_out_unless_they_are_wrong_anyway() -> None:
    found = accuracies({"VD_map_0_0_0_easy": True, "VD_map_0_0_1_easy": None, "VD_map_0_1_0_hard": False})
    assert (found["aAcc"], found["fAcc"], found["qAcc"]) == (1 / 2, 0.0, 0.0)
    counts = set_counts([("VD_map_0_0_0_easy", True), ("VD_map_0_0_1_easy", None)]).reshape(2, len(SCORES), 2)
    assert counts[0].tolist() == [[1, 1], [0, 0], [1, 1], [1, 1], [0, 0]]  # (right, known) of each accuracy


def test_questions_without_a_figure_are_no_figure() -> None:
    found = accuracies({"VS_map_0_0_0_easy": False, "VS_map_0_1_0_hard": True})
    assert (found["fAcc"], found["qAcc"]) == (1.0, 0.0)


def test_exact_matching_gives_vlmevalkits_numbers_to_the_last_digit(tmp_path: Path) -> None:
    scores = scored(tmp_path / "out", rule="vlmevalkit")
    blocks = {"all": scores, **scores["categories"]}
    found = {group: {name: blocks[group][name] * 100 for name in ("aAcc", "fAcc", "qAcc")} for group in blocks}
    assert found == EXPECTED["vlmevalkit"]
    assert scores["overall"]["accuracy"] == scores["aAcc"]


@pytest.mark.parametrize(("text", "said"), json.loads((GOLDEN / "words.json").read_text()).items())
def test_exact_matching_reads_words_as_vlmevalkit_does(text: str, said: bool | None) -> None:
    assert read_words(text) is said


def judged(out: Path, **settings: Any) -> dict[str, Any]:
    given = {"part": "all", "answers": ANSWERS, "verdicts": GOLDEN / "checked.json", "data": GOLDEN, **settings}
    return run_benchmark(eval_settings(benchmark="hallusionbench-judged", out=out, **given)).scores


@pytest.mark.parametrize("rule", ["official", "strict"])
def test_the_judges_verdicts_give_the_official_numbers_to_the_last_digit(tmp_path: Path, rule: str) -> None:
    """Both rules: every verdict of the file can be read."""
    scores = judged(tmp_path / "out", rule=rule)
    blocks = {"all": scores, **scores["categories"]}
    assert {group: {name: blocks[group][name] for name in SCORES} for group in blocks} == EXPECTED["judged"]
    assert scores["unscored"] == 0


def test_an_answer_that_does_not_know_is_right_only_without_a_figure() -> None:
    unclear = hallusionbench_judged.CODES["unclear"]
    assert hallusionbench_judged.is_right("VS_map_0_0_0_easy", unclear)
    assert not hallusionbench_judged.is_right("VS_map_0_1_0_hard", unclear)
    assert not hallusionbench_judged.is_right("VD_map_0_0_0_easy", unclear)


REPLIES = {
    "Verdict: correct": (1.0, 1.0),
    "It is incorrect": (0.0, 0.0),
    "The first claim is correct.\nVerdict: incorrect": (0.0, 0.0),
    "**Verdict:** Unclear": (2.0, 2.0),
    "correct in part, incorrect in part": (0.0, None),
    "It is not correct": (1.0, None),  # the official script looks for letters
    "I would rather not say": (2.0, None),
}


@pytest.mark.parametrize(("text", "codes"), REPLIES.items())
def test_a_reply_is_read_as_the_script_does_or_strictly(text: str, codes: tuple[float, float | None]) -> None:
    official, strict = read_official(text).ratings, read_strict(text).ratings
    assert (official[0] if official else None, strict[0] if strict else None) == codes


def test_questions_without_a_figure_are_asked_on_demand_only() -> None:
    whole = hallusionbench.load(GOLDEN, EvalSettings(benchmark="hallusionbench", out=Path("out"), part="all"))
    image = hallusionbench.load(GOLDEN, EvalSettings(benchmark="hallusionbench", out=Path("out")))
    assert {bool(item.images) for item in image.items} == {True}
    assert len(whole.items) - len(image.items) == sum(not item.images for item in whole.items) == 6
    assert image.items[0].images == ("VS/chart/0_1.png",)


def test_two_runs_are_compared_over_what_both_say_readably(tmp_path: Path) -> None:
    scored(tmp_path / "old")
    records = json.loads(ANSWERS.read_text())
    labels = {
        tuple(one[key] for key in ("category", "subcategory", "set_id", "figure_id", "question_id")): one["gt_answer"]
        for one in json.loads((GOLDEN / "HallusionBench.json").read_text())
    }
    for one in records:
        key = tuple(one[name] for name in ("category", "subcategory", "set_id", "figure_id", "question_id"))
        one["model_prediction"] = "Yes" if labels[key] == "1" else "No"
    right = tmp_path / "right.json"
    right.write_text(json.dumps(records))
    scored(tmp_path / "new", right)
    found = {one.name: one for one in compare_runs(tmp_path / "old", tmp_path / "new")}
    old = json.loads((tmp_path / "old" / "scores.json").read_text())
    assert found["qAcc"].other == 1.0
    assert found["qAcc"].base == pytest.approx(old["qAcc"])
    assert found["aAcc"].n == old["overall"]["n"] - old["overall"]["unparsed"]
    assert found["aAcc"].p_value is not None


def test_a_question_of_another_form_is_refused_by_its_record(tmp_path: Path) -> None:
    record = json.loads((GOLDEN / "HallusionBench.json").read_text())[0] | {"gt_answer": "maybe"}
    (tmp_path / "HallusionBench.json").write_text(json.dumps([record]))
    with pytest.raises(AmpError, match="record 1, has the gt_answer 'maybe'"):
        hallusionbench.load(tmp_path, EvalSettings(benchmark="hallusionbench", out=tmp_path))


def test_the_interval_is_over_sets() -> None:
    """Two sets, one all right and one all wrong: a draw of two has 0, 1 or 2 of them."""
    outcomes = [(f"VD_map_{number}_0_0_easy", number == 0) for number in range(2)]
    assert hallusionbench.accuracies(set_counts(outcomes))["ci95"]["aAcc"] == [0.0, 1.0]
    assert np.shape(set_counts(outcomes))[0] == 2


def test_numbers_are_read_as_the_official_script_asks_for_them(tmp_path: Path) -> None:
    """1 is yes, 0 is no, 2 is uncertain; as texts or as numbers."""
    records = json.loads((GOLDEN / "HallusionBench.json").read_text())
    for record in records:
        record["model_prediction"] = record["gt_answer"]
    records[0]["model_prediction"] = int(records[0]["gt_answer"])
    records[1]["model_prediction"] = "2"
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(records))
    scores = scored(tmp_path / "out", file, part="all")
    assert (scores["aAcc"], scores["overall"]["unparsed"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"filename": None}, "the visual_input 1 and the filename None"), ({"set_id": None}, "lacks one of category")],
)
def test_a_question_that_lost_its_figure_or_its_place_is_named(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    records = json.loads((GOLDEN / "HallusionBench.json").read_text())
    damaged = next(number for number, record in enumerate(records) if record["visual_input"] == "1")
    records[damaged] |= change
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    with pytest.raises(AmpError, match=f"record {damaged + 1}") as caught:
        scored(tmp_path / "out", data=tmp_path)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [("1", True), (" 0\n", False), ("1.", True), ("**0**", False), ('"1"', True), ("10", None), ("2", None)],
)
def test_a_number_is_read_whatever_stands_around_it(text: str, said: bool | None) -> None:
    assert hallusionbench.read(text, "Is the left circle larger?") is said
