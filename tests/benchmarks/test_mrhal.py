"""MRHal-Bench: dialogues found anywhere, the official script's numbers, reuse of lists, and crashes."""

import json
from pathlib import Path
from typing import Any

import pytest

from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.errors import AmpError
from tests.support.judged_data import GOLDEN, Script, mrhal_folder, write_json
from tests.support.settings import eval_settings

CASES = GOLDEN / "mrhal"


def evaluate(out: Path, **settings: Any) -> dict[str, Any]:
    return run_benchmark(eval_settings(benchmark="mrhal", out=out, **settings)).scores


def judged_by(folder: Path, *texts: str) -> str:
    return f"replay:{write_json(folder / 'replies.json', list(texts))}"


@pytest.mark.parametrize("case", ["full_105", "tricky", "stale_reuse"])
@pytest.mark.parametrize("by", ["verdicts", "judge"])
def test_the_official_rule_equals_the_official_script_to_the_last_digit(case: str, by: str, tmp_path: Path) -> None:
    folder = CASES / case
    judged: dict[str, Any] = {
        "verdicts": {"verdicts": folder / "evaluation.json"},
        "judge": {"judge": f"replay:{folder / 'judge_replies.json'}"},
    }[by]
    scores = evaluate(tmp_path / "out", data=folder, answers=folder / "responses.json", rule="official", **judged)
    expected = json.loads((folder / "expected.json").read_text())
    assert scores["printed"] == expected["summarize"]["stdout"].splitlines()[:4]
    for way in ("cumulative", "mean"):
        for name, title in (("score", "Average score"), ("hallucination_rate", "Hallucination rate")):
            assert round(scores[way][name], 2) == expected["parsed"][f"{way.capitalize()} {title}"]
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert [item["ratings"][0] for item in items] == expected["ratings"]


def test_the_reused_lists_are_counted_in_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = CASES / "stale_reuse"
    evaluate(
        tmp_path / "out", data=folder, answers=folder / "responses.json", verdicts=folder / "evaluation.json",
        rule="official",
    )  # fmt: skip
    assert "3 of 4 verdicts could not be read: the official script takes the ratings of the dialogue before" in (
        capsys.readouterr().err
    )


def test_where_the_official_script_crashes_the_record_is_named_and_strict_leaves_it_out(tmp_path: Path) -> None:
    folder = CASES / "assert_rounds"
    given = {"answers": folder / "responses.json", "judge": f"replay:{folder / 'judge_replies.json'}"}
    with pytest.raises(AmpError, match="stops at the verdict on '1': its list has 2 ratings for 3 rounds"):
        evaluate(tmp_path / "out", data=folder, rule="official", **given)
    strict = evaluate(tmp_path / "strict", data=folder, **given)
    assert strict["unscored"] == 1
    assert strict["cumulative"]["score"] == 3.5


def test_cumulative_and_mean_by_hand(tmp_path: Path) -> None:
    data = mrhal_folder(tmp_path / "data", rounds=(2, 3, 2))
    judge = judged_by(tmp_path, "Ratings: [6, 0]", "Ratings: [1, 2, 3]", "who knows")
    scores = run_benchmark(
        eval_settings(benchmark="mrhal", out=tmp_path / "out", data=data, judge=judge), answerer=Script()
    ).scores
    assert scores["cumulative"]["score"] == 12 / 5
    assert scores["cumulative"]["hallucination_rate"] == 3 / 5
    assert scores["mean"]["score"] == (3 + 2) / 2
    assert scores["mean"]["hallucination_rate"] == 1 / 2
    assert (scores["n"], scores["rounds"], scores["unscored"]) == (3, 7, 1)
    low, high = scores["mean"]["ci95"]["score"]
    assert (low, high) == (2.0, 3.0)


def test_the_rounds_are_asked_without_image_tags_and_the_judge_sees_all_of_them(tmp_path: Path) -> None:
    data = mrhal_folder(tmp_path / "data")
    script = Script()
    told: list[Any] = []

    class Listener:
        identity: dict[str, Any] = {"kind": "listener"}  # noqa: RUF012
        notes = ()

        def judge(self, requests: Any, *, on_verdict: Any, on_reject: Any) -> None:
            told.extend(requests)
            for request in requests:
                on_reject(request, "only listening")

    with pytest.raises(AmpError, match="only listening"):
        run_benchmark(
            eval_settings(benchmark="mrhal", out=tmp_path / "out", data=data), answerer=script, judge=Listener()
        )
    assert script.asked[0].questions == ("Question 1 of 0?", "Question 2 of 0?")
    ((_, text),) = told[1].messages
    for part in ("Question 3 of 1?", "Truth 3 of 1.", "1 round 3", "Dog"):
        assert part in text


def test_several_lists_of_dialogues_are_refused_by_name(tmp_path: Path) -> None:
    data = mrhal_folder(tmp_path / "data")
    write_json(data / "copy.json", [{"id": 0, "revised": []}])
    with pytest.raises(AmpError, match=r"copy\.json.*dialogues\.json"):
        evaluate(tmp_path / "out", data=data, judge="x")


def test_answers_to_other_questions_or_rounds_are_refused(tmp_path: Path) -> None:
    data = mrhal_folder(tmp_path / "data", rounds=(2,))
    record = {
        "id": 0,
        "image": "0.png",
        "image_content": ["Dog"],
        "question": ["<image>\nQuestion 1 of 0?", "Question 2 of 0?"],
        "gt_answer": ["a", "b"],
        "model_answer": ["x"],
    }
    with pytest.raises(AmpError, match="as many answers as questions"):
        evaluate(tmp_path / "out", data=data, answers=write_json(tmp_path / "a.json", [record]), only="answer")
    record |= {"question": ["Else?", "Question 2 of 0?"], "model_answer": ["x", "y"]}
    with pytest.raises(AmpError, match=r"Else\?"):
        evaluate(tmp_path / "out", data=data, answers=write_json(tmp_path / "b.json", [record]), only="answer")


def test_two_dialogues_of_the_same_id_stay_two(tmp_path: Path) -> None:
    data = mrhal_folder(tmp_path / "data", rounds=(2, 2))
    file = data / "some" / "where" / "dialogues.json"
    write_json(file, [record | {"id": "same"} for record in json.loads(file.read_text())])
    script = Script()
    run_benchmark(eval_settings(benchmark="mrhal", out=tmp_path / "out", data=data, only="answer"), answerer=script)
    assert [request.id for request in script.asked] == ["same", "same-2"]
