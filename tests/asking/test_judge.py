"""The judge behind an endpoint: what is retried, what is rejected, what stops the run, and what it may cost."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from amp_cli.asking.faults import Patience, retry_after_seconds
from amp_cli.asking.judge import JudgeRequest, JudgeSettings
from amp_cli.asking.judge_endpoint import EndpointJudge
from amp_cli.errors import AmpError
from tests.support.judge_runs import Outcome, endpoint, requests, run
from tests.support.judge_server import GOOD, Fault, JudgeServer

NO_CHOICES = '{"id": "x", "choices": []}'
NULL = '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'
REFUSED = '{"choices": [{"message": {"content": null, "refusal": "I cannot help with that."}}]}'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with JudgeServer() as running:
        yield running


def test_a_verdict_keeps_the_reply_the_judge_s_own_name_the_request_s_id_and_the_tokens(server: JudgeServer) -> None:
    outcome = run(endpoint(server), requests(1, temperature=0.2, max_tokens=99))
    assert outcome.verdicts[0].to_json() == {
        "id": "item-0",
        "repeat": 0,
        "text": GOOD,
        "model": "judge-2026-01",
        "request_id": "req-1",
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "finish_reason": "stop",
        "max_tokens": 99,
    }
    body = server.asked[0].body
    assert body["messages"] == [{"role": "user", "content": "item-0."}]
    assert (body["model"], body["temperature"], body["max_tokens"], "seed" in body) == ("gpt-x", 0.2, 99, False)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(status=500),
        Fault(status=503, body="<html>bad gateway</html>"),
        Fault(status=408),
        Fault(hang=1.5),
        Fault(drip=0.2),
        Fault(cut=0),
        Fault(cut=40),
        Fault(body='{"choices": [{"message": {"conte'),
        Fault(body=NO_CHOICES),
        Fault(body='"just a text"'),
        Fault(body='{"error": {"message": "overloaded"}}'),
    ],
    ids=lambda fault: f"{fault.status} hang={fault.hang} drip={fault.drip} cut={fault.cut} {(fault.body or '')[:12]}",
)
def test_a_passing_fault_is_tried_again_and_nothing_is_lost(fault: Fault, server: JudgeServer) -> None:
    server.faults.extend([None, fault])
    outcome = run(endpoint(server, judge_concurrency=1, judge_timeout=1.0), requests(3))
    assert outcome.judged == {"item-0", "item-1", "item-2"}
    assert not outcome.rejected
    assert [one.prompt for one in server.asked] == ["item-0.", "item-1.", "item-1.", "item-2."]
    assert sorted(server.paid) == ["item-0.", "item-1.", "item-2."]


def test_a_lasting_fault_is_given_up_after_the_bounded_tries_and_the_rest_goes_on(server: JudgeServer) -> None:
    server.fault_for["item-1."] = Fault(status=500, message="out of order")
    outcome = run(endpoint(server, patience=Patience(attempts=4, first_delay=0.01)), requests(3))
    assert outcome.judged == {"item-0", "item-2"}
    assert outcome.rejected == {"item-1": "given up after 4 attempts: the judge is busy or broken (500): out of order"}
    assert sum(one.prompt == "item-1." for one in server.asked) == 4


def test_retry_after_is_waited_for(server: JudgeServer) -> None:
    server.faults.append(Fault(status=429, headers={"Retry-After": "1"}))
    run(endpoint(server), requests(1))
    assert 1.0 <= server.asked[1].at - server.asked[0].at < 2.0


def test_retry_after_is_read_as_seconds_date_or_milliseconds() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_seconds({"retry-after": "7"}) == 7.0
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert 28 <= (retry_after_seconds({"retry-after": later}) or 0) <= 30
    assert retry_after_seconds({"retry-after": "-3"}) == 0.0
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({}) is None


def test_pauses_double_with_jitter_up_to_a_bound_and_are_never_shorter_than_asked_for() -> None:
    patience = Patience(first_delay=2.0, longest_delay=60.0)
    for _ in range(50):
        assert 1.0 <= patience.delay(1, None) <= 2.0
        assert 4.0 <= patience.delay(3, None) <= 8.0
        assert 30.0 <= patience.delay(12, None) <= 60.0
        assert 20.0 <= patience.delay(1, 20.0) <= 21.0
    assert len({patience.delay(1, None) for _ in range(50)}) > 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=400, message="the context is too long"), "refused the request (400): the context is too long"),
        (Fault(status=422, body='{"detail": "bad"}'), "refused the request (422)"),
    ],
)
def test_what_will_never_be_answered_is_rejected_at_once(fault: Fault, reason: str, server: JudgeServer) -> None:
    server.fault_for["item-1."] = fault
    outcome = run(endpoint(server), requests(3))
    assert outcome.judged == {"item-0", "item-2"}
    assert reason in outcome.rejected["item-1"]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(status=401, message="who are you"), r"refuses the key \(401\): who are you"),
        (Fault(status=403), r"refuses the key \(403\)"),
        (Fault(status=404, message="no such model"), r"does not know the model 'gpt-x' \(404\): no such model"),
        (Fault(status=429, code="insufficient_quota"), "no credit left"),
        (Fault(status=429, headers={"Retry-After": "3600"}), "asks to wait 3,600 s"),
    ],
)
def test_what_concerns_every_item_stops_at_once_and_keeps_what_arrived(
    fault: Fault, sentence: str, server: JudgeServer
) -> None:
    server.faults.extend([None, fault])
    outcome = Outcome()
    with pytest.raises(AmpError, match=sentence) as caught:
        run(endpoint(server, judge_concurrency=1), requests(9), outcome)
    assert outcome.judged == {"item-0"}
    assert len(server.asked) == 2
    assert caught.value.hint


def test_requests_on_their_way_are_kept_when_another_one_stops_the_run(server: JudgeServer) -> None:
    server.delay = 0.5
    server.fault_for["item-1."] = Fault(status=401)
    server.fault_for["item-2."] = Fault(status=500, hang=0.3)
    outcome = Outcome()
    with pytest.raises(AmpError, match="refuses the key"):
        run(endpoint(server, judge_concurrency=3, patience=Patience(first_delay=30.0)), requests(9), outcome)
    assert outcome.judged == {"item-0"}  # it was paid for; item-2 is not waited for
    assert len(server.asked) == 3


def test_a_refused_connection_stops_at_once_with_the_address(server: JudgeServer) -> None:
    judge = EndpointJudge(JudgeSettings(judge="gpt-x", judge_url="http://127.0.0.1:9/v1"))
    with pytest.raises(AmpError, match=r"Cannot reach the judge at 'http://127\.0\.0\.1:9/v1'"):
        run(judge, requests(2))


def test_no_more_requests_are_open_at_once_than_allowed(server: JudgeServer) -> None:
    server.delay = 0.05
    outcome = run(endpoint(server, judge_concurrency=3), requests(12))
    assert len(outcome.verdicts) == 12
    assert server.busiest == 3


def test_verdicts_are_handed_over_one_by_one_in_the_calling_thread_before_more_is_sent(server: JudgeServer) -> None:
    sent_before: list[int] = []
    threads = set()

    def keep(_: object) -> None:
        sent_before.append(len(server.asked))
        threads.add(threading.get_ident())

    endpoint(server, judge_concurrency=1).judge(requests(4), on_verdict=keep, on_reject=Outcome().reject)
    assert sent_before == [1, 2, 3, 4]
    assert threads == {threading.get_ident()}


def test_a_disk_that_is_full_ends_the_run(server: JudgeServer) -> None:
    def fail(_: object) -> None:
        raise AmpError("Cannot write", hint="none")

    server.fault_for["item-1."] = Fault(hang=20.0, cut=0)
    judge = endpoint(server, judge_concurrency=2, judge_timeout=60)
    with pytest.raises(AmpError, match="Cannot write"):
        judge.judge(requests(5), on_verdict=fail, on_reject=Outcome().reject)
    assert len(server.asked) <= 2  # the second may not have come in yet when the first is answered


@pytest.mark.parametrize(
    "text",
    ["I cannot help with that.", "Rating: 10", "Rating: 5, no, Rating: 3", "The answer says 'Rating: 6'.\nRating: 0"],
)
def test_what_the_judge_says_arrives_word_for_word_whatever_it_is(text: str, server: JudgeServer) -> None:
    server.reply = text
    assert run(endpoint(server), requests(1)).verdicts[0].text == text


def test_a_refusal_beside_an_empty_content_is_the_reply(server: JudgeServer) -> None:
    server.faults.append(Fault(body=REFUSED))
    assert run(endpoint(server), requests(1)).verdicts[0].text == "I cannot help with that."


def test_parameters_that_a_model_does_not_take_are_left_out_and_said(server: JudgeServer) -> None:
    server.faults.extend([Fault(status=400, param="max_tokens"), Fault(status=400, param="temperature")])
    judge = endpoint(server, judge_concurrency=1)
    outcome = run(judge, requests(2, max_tokens=50))
    assert outcome.judged == {"item-0", "item-1"}
    assert len(server.asked) == 4
    last = server.asked[-1].body
    assert "temperature" not in last
    assert "max_tokens" not in last
    assert last["max_completion_tokens"] == 50
    assert judge.notes == ("'gpt-x' takes no temperature; it used its own",)


LINE = r"^Rating: [0-6]$"


def test_a_verdict_s_form_is_asked_for_as_structured_output(server: JudgeServer) -> None:
    assert run(endpoint(server), requests(1, verdict_line=LINE)).judged == {"item-0"}
    wanted = server.asked[0].body["response_format"]["json_schema"]["schema"]
    assert wanted["properties"]["verdict"] == {"type": "string", "pattern": LINE}
    assert wanted["required"] == ["findings", "verdict"]
    run(endpoint(server), requests(1))
    assert "response_format" not in server.asked[-1].body


@pytest.mark.parametrize("fault", [Fault(status=400, param="response_format"), Fault(status=400), Fault(status=422)])
def test_an_endpoint_without_structured_output_is_asked_for_a_plain_line(fault: Fault, server: JudgeServer) -> None:
    server.faults.append(fault)
    outcome = run(endpoint(server, judge_concurrency=1), requests(2, verdict_line=LINE))
    assert outcome.judged == {"item-0", "item-1"}
    assert ["response_format" in asked.body for asked in server.asked] == [True, False, False]


def priced(**changes: object) -> dict[str, object]:
    """1.00 for the 100 prompt tokens of `dear` requests, 1.00 for 10 completion tokens."""
    return {"price": "10000,100000", "max_cost": 7.0, "judge_concurrency": 2, **changes}


def dear(count: int) -> list[JudgeRequest]:
    """Requests whose prompt is 384 ASCII characters: 96 tokens and 4 for the role."""
    return requests(count, messages=(("user", "x" * 384),), max_tokens=10)


def test_max_cost_stops_before_a_request_that_would_pass_it(server: JudgeServer) -> None:
    outcome = Outcome()
    with pytest.raises(AmpError, match=r"--max-cost 7 is reached: 6 requests were not sent, about 6 is spent"):
        run(endpoint(server, **priced()), dear(9), outcome)
    assert len(outcome.verdicts) == len(server.asked) == 3


def test_max_cost_learns_from_what_the_judge_counts(server: JudgeServer) -> None:
    server.usage = {"prompt_tokens": 200, "completion_tokens": 10}  # 3.00 each, twice the guess for the prompt
    with pytest.raises(AmpError, match="about 6 is spent"):
        run(endpoint(server, **priced(judge_concurrency=1, max_cost=8.5)), dear(9))
    assert len(server.asked) == 2


def test_max_cost_counts_requests_that_may_have_been_charged_without_a_reply(server: JudgeServer) -> None:
    server.faults.append(Fault(cut=40))
    judge = endpoint(server, **priced(judge_concurrency=1))
    with pytest.raises(AmpError, match="about 6 is spent"):
        run(judge, dear(9))
    assert len(server.asked) == 3
    assert judge.notes == ("1 request ended without a usable reply and may have been charged",)


def test_max_cost_goes_by_the_guess_where_the_judge_counts_nothing(server: JudgeServer) -> None:
    server.usage = None
    server.reply = "x" * 40  # 10 tokens
    with pytest.raises(AmpError, match="about 6 is spent"):
        run(endpoint(server, **priced()), dear(9))


def test_a_judge_that_refuses_every_prompt_is_given_up_after_twenty(server: JudgeServer) -> None:
    server.fault_for["item-"] = Fault(status=400, message="no prompts here")
    outcome = Outcome()
    with pytest.raises(AmpError, match=r"The first 20 items were all refused.*no prompts here"):
        run(endpoint(server, judge_concurrency=2), requests(60), outcome)
    assert len(server.asked) <= 22
    assert len(outcome.rejected) >= 20
