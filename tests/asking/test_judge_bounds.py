"""An endpoint that is broken or hostile: bounded, rejected item by item, and given up where nothing else will come."""

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from amp_cli.asking import wire
from amp_cli.asking.chat import FEW
from amp_cli.asking.judge import JudgeSettings, open_judge
from amp_cli.errors import AmpError
from tests.support.judge_runs import Outcome, endpoint, requests, run
from tests.support.judge_server import GOOD, Fault, JudgeServer

PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    for name in (*PROXIES, "OPENAI_BASE_URL", "OPENAI_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with JudgeServer() as running:
        yield running


def completion(text: str = '"Rating: 5"', **others: str) -> str:
    """A completion as raw JSON, in which anything may stand."""
    fields = "".join(f', "{name}": {value}' for name, value in others.items())
    return f'{{"choices": [{{"message": {{"content": {text}}}, "finish_reason": "stop"}}]{fields}}}'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion('"Rating: 5 \\ud800"'), "surrogate pair"),
        (completion(model='"\\udc00"'), "surrogate pair"),
        (completion(usage=f'{{"prompt_tokens": 1{"0" * 400}}}'), "counts more than 1,000,000,000 tokens"),
        (completion(usage=f'{{"completion_tokens": 1{"0" * 5000}}}'), "too many digits"),
        ("[" * 200_000, "nested too deeply"),
        (completion(extra="[" * 100_000 + "]" * 100_000), "nested too deeply"),
        (" " * (wire.LARGEST_REPLY + 1), "longer than 4 MiB"),
    ],
    ids=["text", "model", "tokens", "digits", "deep", "deep inside", "long"],
)
def test_a_monstrous_reply_is_rejected_with_its_reason_and_the_run_goes_on(
    body: str, reason: str, server: JudgeServer
) -> None:
    server.fault_for["item-1."] = Fault(body=body)
    outcome = run(endpoint(server, price="1,1"), requests(3))
    assert outcome.judged == {"item-0", "item-2"}
    assert reason in outcome.rejected["item-1"]
    assert len(server.asked) == 3


def test_the_words_of_an_error_are_fit_to_be_stored_and_shown(server: JudgeServer) -> None:
    server.fault_for["item-1."] = Fault(
        status=400, body='{"error": {"message": "bad \\ud800 \\u001b[31m\\u0007 thing"}}'
    )
    reason = run(endpoint(server), requests(2)).rejected["item-1"]
    assert reason == "the judge refused the request (400): bad [31m thing"
    deep = '{"error": {"message": ' + '{"a":' * 900 + "1" + "}" * 902
    server.fault_for["item-1."] = Fault(status=400, body=deep)
    assert "refused the request (400)" in run(endpoint(server), requests(2)).rejected["item-1"]


def test_a_packed_reply_is_not_unpacked(server: JudgeServer) -> None:
    server.fault_for["item-1."] = Fault(headers={"Content-Encoding": "gzip"})
    outcome = run(endpoint(server), requests(2))
    assert "packed" in outcome.rejected["item-1"]
    assert server.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(body='data: {"choices": []}\n\ndata: [DONE]\n\n'), "event stream"),
        (Fault(headers={"Content-Type": "text/event-stream"}, body=""), "event stream"),
        (Fault(body='{"id": "x", "choices": []}'), "contains no answer"),
        (Fault(body="<html>Welcome</html>"), "not complete JSON"),
    ],
)
def test_replies_that_are_alike_and_no_answer_stop_the_run_after_the_first_few(
    fault: Fault, said: str, server: JudgeServer
) -> None:
    server.fault_for["item-"] = fault
    judge = endpoint(server, judge_concurrency=1)
    with pytest.raises(AmpError, match=said) as caught:
        run(judge, requests(50))
    assert len(server.asked) == FEW
    assert "--judge-url" in str(caught.value.hint)
    assert judge.notes == ("3 requests ended without a usable reply and may have been charged",)


def test_once_something_was_answered_one_item_s_odd_replies_do_not_stop_the_others(server: JudgeServer) -> None:
    server.fault_for["item-1."] = Fault(body='{"choices": []}')
    outcome = run(endpoint(server, judge_concurrency=1), requests(4))
    assert outcome.judged == {"item-0", "item-2", "item-3"}
    assert "given up after 3 attempts" in outcome.rejected["item-1"]


@pytest.mark.parametrize("place", ["", "http://127.0.0.1:9/hunter2/v1?key=hunter2"])
def test_a_redirect_is_not_followed_with_prompts_and_keys(
    place: str, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    server.fault_for["item-"] = Fault(status=307, headers={"Location": place or f"{server.url}/chat/completions"})
    with pytest.raises(AmpError, match=r"redirects to 'http://127\.0\.0\.1:.*\(307\)") as caught:
        run(endpoint(server, judge_concurrency=1), requests(5))
    assert len(server.asked) == 1
    assert "hunter2" not in caught.value.message


def test_parameters_are_dropped_by_the_server_s_words_where_it_names_none(server: JudgeServer) -> None:
    server.faults.extend(
        [
            Fault(status=400, message="'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
            Fault(status=422, message="temperature: extra inputs are not permitted"),
        ]
    )
    judge = endpoint(server, judge_concurrency=1)
    assert run(judge, requests(2, max_tokens=50, verdict_line="^x$")).judged == {"item-0", "item-1"}
    last = server.asked[-1].body
    assert (last["max_completion_tokens"], "max_tokens" in last, "temperature" in last) == (50, False, False)
    assert "response_format" in last
    assert judge.notes == ("'gpt-x' takes no temperature; it used its own",)


def test_a_limit_that_is_too_large_for_the_model_is_not_taken_away(server: JudgeServer) -> None:
    server.fault_for["item-0."] = Fault(status=400, message="max_tokens is too large: it supports at most 4096")
    outcome = run(endpoint(server, judge_concurrency=1), requests(2))
    assert "too large" in outcome.rejected["item-0"]
    assert "max_tokens" in server.asked[-1].body


def test_why_a_reply_ended_is_kept_and_one_without_a_text_is_a_verdict_too(server: JudgeServer) -> None:
    body = {"choices": [{"message": {"content": None, "reasoning_content": "Rating: 2"}, "finish_reason": "length"}]}
    server.fault_for["item-1."] = Fault(body=json.dumps(body))
    verdicts = {one.id: one for one in run(endpoint(server), requests(2)).verdicts}
    assert (verdicts["item-0"].text, verdicts["item-0"].finish_reason) == (GOOD, "stop")
    assert (verdicts["item-1"].text, verdicts["item-1"].finish_reason) == ("", "length")


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("/openai/deployments/mine?api-version=2024-10-21", None),
        ("/openai/deployments/mine/chat/completions?api-version=2024-10-21", None),
        ("/openai/deployments/mine", "2024-10-21"),
    ],
)
def test_classic_azure_is_asked_by_deployment_version_and_its_own_header(
    place: str, option: str | None, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "azure-key")
    root = server.url.removesuffix("/v1")
    judge = endpoint(server, judge_url=root + place, judge_api_version=option)
    assert run(judge, requests(1)).judged == {"item-0"}
    asked = server.asked[0]
    assert asked.path == "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    assert asked.headers["api-key"] == "azure-key"
    assert "authorization" not in asked.headers
    assert judge.identity["api_version"] == "2024-10-21"


def test_a_deployment_has_the_judge_s_name_where_the_address_names_none(server: JudgeServer) -> None:
    root = server.url.removesuffix("/v1")
    run(endpoint(server, judge_url=root, judge_api_version="2024-10-21"), requests(1))
    assert server.asked[0].path.startswith("/openai/deployments/gpt-x/chat/completions?")


def test_an_api_version_is_checked_and_goes_with_endpoints_only() -> None:
    with pytest.raises(AmpError, match="is not an API version"):
        JudgeSettings(judge="x", judge_api_version="a&key=b")
    with pytest.raises(AmpError, match="--judge-api-version does not go with"):
        open_judge(JudgeSettings(judge="replay:file", judge_api_version="2024-10-21"))
    with pytest.raises(AmpError, match="judge_max_tokens must be at least 1"):
        JudgeSettings(judge="x", judge_max_tokens=0)


def stopped(settings: dict[str, Any]) -> AmpError:
    with pytest.raises(AmpError) as caught:
        run(open_judge(JudgeSettings(judge="gpt-x", judge_timeout=5.0, **settings)), requests(2), Outcome())
    return caught.value


@pytest.mark.parametrize("proxy", ["http://me:hunter2@127.0.0.1:9", "me:hunter2@127.0.0.1:9", "odd://me:hunter2@h"])
def test_a_proxy_that_does_not_work_is_named_without_its_password(
    proxy: str, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    error = stopped({"judge_url": server.url})
    assert "the proxy '" in error.message
    assert "HTTP_PROXY" in error.message
    assert "hunter2" not in f"{error.message}{error.hint}"
    assert "NO_PROXY" in str(error.hint)
    assert not server.asked


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_that_is_not_trusted_or_not_there_is_named(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    told = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {certificate} -days 2"
    subprocess.run(["openssl", *told.split(), "-subj", "/CN=localhost"], check=True, capture_output=True)
    secure = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        error = stopped({"judge_url": f"https://127.0.0.1:{secure.server_address[1]}/v1"})
    finally:
        secure.shutdown()
        secure.server_close()
    assert "certificate" in error.message
    assert "SSL_CERT_FILE" in str(error.hint)
    assert "plain http" in str(stopped({"judge_url": server.url.replace("http:", "https:")}).hint)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    assert "SSL_CERT_FILE" in stopped({"judge_url": server.url}).message
