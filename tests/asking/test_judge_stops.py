"""Stopping a judged run: nothing that was paid is lost or paid twice, and the key is never to be read anywhere."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amp_cli.asking.judge import Judge, JudgeSettings, open_judge
from amp_cli.asking.judge_endpoint import EndpointJudge
from amp_cli.disk.jsonl import RecordLog
from amp_cli.errors import AmpError
from tests.support.judge_runs import Outcome, endpoint, requests, run
from tests.support.judge_server import Fault, JudgeServer
from tests.support.settings import eval_settings

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-proj-verysecret-0123456789"
CHILD = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
from amp_cli.asking.judge import JudgeSettings, open_judge
from amp_cli.disk.jsonl import RecordLog
from tests.support.judge_runs import requests
url, file, count = sys.argv[1:]
log = RecordLog(Path(file))
done = log.ids()
judge = open_judge(JudgeSettings(judge="gpt-x", judge_url=url, judge_concurrency=4, judge_timeout=60))
judge.judge(
    [request for request in requests(int(count)) if request.id not in done],
    on_verdict=lambda verdict: log.append(verdict.to_json()),
    on_reject=lambda request, reason: sys.exit(reason),
)
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with JudgeServer() as running:
        yield running


def start(server: JudgeServer, file: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, str(file), str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(file: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or len(file.read_bytes().splitlines()) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_or_interrupted_pays_for_nothing_twice(
    blow: signal.Signals, server: JudgeServer, tmp_path: Path
) -> None:
    file = tmp_path / "verdicts.jsonl"
    server.faults.extend([None] * 5 + [Fault(hang=50.0, cut=0)] * 4)  # five replies, then silence
    child = start(server, file, 12)
    wait_for_lines(file, 5, child)
    begin = time.monotonic()
    child.send_signal(blow)
    child.communicate(timeout=60)
    assert child.returncode != 0
    assert time.monotonic() - begin < 10  # the silent ones are not waited for
    assert len(RecordLog(file).ids()) == 5
    server.faults.clear()
    asked_before = len(server.asked)
    assert start(server, file, 12).wait(timeout=60) == 0
    assert len(server.asked) - asked_before == 7
    assert Counter(server.paid) == {f"item-{number}.": 1 for number in range(12)}
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == [server.reply] * 12


AT_ONCE = """
import asyncio, os, signal, sys
from types import SimpleNamespace
from amp_cli import stopping
from amp_cli.asking.chat import run_together, run_until_told
number = int(sys.argv[1])
signal.signal(number, signal.default_int_handler)  # a background job starts with it ignored

async def reply(request):
    await asyncio.sleep(60 if request == "slow" else 0)

def keep(request, result):
    if request == "a":
        os.kill(os.getpid(), number)
    print(request, flush=True)

with stopping.heard():
    run_until_told(
        run_together(
            ["a", "b", "c", "slow", "never sent"],
            start=reply, on_result=keep, on_reject=print, limit=4, client=SimpleNamespace(stop=asyncio.Event()),
        )
    )
    print("went on")
"""


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
def test_replies_that_arrived_together_are_all_kept_when_a_signal_comes_with_the_first(blow: signal.Signals) -> None:
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, str(blow.value)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, sorted(done.stdout.split())) == (128 + blow, ["a", "b", "c"])
    assert done.stderr.count("Interrupted") == 1
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 10  # the slow one is not waited for


def everything_said(judge: Judge, caplog: pytest.LogCaptureFixture) -> str:
    """Run a judge and return all that a user, a log file or a bug report could show of it."""
    outcome, said = Outcome(), ""
    with caplog.at_level(logging.DEBUG):
        try:
            run(judge, requests(2), outcome)
        except AmpError as error:
            said = "\n".join([*traceback.format_exception(error), repr(error), str(error.hint)])
            for linked in (error.__cause__, error.__context__):
                said += repr(linked) + str(getattr(linked, "request", ""))
    parts = [said, repr(judge.identity), repr(judge.notes), repr(outcome), caplog.text]
    return "\n".join([*parts, *(repr(record.__dict__) for record in caplog.records)])


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault(status=401, message=f"Incorrect API key provided: {KEY}."),
        Fault(status=404, message=f"{KEY} may not use this model"),
        Fault(status=400, message=f"odd header: Bearer {KEY}"),
        Fault(status=500, message=f"trace: authorization={KEY}"),
        Fault(status=503, body=f"<html>{KEY}</html>"),
        Fault(body=json.dumps({"error": {"message": f"bad key {KEY}"}})),
        Fault(cut=30),
    ],
    ids=lambda fault: "no fault" if fault is None else f"{fault.status} {fault.message[:12]}",
)
def test_the_key_is_sent_and_never_said(
    fault: Fault | None, server: JudgeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    if fault is not None:
        server.fault_for["item-"] = fault
    said = everything_said(endpoint(server), caplog)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in said
    assert "Bearer" not in said.replace("odd header: Bearer (key)", "")
    if fault is not None and KEY in fault.message:
        assert "(key)" in said


def test_the_key_is_not_said_when_the_server_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = EndpointJudge(JudgeSettings(judge="gpt-x", judge_url="http://127.0.0.1:9/v1"))
    said = everything_said(judge, caplog)
    assert "Cannot reach the judge" in said
    assert KEY not in said


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@127.0.0.1:9/v1",
        "http://hunter2@127.0.0.1:9/v1",
        "http://127.0.0.1:9/v1?api-key=hunter2",
        "http://127.0.0.1:9/v1#hunter2",
        "ftp://hunter2",
        "hunter2",
        "http://127.0.0.1:hunter2/v1",
    ],
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_an_address_with_secrets_or_none_at_all_is_refused_without_repeating_it(
    url: str, by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if by_environment:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(AmpError) as caught:
        open_judge(JudgeSettings(judge="gpt-x", judge_url=None if by_environment else url))
    assert "hunter2" not in f"{caught.value!r}{caught.value.hint}"
    assert caught.value.hint


@pytest.mark.parametrize(
    "others", [{"judge": "local:tiny"}, {"judge": "replay:file"}, {"verdicts": Path("file")}, {"only": "answer"}]
)
def test_an_address_that_nobody_will_ask_is_refused_too_so_that_it_is_not_recorded(others: dict[str, Any]) -> None:
    with pytest.raises(AmpError, match="--judge-url") as caught:
        open_judge(
            eval_settings(
                benchmark="mmhal", out=Path("out"), judge_url="http://me:hunter2@127.0.0.1:9/v1", **others
            ).judging
        )
    assert "hunter2" not in f"{caught.value!r}{caught.value.hint}"


@pytest.mark.parametrize("key", ["sk-\u2019x", "sk- x", "sk-\x00x"])
def test_a_key_with_odd_characters_is_refused_without_repeating_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "\x00" in key:
        monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": key})
    else:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(AmpError, match="holds characters that no key has") as caught:
        open_judge(JudgeSettings(judge="gpt-x"))
    assert key not in str(caught.value)


def test_openai_itself_needs_a_key_and_another_address_does_not(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AmpError, match="needs a key") as caught:
        open_judge(JudgeSettings(judge="gpt-x"))
    assert "OPENAI_API_KEY" in str(caught.value.hint)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    judge = open_judge(JudgeSettings(judge="gpt-x"))
    assert judge.identity["url"] == server.url
    assert run(judge, requests(1)).judged == {"item-0"}
