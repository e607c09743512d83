"""MMHal-Bench: its files as downloaded, the official script's numbers, and what is said when something is off."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from amp_cli.asking.judge import JudgeRequest
from amp_cli.benchmarks import mmhal
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.errors import AmpError
from tests.support.judged_data import GOLDEN, Script, images, mmhal_folder, mmhal_records, write_json, write_lines
from tests.support.settings import eval_settings

CASES = GOLDEN / "mmhal"


def evaluate(out: Path, **settings: Any) -> dict[str, Any]:
    return run_benchmark(eval_settings(benchmark="mmhal", out=out, **settings)).scores


def replies(folder: Path, *texts: str) -> str:
    return f"replay:{write_json(folder / 'replies.json', list(texts))}"


@pytest.mark.parametrize("case", ["full_96_plain", "full_96_tricky"])
@pytest.mark.parametrize("by", ["verdicts", "judge"])
def test_the_official_rule_equals_the_official_script_to_the_last_digit(case: str, by: str, tmp_path: Path) -> None:
    folder = CASES / case
    judged: dict[str, Any] = {
        "verdicts": {"verdicts": folder / "evaluation.json"},
        "judge": {"judge": f"replay:{folder / 'judge_replies.json'}"},
    }[by]
    scores = evaluate(
        tmp_path / "out", data=folder, answers=folder / "responses.json", rule="official", **judged
    )  # fmt: skip
    expected = json.loads((folder / "expected.json").read_text())
    said = [line for line in expected["summarize"]["stdout"].splitlines() if line.startswith(("Average", "Halluc"))]
    assert scores["printed"] == said
    assert round(scores["score"], 2) == expected["parsed"]["average_score"]
    assert [round(scores["types"][name]["score"], 2) for name in mmhal.TYPES] == expected["parsed"]["per_type"]
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    substituted = [number for number, item in enumerate(items) if item["substituted"] == [True]]
    assert substituted == expected["warned_indices"]
    assert scores["unscored"] == 0
    assert scores["unread_verdicts"] == len(expected["warned_indices"])


def test_where_the_official_script_crashes_there_is_a_sentence(tmp_path: Path) -> None:
    folder = CASES / "wrong_count_95"
    given = {"answers": folder / "responses.json", "judge": f"replay:{folder / 'judge_replies.json'}"}
    with pytest.raises(AmpError, match=r"96 questions.*are 95"):
        evaluate(tmp_path / "out", data=folder, rule="official", **given)
    assert not (tmp_path / "out").exists()
    assert evaluate(tmp_path / "out", data=folder, rule="strict", **given)["n"] == 95


def test_the_strict_rule_leaves_out_what_cannot_be_read_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CASES / "full_96_tricky"
    scores = evaluate(
        tmp_path / "out", data=folder, answers=folder / "responses.json", verdicts=folder / "evaluation.json"
    )
    unscored = [json.loads(line) for line in (tmp_path / "out" / "unscored.jsonl").read_text().splitlines()]
    assert [one["text"] for one in unscored] == [
        "Rating: 5, then on reflection Rating: 3",
        "No rating given",
        "Rating: 4.5",
        "Rating: N/A",
        "Rating: 10",
        "My overrating: 5",
        "",
        "Rating: 7",
        "Rating: 60",
    ]
    assert scores["unscored"] == 9
    assert scores["n"] == 96
    warning = capsys.readouterr().err
    assert "9 of 96 verdicts could not be read" in warning
    assert "No rating given" in warning


def test_scores_by_hand(tmp_path: Path) -> None:
    data = mmhal_folder(tmp_path / "data", count=9)  # the ninth is of the first type again
    judge = replies(tmp_path, *(f"Rating: {rating}" for rating in (6, 0, 1, 2, 3, 4, 5, 6)), "cannot say")
    scores = run_benchmark(
        eval_settings(benchmark="mmhal", out=tmp_path / "out", data=data, judge=judge), answerer=Script()
    ).scores
    assert scores["score"] == 27 / 8
    assert scores["hallucination_rate"] == 3 / 8
    assert scores["n"] == 9
    assert scores["unscored"] == 1
    attribute = scores["types"]["attribute"]
    assert (attribute["score"], attribute["n"], attribute["unscored"]) == (6.0, 2, 1)
    assert scores["types"]["adversarial"]["hallucination_rate"] == 1.0
    low, high = scores["ci95"]["score"]
    assert low < 27 / 8 < high
    assert scores["types"]["other"]["ci95"]["score"] == [6.0, 6.0]


def test_the_official_script_takes_types_by_place_the_strict_rule_by_name(tmp_path: Path) -> None:
    records = mmhal_records(96)
    records[0], records[1] = records[1], records[0]
    data = write_json(tmp_path / "response_template.json", records)
    verdicts = write_lines(
        tmp_path / "verdicts.jsonl",
        [{"id": record["image_id"], "text": f"Rating: {6 if record is records[0] else 0}"} for record in records],
    )
    by_place = evaluate(tmp_path / "official", data=data, verdicts=verdicts, rule="official")["types"]
    assert (by_place["attribute"]["score"], by_place["adversarial"]["score"]) == (0.5, 0.0)
    by_name = evaluate(tmp_path / "strict", data=data, verdicts=verdicts)["types"]
    assert (by_name["attribute"]["score"], by_name["adversarial"]["score"]) == (0.0, 0.5)


def test_a_type_that_is_wholly_unscored_is_null(tmp_path: Path) -> None:
    data = mmhal_folder(tmp_path / "data", count=2)
    judge = replies(tmp_path, "Rating: 2", "?")
    scores = run_benchmark(
        eval_settings(benchmark="mmhal", out=tmp_path / "out", data=data, judge=judge), answerer=Script()
    ).scores
    assert scores["types"]["adversarial"]["score"] is None
    assert scores["score"] == 2.0


def test_questions_and_images_are_read_from_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    images(tmp_path / "loose", ["0_o.png", "1_o.png", "stranger.png"])
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "test_data.zip", "w") as archive:
        archive.writestr("test_data/response_template.json", json.dumps(mmhal_records(2)))
        for name in ("0_o.png", "1_o.png", "stranger.png"):
            archive.write(tmp_path / "loose" / name, f"test_data/images/{name}")
    script = Script()
    settings = eval_settings(benchmark="mmhal", out=tmp_path / "out", data=data, only="answer")
    assert run_benchmark(settings, answerer=script).scores["n"] == 2
    assert [request.images[0].name for request in script.asked] == ["0_o.png", "1_o.png"]
    assert [file.name for file in data.iterdir()] == ["test_data.zip"]
    assert not list((tmp_path / "home").rglob("stranger.png"))
    straight = eval_settings(benchmark="mmhal", out=tmp_path / "out2", data=data / "test_data.zip", only="answer")
    assert run_benchmark(straight, answerer=Script()).scores["n"] == 2


def test_upstream_s_answers_hold_the_truth_too_so_no_data_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    folder = CASES / "full_96_plain"
    scores = evaluate(tmp_path / "out", answers=folder / "responses.json", verdicts=folder / "evaluation.json")
    assert scores["n"] == 96


def test_answers_that_are_not_there_or_without_the_truth_are_not_taken_for_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    with pytest.raises(AmpError, match=r"There is no file '.*absent\.json'") as error:
        evaluate(tmp_path / "out", answers=tmp_path / "absent.json")
    assert "--answers" in str(error.value.hint)
    ours = write_json(tmp_path / "answers.json", [{"id": "a", "answers": ["A dog."]}])
    with pytest.raises(AmpError, match="The data of mmhal was not found") as error:
        evaluate(tmp_path / "out", answers=ours)
    assert "amp download mmhal" in str(error.value.hint)


def test_verdicts_alone_can_be_scored(tmp_path: Path) -> None:
    folder = CASES / "full_96_plain"
    scores = evaluate(tmp_path / "out", data=folder, verdicts=folder / "evaluation.json", rule="official")
    assert round(scores["score"], 2) == 3.08


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    with pytest.raises(AmpError) as error:
        evaluate(tmp_path / "out", judge="x")
    assert "amp download mmhal" in str(error.value.hint)
    (tmp_path / "data").mkdir()
    with pytest.raises(AmpError, match=r"response_template\.json") as error:
        evaluate(tmp_path / "out", data=tmp_path / "data", judge="x")
    assert "amp download mmhal" in str(error.value.hint)


def test_answers_are_joined_by_image_and_question_not_by_place(tmp_path: Path) -> None:
    data = mmhal_folder(tmp_path / "data", count=3)
    answered = [record | {"model_answer": f"answer {record['image_id']}"} for record in mmhal_records(3)]
    file = write_json(tmp_path / "answers.json", answered[::-1])
    evaluate(tmp_path / "out", data=data, answers=file, only="answer")
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert {line["id"]: line["answers"] for line in lines} == {f"id{n}": [f"answer id{n}"] for n in range(3)}
    answered[0]["question"] = "Another?"
    with pytest.raises(AmpError, match=r"another question about '0_o\.png'"):
        evaluate(tmp_path / "other", data=data, answers=write_json(tmp_path / "b.json", answered), only="answer")


def test_verdicts_of_another_number_of_questions_are_refused(tmp_path: Path) -> None:
    data = mmhal_folder(tmp_path / "data", count=3)
    reply = {"choices": [{"message": {"content": "Rating: 1"}}]}
    with pytest.raises(AmpError, match="2 verdicts for 3 questions"):
        evaluate(tmp_path / "out", data=data, verdicts=write_json(tmp_path / "e.json", [reply, reply]))
    own = write_lines(tmp_path / "own.jsonl", [{"id": "id0", "text": "Rating: 1"}])
    with pytest.raises(AmpError, match="2 items without a verdict"):
        evaluate(tmp_path / "out", data=data, verdicts=own)


def test_the_judge_is_told_what_the_official_prompt_tells_by_the_official_template(tmp_path: Path) -> None:
    folder = CASES / "full_96_plain"
    data = tmp_path / "data"
    write_json(data / "response_template.json", json.loads((folder / "responses.json").read_text()))
    expected = json.loads((folder / "expected.json").read_text())["judge_prompt_tail_first2"]
    tail = "### Image Contents\\n{}\\n\\n### Question\\n{}\\n\\n### Standard Human-Generated Answer\\n{}\\n\\n"
    (data / "eval_gpt4.py").write_text(
        f"template = '''Rate this.\\n\\n{tail}### LMM Response to Evaluate\\n{{}}\\n'''\n"
    )
    told: list[JudgeRequest] = []

    class Listener:
        identity: dict[str, Any] = {"kind": "listener", "model": "m"}  # noqa: RUF012
        notes = ()

        def judge(self, requests: Any, *, on_verdict: Any, on_reject: Any) -> None:
            told.extend(requests)
            for request in requests:
                on_reject(request, "only listening")

    with pytest.raises(AmpError, match="only listening"):
        run_benchmark(
            eval_settings(benchmark="mmhal", out=tmp_path / "out", data=data, answers=folder / "responses.json"),
            judge=Listener(),
        )
    for request, prompt in zip(told[:2], expected, strict=True):
        assert request.messages == (("user", f"Rate this.\n\n{prompt}"),)
        assert request.temperature == 0.0
