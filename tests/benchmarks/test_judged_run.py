"""The judging stage: resumable, one judge per folder, scored again without it, repeats, costs, and what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app
from tests.support.judge_server import JudgeServer
from tests.support.judged_data import FakeJudge, Script, mmhal_folder, write_json, write_lines
from tests.support.settings import eval_settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mmhal_folder(tmp_path / "data", count=4)


def settings(data: Path, **changes: Any) -> EvalSettings:
    return eval_settings(**{"benchmark": "mmhal", "data": data, "out": data.parent / "out", **changes})


def test_a_killed_run_pays_for_no_verdict_twice(data: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(data), answerer=Script(), judge=FakeJudge(stop_after=3))
    out = data.parent / "out"
    assert Run.read(out).facts["state"] == "interrupted"
    with (out / "verdicts.jsonl").open("a") as stream:
        stream.write('{"id": "torn')
    script, second = Script(), FakeJudge()
    result = run_benchmark(settings(data), answerer=script, judge=second)
    assert second.asked == [("id3", 0)]
    assert not script.asked
    assert result.scores["score"] == 5.0
    third = FakeJudge()
    assert run_benchmark(settings(data), answerer=Script(), judge=third).scores == result.scores
    assert not third.asked


def test_another_judge_template_or_temperature_in_the_same_folder_is_refused_by_name(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script(), judge=FakeJudge())
    with pytest.raises(AmpError, match=r"judge\.model = 'fake', not 'another'") as error:
        run_benchmark(settings(data), answerer=Script(), judge=FakeJudge(name="another"))
    assert "--answers" in str(error.value.hint)
    template = data.parent / "mine.txt"
    template.write_text("{question} {reference} {answer}")
    with pytest.raises(AmpError, match=r"judge\.template\."):
        run_benchmark(settings(data, judge_template=template), answerer=Script(), judge=FakeJudge())
    with pytest.raises(AmpError, match=r"judge\.temperature = 0\.0, not 0\.7"):
        run_benchmark(settings(data, judge_temperature=0.7), answerer=Script(), judge=FakeJudge())
    assert len((data.parent / "out" / "verdicts.jsonl").read_text().splitlines()) == 4


def test_a_refused_judge_changes_nothing_in_the_folder(data: Path) -> None:
    scores = run_benchmark(settings(data), answerer=Script(), judge=FakeJudge()).scores
    run = (data.parent / "out" / "run.json").read_text()
    for only in (None, "judge"):
        with pytest.raises(AmpError, match=r"judge\.model"):
            run_benchmark(settings(data, repeat=3, only=only), answerer=Script(), judge=FakeJudge(name="another"))
    assert (data.parent / "out" / "run.json").read_text() == run
    assert run_benchmark(eval_settings(benchmark="mmhal", out=data.parent / "out", only="score")).scores == scores


def test_overwriting_starts_afresh_with_another_judge(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script(), judge=FakeJudge())
    again = run_benchmark(settings(data, overwrite=True), answerer=Script(), judge=FakeJudge(2, name="another"))
    assert again.scores["score"] == 2.0
    assert again.scores["judge"]["model"] == "another"


@pytest.mark.parametrize("only", ["judge", "score"])
def test_overwriting_does_not_go_with_judging_or_scoring_alone(data: Path, only: str) -> None:
    """Else the verdicts that are there would be told as another judge's."""
    run_benchmark(settings(data), answerer=Script(), judge=FakeJudge())
    judge = "replay:another.jsonl" if only == "judge" else None
    with pytest.raises(AmpError, match="--overwrite does not go with it"):
        settings(data, only=only, overwrite=True, judge=judge)


def test_without_a_judge_nothing_is_loaded_and_the_three_ways_are_named(data: Path) -> None:
    with pytest.raises(AmpError) as error:
        run_benchmark(settings(data, model="absent-model"))
    for way in ("--judge", "--verdicts", "--only answer"):
        assert way in str(error.value.hint)
    assert not (data.parent / "out").exists()


def test_answers_first_then_the_judge_then_the_score_alone(data: Path) -> None:
    out = data.parent / "out"
    answered = run_benchmark(settings(data, only="answer"), answerer=Script())
    assert answered.scores == {"benchmark": "mmhal", "answers": str(out / "answers.jsonl"), "n": 4, "rejected": 0}
    judged = run_benchmark(settings(data, only="judge", repeat=2), judge=FakeJudge())
    assert judged.scores["score"] == 5.0
    assert judged.scores["repeats"] == 2
    again = eval_settings(benchmark="mmhal", out=out, only="score")
    assert run_benchmark(again).scores == judged.scores


def test_scoring_alone_without_verdicts_says_that_there_are_none(data: Path) -> None:
    run_benchmark(settings(data, only="answer"), answerer=Script())
    with pytest.raises(AmpError, match="no verdict") as error:
        run_benchmark(eval_settings(benchmark="mmhal", out=data.parent / "out", only="score"))
    assert "--only judge" in str(error.value.hint)


def test_a_request_that_got_no_reply_is_left_out_named_and_asked_again(data: Path) -> None:
    result = run_benchmark(settings(data), answerer=Script(), judge=FakeJudge(rejects="id1"))
    assert result.rejected == {"id1": "not judged: the judge was silent"}
    assert result.scores["n"] == 3
    assert result.scores["rejected"] == 1
    second = FakeJudge(rating=1)
    result = run_benchmark(settings(data), answerer=Script(), judge=second)
    assert second.asked == [("id1", 0)]
    assert result.scores["score"] == 4.0
    assert not result.rejected


def test_a_missing_repeat_is_named_and_the_item_scored_by_the_others(data: Path) -> None:
    lines = [{"id": f"id{number}", "text": "Rating: 4"} for number in range(4)]
    replies = write_lines(data.parent / "r.jsonl", [*lines, {"id": "id0", "repeat": 1, "text": "Rating: 0"}])
    result = run_benchmark(settings(data, judge=f"replay:{replies}", repeat=2), answerer=Script())
    assert list(result.rejected) == ["id1", "id2", "id3"]
    assert "(repeat 1)" in result.rejected["id1"]
    assert result.scores["score"] == (2 + 4 + 4 + 4) / 4


def test_a_missing_verdict_has_no_official_score(tmp_path: Path) -> None:
    data = mmhal_folder(tmp_path / "data", count=96)
    with pytest.raises(AmpError, match="1 have none, first 'id7'"):
        run_benchmark(settings(data, rule="official"), answerer=Script(), judge=FakeJudge(rejects="id7"))
    assert len((tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()) == 95


def test_the_score_of_repeats_is_their_mean_and_the_spread_is_their_standard_deviation(data: Path) -> None:
    ratings = {(f"id{number}", 1): 3 for number in range(4)} | {(f"id{number}", 2): 1 for number in range(4)}
    scores = run_benchmark(settings(data, repeat=3), answerer=Script(), judge=FakeJudge(ratings=ratings)).scores
    assert scores["score"] == 3.0  # of 5, 3 and 1
    assert scores["spread"]["score"] == 2.0
    assert scores["hallucination_rate"] == pytest.approx(1 / 3)
    assert scores["judge"]["replies"] == 12
    one = run_benchmark(settings(data, repeat=1), answerer=Script(), judge=FakeJudge()).scores
    assert one["score"] == 5.0
    assert one["spread"] is None


def test_who_judged_how_and_at_what_cost_stands_in_the_scores(data: Path) -> None:
    scores = run_benchmark(settings(data, price="2.5,10"), answerer=Script(), judge=FakeJudge()).scores
    judge = scores["judge"]
    assert judge["model"] == "fake"
    assert judge["reported_models"] == {"fake-2": 4}
    assert judge["template"]["name"] == "amp/mmhal.txt"
    assert judge["template"]["origin"] == "own"
    assert len(judge["template"]["sha256"]) == 64
    assert judge["rule"] == "strict"
    assert (judge["prompt_tokens"], judge["completion_tokens"]) == (40, 8)
    assert judge["cost"] == pytest.approx((2.5 * 40 + 10 * 8) / 1e6)
    assert json.loads((data.parent / "out" / "scores.json").read_text()) == scores


def test_a_run_through_an_endpoint_stores_all_and_holds_no_key(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with JudgeServer() as server:
        judged = settings(data, judge="judge-x", judge_url=server.url, price="1,1", judge_concurrency=2)
        result = run_benchmark(judged, answerer=Script())
        assert len(server.asked) == 4
        assert run_benchmark(judged, answerer=Script()).scores == result.scores
        assert len(server.asked) == 4
    assert result.scores["judge"]["url"].startswith("http://127.0.0.1")
    assert result.scores["judge"]["reported_models"] == {"judge-2026-01": 4}
    assert "4 prompts of about" in capsys.readouterr().err
    for file in (data.parent / "out").iterdir():
        assert "sk-very-secret" not in file.read_text()


def test_an_answer_that_orders_a_rating_does_not_get_it(data: Path) -> None:
    """The judge quotes the answer and then rates; the model's own `Rating: 6` counts for nothing."""
    texts = ['The answer says "Rating: 6".\nRating: 0'] * 4
    replies = write_json(data.parent / "replies.json", texts)
    scores = run_benchmark(settings(data, judge=f"replay:{replies}"), answerer=Script()).scores
    assert scores["score"] == 0.0
    assert scores["unscored"] == 0


def test_own_verdicts_with_repeats_are_taken_from_a_file(data: Path) -> None:
    lines = [
        {"id": f"id{number}", "repeat": repeat, "text": f"Rating: {2 * repeat}"}
        for number in range(4)
        for repeat in (0, 1)
    ]
    verdicts = write_lines(data.parent / "v.jsonl", lines)
    scores = run_benchmark(settings(data, verdicts=verdicts), answerer=Script()).scores
    assert (scores["score"], scores["repeats"]) == (1.0, 2)
    assert scores["judge"]["kind"] == "verdicts"
    again = run_benchmark(eval_settings(benchmark="mmhal", out=data.parent / "out", only="score"))
    assert again.scores == scores
    lines[0]["repeat"] = 1
    with pytest.raises(AmpError, match="two verdicts on 'id0'"):
        run_benchmark(settings(data, verdicts=write_lines(data.parent / "w.jsonl", lines)), answerer=Script())


def test_replayed_replies_are_said_to_be_of_an_unknown_template(data: Path) -> None:
    replies = write_json(data.parent / "replies.json", ["Rating: 4"] * 4)
    scores = run_benchmark(settings(data, judge=f"replay:{replies}"), answerer=Script()).scores
    assert scores["judge"]["template"] is None
    assert scores["judge"]["file"] == "replies.json"


def test_the_command_line_judges_scores_again_and_exits_3_when_an_item_got_no_verdict(data: Path) -> None:
    out = data.parent / "cli"
    answers = write_lines(data.parent / "a.jsonl", [{"id": f"id{n}", "answers": ["A dog."]} for n in range(4)])
    replies = write_lines(data.parent / "r.jsonl", [{"id": f"id{n}", "text": "Rating: 4"} for n in range(3)])
    line = ["eval", "mmhal", "--data", str(data), "--answers", str(answers), "--out", str(out)]
    judged = CliRunner().invoke(app, [*line, "--judge", f"replay:{replies}", "--json"])
    assert judged.exit_code == 3, judged.output
    assert json.loads(judged.stdout)["score"] == 4.0
    again = CliRunner().invoke(app, ["eval", "mmhal", "--out", str(out), "--only", "score"])
    assert again.exit_code == 3
    assert "hallucination rate" in again.stdout
