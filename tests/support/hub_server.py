"""A web server on 127.0.0.1 that speaks the hub's protocol, serves plain files, and fails when told to."""

import hashlib
import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

LARGE = (".safetensors", ".bin", ".zip", ".jpg")
"""What the server keeps in LFS: it tells these files' SHA-256, of others the git blob id."""


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the next request for a file: it hangs up, is busy, sends other bytes, knows no ranges."""

    drop_after: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    ignores_range: bool = False


@dataclass
class Asked:
    """A request for a file, as it came in, and how many bytes of content went out."""

    method: str
    path: str
    range: str | None
    if_range: str | None
    sent: int = 0


def go_online(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Undo conftest's offline switch for one test, and keep everything that is downloaded below `folder`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setenv("AMP_HOME", str(folder / "amp"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: some tests make them."""


class HubServer:
    """`files` are plain files by path; `repositories` are hub repositories: (kind, id) -> path -> content."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: dict[tuple[str, str], str] = {}
        self.gated: set[str] = set()
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.asked: list[Asked] = []
        self._server = _QuietServer(("127.0.0.1", 0), self.handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return what answers a request."""
        return _handler(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_repository(self, repo: str, files: dict[str, bytes], kind: str = "model", commit: str = "c" * 40) -> None:
        self.repositories[kind, repo] = files
        self.commits[kind, repo] = commit

    def sent(self, ending: str = "") -> int:
        """How many bytes of content went out for paths that end so."""
        return sum(one.sent for one in self.asked if one.path.endswith(ending))

    def downloads(self, ending: str) -> list[Asked]:
        return [one for one in self.asked if one.method == "GET" and one.path.endswith(ending)]


def _tree(files: dict[str, bytes]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for path, content in files.items():
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob_id(content)}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        entries.append(entry)
    return entries


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            return

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith("/api/"):
                self._answer_api(path.removeprefix("/api/"))
                return
            if "/resolve/" in path:
                self._answer_resolve(path)
                return
            content = hub.files.get(path)
            if content is None:
                self._send(404, b"no such file", {})
            else:
                self._send_file(path, content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

        def _answer_api(self, path: str) -> None:
            kinds, owner, name, *rest = path.split("/")
            key = (kinds.removesuffix("s"), f"{owner}/{name}")
            if self._refused(key):
                return
            commit = hub.commits[key]
            if rest and rest[-1] not in ("main", commit):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif rest and rest[0] == "tree":
                self._send(200, json.dumps(_tree(hub.repositories[key])).encode(), {})
            else:
                names = [{"rfilename": name} for name in hub.repositories[key]]
                self._send(200, json.dumps({"id": key[1], "sha": commit, "siblings": names}).encode(), {})

        def _answer_resolve(self, path: str) -> None:
            repo, _, rest = path.strip("/").partition("/resolve/")
            key = ("dataset", repo.removeprefix("datasets/")) if repo.startswith("datasets/") else ("model", repo)
            if self._refused(key):
                return
            content = hub.repositories[key].get(rest.partition("/")[2])
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            large = path.endswith(LARGE)
            etag = hashlib.sha256(content).hexdigest() if large else git_blob_id(content)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.commits[key]}
            if large:
                headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            self._send_file(path, content, headers)

        def _refused(self, key: tuple[str, str]) -> bool:
            if key[1] in hub.gated:
                self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            elif key not in hub.repositories:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            else:
                return False
            return True

        def _send_file(self, path: str, content: bytes, headers: dict[str, str]) -> None:
            wanted, if_range = self.headers.get("Range"), self.headers.get("If-Range")
            asked = Asked(self.command, path, wanted, if_range)
            hub.asked.append(asked)
            fault = Fault()
            if self.command == "GET" and hub.faults[path]:
                fault = hub.faults[path].pop(0)
            if fault.status is not None:
                self._send(fault.status, b"busy", fault.headers)
                return
            body = content if fault.content is None else fault.content
            status, start, end = 200, 0, len(body)
            if wanted and not fault.ignores_range and (if_range is None or if_range == headers["ETag"]):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start = int(first) if first else max(0, len(body) - int(last))
                end = min(len(body), int(last) + 1) if first and last else len(body)
                if start >= len(body):
                    self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                    return
                status = 206
                headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}
            self._send(status, body[start:end], headers, asked, fault.drop_after)

        def _send(
            self,
            status: int,
            body: bytes,
            headers: dict[str, str],
            asked: Asked | None = None,
            drop_after: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            part = body if drop_after is None else body[:drop_after]
            if asked is not None:
                asked.sent += len(part)
            self.wfile.write(part)
            if drop_after is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler
