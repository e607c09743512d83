"""LLaVA-Bench: both versions' files, the official script's numbers with its -1 and nan, rules and images' names."""

import json
from pathlib import Path
from typing import Any

import pytest

from amp_cli.benchmarks import llava_bench
from amp_cli.benchmarks.llava_bench import find_files, read_items
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.errors import AmpError
from amp_cli.records import Answer
from tests.support.judged_data import GOLDEN, Script, llava_folder, write_json, write_lines
from tests.support.settings import eval_settings

CASES = GOLDEN / "llava_bench"


def evaluate(out: Path, **settings: Any) -> dict[str, Any]:
    return run_benchmark(eval_settings(**{"benchmark": "llava-bench", "out": out, **settings})).scores


@pytest.mark.parametrize("case", ["full_90", "tricky", "nan"])
@pytest.mark.parametrize("by", ["verdicts", "judge"])
@pytest.mark.parametrize("benchmark", ["llava-bench", "llava-bench-wild"])
def test_the_official_rule_equals_the_official_script_to_the_last_digit(
    case: str, by: str, benchmark: str, tmp_path: Path
) -> None:
    folder = CASES / case
    judged: dict[str, Any] = {
        "verdicts": {"verdicts": folder / "model_a.jsonl"},
        "judge": {"judge": f"replay:{folder / 'judge_replies.json'}"},
    }[by]
    scores = evaluate(
        tmp_path / "out", benchmark=benchmark, data=folder, answers=folder / "answers_model.jsonl", rule="official",
        **judged,
    )  # fmt: skip
    expected = json.loads((folder / "expected.json").read_text())
    assert scores["benchmark"] == benchmark
    assert scores["printed"] == expected["summarize"]["stdout"].splitlines()[1:-1]
    blocks = {"all": scores["overall"]} | {f"llava_bench_{name}": one for name, one in scores["categories"].items()}
    for group, numbers in expected["parsed"].items():
        relative = blocks[group]["relative"]
        assert (
            relative is None
            if numbers["relative"] != numbers["relative"]
            else round(relative, 1) == numbers["relative"]
        )
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    read = [[float(number) for number in item["ratings"][0]] for item in items]
    assert str(read) == str([list(map(float, pair)) for pair in expected["tuples"]])  # nan is not equal to itself


def test_an_undefined_ratio_is_null_in_valid_json(tmp_path: Path) -> None:
    folder = CASES / "nan"
    evaluate(
        tmp_path / "out", data=folder, answers=folder / "answers_model.jsonl", verdicts=folder / "model_a.jsonl",
        rule="official",
    )  # fmt: skip
    text = (tmp_path / "out" / "scores.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["overall"]["relative"] is None
    assert json.loads(text)["overall"]["model"] == 7.0


def test_a_zero_for_an_empty_answer_is_a_rating(tmp_path: Path) -> None:
    data = llava_folder(tmp_path / "data")
    reviews = [{"question_id": number, "content": text} for number, text in enumerate(["0 9\n...", "8 0", "10 11"])]
    scores = evaluate(tmp_path / "out", data=data, verdicts=write_lines(tmp_path / "r.jsonl", reviews))
    assert (scores["overall"]["reference"], scores["overall"]["model"], scores["unscored"]) == (4.0, 4.5, 1)


def test_the_strict_rule_takes_only_pairs_up_to_10_by_hand(tmp_path: Path) -> None:
    data = llava_folder(tmp_path / "data")
    replies = write_json(tmp_path / "replies.json", ["8 6\nfine", "**5, 10**", "-1 -1"])
    scores = run_benchmark(
        eval_settings(benchmark="llava-bench", out=tmp_path / "out", data=data, judge=f"replay:{replies}"),
        answerer=Script(),
    ).scores
    assert scores["categories"]["conv"]["relative"] == 75.0
    assert scores["categories"]["detail"]["relative"] == 200.0
    assert scores["categories"]["complex"]["relative"] is None
    assert scores["categories"]["complex"]["unscored"] == 1
    assert scores["overall"]["relative"] == 100 * 8 / 6.5
    assert (scores["overall"]["reference"], scores["overall"]["model"], scores["unscored"]) == (6.5, 8.0, 1)


def test_the_official_script_rounds_the_means_before_it_divides_them() -> None:
    """Means 1/3 apart: 100 * 6.667 / 7.333 is 90.918, unrounded it would be 90.909."""
    from amp_cli.benchmarks.judged import JudgedScore
    from amp_cli.benchmarks.ratings import Reading

    scores = [
        JudgedScore(
            id=str(number), images=(str(number),), group="conv", questions=("?",), references=("",), answers=("",),
            verdicts=("",), readings=(Reading(ratings=pair),),
        )
        for number, pair in enumerate([(7.0, 6.0), (7.0, 7.0), (8.0, 7.0)])
    ]  # fmt: skip
    assert llava_bench.summarise(scores, "official")["overall"]["relative"] == 6.667 / 7.333 * 100
    assert llava_bench.summarise(scores, "strict")["overall"]["relative"] == pytest.approx(100 * 20 / 22)


def test_the_judge_is_told_what_the_official_script_tells(tmp_path: Path) -> None:
    folder = CASES / "full_90"
    items = read_items(find_files(folder, "llava-bench"))
    wording = llava_bench.wording(folder, None)
    answers = {
        str(record["question_id"]): record["text"]
        for record in map(json.loads, (folder / "answers_model.jsonl").read_text().splitlines())
    }
    expected = json.loads((folder / "expected.json").read_text())["judge_prompts_first2"]
    for item, messages in zip(items[:2], expected, strict=True):
        told = llava_bench.prompt(item, Answer(id=item.id, answers=(answers[item.id],)), wording)
        assert told[-1] == ("user", messages[-1]["content"])


def test_the_rule_is_the_in_the_wild_one_where_there_is_one_and_else_our_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    data = llava_folder(tmp_path / "data")
    items = read_items(find_files(data, "llava-bench"))
    wording = llava_bench.wording(data, None)
    told = [llava_bench.prompt(item, Answer(id=item.id, answers=("x",)), wording)[-1][1] for item in items]
    assert "Judge conv." in told[0]
    assert "Judge plain complex." in told[2]
    assert "A dog.\nOne dog.\n\ndog: [0.1, 0.2, 0.3, 1.0]" in told[0]
    assert wording.identity["origin"] == "official"
    (data / "rule.json").unlink()
    assert llava_bench.wording(data, None).identity["origin"] == "own"
    own = tmp_path / "mine.txt"
    own.write_text("{context} {question} {reference} {answer}")
    assert llava_bench.wording(data, own).identity["origin"] == "file"


def test_the_in_the_wild_questions_take_the_rules_that_came_with_coco_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path))
    llava_folder(tmp_path / "benchmarks" / "llava-bench")
    (tmp_path / "wild").mkdir()
    assert llava_bench.wording(tmp_path / "wild", None).identity["origin"] == "official"


def test_a_rule_file_without_a_category_is_refused(tmp_path: Path) -> None:
    data = llava_folder(tmp_path / "data")
    write_json(data / "rule.json", {"conv": {"role": "Assistant", "prompt": "x"}})
    with pytest.raises(AmpError, match="no rule for the category 'detail'"):
        llava_bench.wording(data, None)


def test_images_with_and_without_coco_s_prefix_are_found(tmp_path: Path) -> None:
    data = llava_folder(tmp_path / "data")
    script = Script()
    settings = eval_settings(benchmark="llava-bench", out=tmp_path / "out", data=data, only="answer")
    assert run_benchmark(settings, answerer=script).scores["n"] == 3
    assert {request.images[0].name for request in script.asked} == {"COCO_val2014_000000000001.jpg"}


def test_the_in_the_wild_files_are_read_by_their_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_lines(data / "questions.jsonl", [{"question_id": 0, "image": "001.jpg", "text": "?", "category": "conv"}])
    write_lines(data / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": ["A hill.", "Sea."]}])
    write_lines(data / "answers_gpt4.jsonl", [{"question_id": 0, "text": "A hill."}])
    (item,) = read_items(find_files(data, "llava-bench-wild"))
    assert item.reference["context"] == "A hill.\nSea."
    (data / "context.jsonl").unlink()
    with pytest.raises(AmpError, match=r"context\.jsonl") as error:
        find_files(data, "llava-bench-wild")
    assert "amp download llava-bench-wild" in str(error.value.hint)


def test_a_review_without_content_is_read_by_its_tuple(tmp_path: Path) -> None:
    data = llava_folder(tmp_path / "data")
    reviews = [{"question_id": number, "tuple": [8.0, 4.0]} for number in range(3)]
    scores = evaluate(tmp_path / "out", data=data, verdicts=write_lines(tmp_path / "r.jsonl", reviews))
    assert scores["overall"]["relative"] == 50.0
