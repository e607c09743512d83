"""Verdicts that do not count: cut off, nothing but reasoning, unreadable; what is asked again, and when it ends."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from amp_cli.asking.judge import JudgeRequest
from amp_cli.benchmarks.judging import HOPELESS
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.jsonl import RecordLog
from amp_cli.errors import AmpError
from amp_cli.records import Verdict
from tests.support.judge_server import Fault, JudgeServer
from tests.support.judged_data import FakeJudge, Script, mmhal_folder, write_json, write_lines
from tests.support.settings import eval_settings

CUT = "<think>\nA first guess would be Rating: 2, but let me check the col"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer() as running:
        yield running


def settings(tmp_path: Path, count: int = 4, **changes: Any) -> EvalSettings:
    data = mmhal_folder(tmp_path / "data", count=count)
    return eval_settings(**{"benchmark": "mmhal", "data": data, "out": tmp_path / "out", **changes})


def replied(text: str, reason: str | None) -> Fault:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return Fault(body=json.dumps({"choices": [choice]}))


def judged_by(server: JudgeServer, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    told = settings(tmp_path, judge="gpt-x", judge_url=server.url, judge_concurrency=1, **changes)
    return run_benchmark(told, answerer=Script()).scores


class SaysJudge(FakeJudge):
    """Says of each request what `say` does."""

    def __init__(self, say: Callable[[JudgeRequest], dict[str, Any]]) -> None:
        super().__init__()
        self.say = say

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        for request in requests:
            self.asked.append((request.id, request.repeat))
            on_verdict(Verdict(id=request.id, repeat=request.repeat, **self.say(request)))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (replied(CUT, "length"), "cut off (finish_reason: length)"),
        (replied(CUT, "stop"), "cut off inside its reasoning, which is not closed"),
        (replied(CUT, None), "cut off inside its reasoning, which is not closed"),
        (replied("Rating: 2", "content_filter"), "cut off (finish_reason: content_filter)"),
        (replied("", "length"), "cut off (finish_reason: length)"),
    ],
)
def test_a_reply_that_was_cut_off_is_unscored_with_that_reason(
    fault: Fault, reason: str, server: JudgeServer, tmp_path: Path
) -> None:
    server.fault_for = {"(1)": fault}
    scores = judged_by(server, tmp_path)
    assert (scores["score"], scores["n"], scores["unscored"]) == (5.0, 4, 1)
    unscored = RecordLog(tmp_path / "out" / "unscored.jsonl").read()
    assert [(one["id"], one["reason"], one["counted_as"]) for one in unscored] == [("id1", reason, None)]
    again = run_benchmark(eval_settings(benchmark="mmhal", out=tmp_path / "out", only="score")).scores
    assert again == scores


def test_under_the_official_rule_a_cut_reply_counts_as_one_that_the_script_cannot_read(tmp_path: Path) -> None:
    lines = [{"id": f"id{number}", "text": "Rating: 4"} for number in range(94)]
    lines += [{"id": "id94", "text": "Rating: 2", "finish_reason": "length"}, {"id": "id95", "text": CUT}]
    verdicts = write_lines(tmp_path / "verdicts.jsonl", lines)
    scores = run_benchmark(settings(tmp_path, 96, rule="official", verdicts=verdicts), answerer=Script()).scores
    assert scores["score"] == pytest.approx(94 * 4 / 96)
    assert scores["unread_verdicts"] == 2


def test_replayed_and_adopted_verdicts_are_cut_off_where_they_say_so(tmp_path: Path) -> None:
    lines = [{"id": f"id{number}", "text": "Rating: 4", "finish_reason": "stop"} for number in range(4)]
    lines[2]["finish_reason"] = "length"
    replies = write_lines(tmp_path / "replies.jsonl", lines)
    assert run_benchmark(settings(tmp_path, judge=f"replay:{replies}"), answerer=Script()).scores["unscored"] == 1
    responses = [{"choices": [{"message": {"content": "Rating: 4"}, "finish_reason": "stop"}]} for _ in range(4)]
    responses[0]["choices"][0]["finish_reason"] = "length"
    file = write_json(tmp_path / "evaluation.json", responses)
    told = settings(tmp_path, verdicts=file, out=tmp_path / "adopted")
    assert run_benchmark(told, answerer=Script()).scores["unscored"] == 1


def test_a_replayed_reply_that_no_file_can_hold_is_rejected_and_the_others_count(tmp_path: Path) -> None:
    lines = "".join(f'{{"id": "id{number}", "text": "Rating: 4"}}\n' for number in range(3))
    replies = tmp_path / "replies.jsonl"
    replies.write_text(lines + '{"id": "id3", "text": "Rating: 4 \\ud800"}\n')
    result = run_benchmark(settings(tmp_path, judge=f"replay:{replies}"), answerer=Script())
    assert (result.scores["score"], list(result.rejected)) == (4.0, ["id3"])
    assert "surrogate" in result.rejected["id3"]
    texts = write_json(tmp_path / "texts.json", ["Rating: 4", "Rating: 4", "Rating: 4 \ud800", "Rating: 4"])
    told = settings(tmp_path, judge=f"replay:{texts}", out=tmp_path / "list")
    with pytest.raises(AmpError, match="half a character"):  # a list goes by its order, so it is read whole
        run_benchmark(told, answerer=Script())


def test_a_cut_verdict_is_asked_for_again_with_a_higher_limit_only(server: JudgeServer, tmp_path: Path) -> None:
    server.fault_for = {"(1)": replied(CUT, "length")}
    assert judged_by(server, tmp_path, judge_max_tokens=200)["unscored"] == 1
    assert {one.body["max_tokens"] for one in server.asked} == {200}
    assert judged_by(server, tmp_path, judge_max_tokens=200)["unscored"] == 1
    assert len(server.asked) == 4
    server.fault_for = {}
    assert judged_by(server, tmp_path, judge_max_tokens=4000)["unscored"] == 0
    assert [one.body["max_tokens"] for one in server.asked[4:]] == [4000]
    kept = RecordLog(tmp_path / "out" / "verdicts.jsonl").read()
    assert [(one["id"], one["max_tokens"]) for one in kept] == [
        ("id0", 200), ("id1", 4000), ("id2", 200), ("id3", 200)]  # fmt: skip


def test_the_finished_file_has_its_verdicts_in_the_order_of_the_items(server: JudgeServer, tmp_path: Path) -> None:
    server.fault_for = {"(0)": Fault(hang=0.3, text="Rating: 5"), "(2)": Fault(hang=0.2, text="Rating: 5")}
    told = settings(tmp_path, judge="gpt-x", judge_url=server.url, judge_concurrency=8, repeat=2)
    run_benchmark(told, answerer=Script())
    kept = RecordLog(tmp_path / "out" / "verdicts.jsonl").read()
    assert [(one["repeat"], one["id"]) for one in kept] == [
        (repeat, f"id{number}") for repeat in (0, 1) for number in range(4)]  # fmt: skip


def test_a_judge_of_which_nothing_can_be_read_is_stopped_with_what_it_said(server: JudgeServer, tmp_path: Path) -> None:
    server.reply = "I like all of it."
    with pytest.raises(AmpError, match=r"Not one of the first 20 verdicts can be read: 'id0'.*'id1'.*'id2'") as caught:
        judged_by(server, tmp_path, count=40)
    assert "I like all of it." in caught.value.message
    assert "--judge-template" in str(caught.value.hint)
    assert len(server.asked) == HOPELESS
    with pytest.raises(AmpError, match="Not one of the first 20"):
        judged_by(server, tmp_path, count=40)
    assert len(server.asked) == HOPELESS


def test_what_is_on_its_way_when_nothing_can_be_read_is_kept(server: JudgeServer, tmp_path: Path) -> None:
    server.reply = "I like all of it."
    told = settings(tmp_path, 60, judge="gpt-x", judge_url=server.url, judge_concurrency=8)
    with pytest.raises(AmpError, match="can be read"):
        run_benchmark(told, answerer=Script())
    assert len(RecordLog(tmp_path / "out" / "verdicts.jsonl").read()) == len(server.asked) < 30


def test_a_judge_that_is_always_cut_off_goes_on_with_a_higher_limit(tmp_path: Path) -> None:
    short = SaysJudge(lambda request: {"text": CUT, "finish_reason": "length", "max_tokens": request.max_tokens})
    with pytest.raises(AmpError, match="cut off") as caught:
        run_benchmark(settings(tmp_path, 40), answerer=Script(), judge=short)
    assert "--judge-max-tokens" in str(caught.value.hint)
    assert len(short.asked) == HOPELESS
    scores = run_benchmark(settings(tmp_path, 40, judge_max_tokens=9000), answerer=Script(), judge=FakeJudge()).scores
    assert (scores["n"], scores["unscored"]) == (40, 0)


def test_one_verdict_that_can_be_read_lets_the_others_go_on(tmp_path: Path) -> None:
    judge = SaysJudge(lambda request: {"text": "Rating: 4" if request.id == "id5" else "I like it."})
    scores = run_benchmark(settings(tmp_path, 40), answerer=Script(), judge=judge).scores
    assert (scores["n"], scores["unscored"], scores["score"]) == (40, 39, 4.0)


def test_replies_at_hand_are_all_taken_however_little_can_be_read(tmp_path: Path) -> None:
    replies = write_json(tmp_path / "replies.json", ["I like it."] * 40)
    scores = run_benchmark(settings(tmp_path, 40, judge=f"replay:{replies}"), answerer=Script()).scores
    assert (scores["n"], scores["unscored"]) == (40, 40)
