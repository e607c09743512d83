"""A server on 127.0.0.1 that speaks OpenAI's chat completions, and fails when told to."""

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

GOOD = "It says what the reference says.\nRating: 5"


@dataclass
class Fault:
    """What happens to one request in place of a good reply.

    status, message, code and param: an error's. headers: sent along. hang: seconds until anything is sent. drip:
    seconds between the body's bytes. cut: hang up without a word (0), or after so many bytes of the body. body: sent
    as it stands, whatever it is. text: a reply of this text, for what is about reading verdicts: refusals, two ratings,
    "Rating: 10".
    """

    status: int = 200
    message: str = "told to fail"
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drip: float = 0.0
    cut: int | None = None
    body: str | None = None
    text: str | None = None


@dataclass
class Asked:
    """A request as it came in, and when; `answered` says whether a whole good reply went out (it was paid for)."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    path: str = ""
    answered: bool = False

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


class JudgeServer:
    """Replies `reply(request body)` to each request; `faults` strike the next requests, `fault_for` chosen prompts.

    `busiest` is the largest number of requests that were open at once, `connections` how many were made.
    """

    def __init__(self, reply: Callable[[dict[str, Any]], str] | str = GOOD, *, delay: float = 0.0) -> None:
        self.reply = reply
        self.delay = delay
        self.faults: deque[Fault | None] = deque()
        self.fault_for: dict[str, Fault] = {}
        self.usage: dict[str, int] | None = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        self.model = "judge-2026-01"
        self.asked: list[Asked] = []
        self.busiest = 0
        self.connections = 0
        self._open = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def paid(self) -> list[str]:
        """The prompts of the requests that got a whole good reply."""
        return [one.prompt for one in self.asked if one.answered]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def opened(self, asked: Asked) -> Fault | None:
        with self._lock:
            self.asked.append(asked)
            self._open += 1
            self.busiest = max(self.busiest, self._open)
            for part, fault in self.fault_for.items():
                if part in asked.prompt:
                    return fault
            return self.faults.popleft() if self.faults else None

    def closed(self) -> None:
        with self._lock:
            self._open -= 1

    def completion(self, body: dict[str, Any], text: str | None = None) -> str:
        said = text if text is not None else self.reply if isinstance(self.reply, str) else self.reply(body)
        reply: dict[str, Any] = {
            "id": f"chatcmpl-{next(self._numbers)}",
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        }
        return json.dumps(reply if self.usage is None else {**reply, "usage": self.usage})


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: some tests make them."""


def _handler(server: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with server._lock:
                server.connections += 1

        def log_message(self, format: str, *arguments: object) -> None:
            return

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(body, {name.lower(): value for name, value in self.headers.items()}, time.monotonic())
            asked.path = self.path
            fault = server.opened(asked)
            try:
                self._answer(asked, fault)
            finally:
                server.closed()

        def _answer(self, asked: Asked, fault: Fault | None) -> None:
            time.sleep(server.delay if fault is None else fault.hang)
            if not self.path.partition("?")[0].endswith("/chat/completions"):
                fault = Fault(status=404, message="no such path")
            if fault is None or fault.text is not None:
                self._send(200, server.completion(asked.body, fault.text if fault else None), {})
                asked.answered = True
                return
            if fault.cut == 0:
                self.close_connection = True
                return
            error = {"error": {"message": fault.message, "code": fault.code, "param": fault.param, "type": "test"}}
            body = fault.body
            if body is None:
                body = server.completion(asked.body) if fault.status == 200 else json.dumps(error)
            self._send(fault.status, body, fault.headers, fault.cut, fault.drip)

        def _send(
            self, status: int, body: str, headers: dict[str, str], cut: int | None = None, drip: float = 0.0
        ) -> None:
            content = body.encode()
            self.send_response(status)
            sent = {"Content-Type": "application/json", "X-Request-Id": f"req-{len(server.asked)}", **headers}
            for name, value in {**sent, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            for start in range(len(content) if drip else 0):
                self.wfile.write(content[start : start + 1])
                time.sleep(drip)
            if not drip:
                self.wfile.write(content if cut is None else content[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler
