"""A hub on 127.0.0.1 that takes uploads too: repositories, branches, large files and commits, for known tokens."""

import base64
import hashlib
import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.hub_server import LARGE, HubServer, _tree, git_blob_id, go_online

SILENT = 0
BAD_TOKEN = "Invalid credentials in Authorization header"


class WritableHub(HubServer):
    """`owners` says who a token is; what was asked stands in `log`, and `failures` says which requests go wrong once.

    Attributes:
        branches: repository -> branch -> path -> content. large: SHA-256 -> content of a large file.
        failures: (method, end of the path) -> status; SILENT says nothing for a second.
    """

    def __init__(self, owners: dict[str, str]) -> None:
        self.owners = owners
        self.private: dict[str, bool] = {}
        self.branches: dict[str, dict[str, dict[str, bytes]]] = {}
        self.large: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.failures: dict[tuple[str, str], int] = {}
        super().__init__()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _handler(self, super().handler())

    def hold(self, repo: str, files: dict[str, bytes], *, private: bool = False) -> None:
        """Have a repository with these files."""
        self.branches[repo] = {"main": dict(files)}
        self.private[repo] = private

    def asked_for(self, method: str, ending: str) -> int:
        """How often a path that ends so was asked for."""
        return sum(one == method and path.endswith(ending) for one, path in self.log)


def push_to(hub: WritableHub, monkeypatch: pytest.MonkeyPatch, folder: Any) -> None:
    """Let the hub's library talk to this server, in the plain protocol of large files."""
    from huggingface_hub import constants

    go_online(monkeypatch, folder)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def _handler(hub: WritableHub, reading: Any) -> type[BaseHTTPRequestHandler]:
    class Handler(reading):  # type: ignore[misc]
        def do_GET(self) -> None:
            self._write("GET")

        def do_POST(self) -> None:
            self._write("POST")

        def do_PUT(self) -> None:
            self._write("PUT")

        def _write(self, method: str) -> None:
            path = unquote(urlsplit(self.path).path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.log.append((method, path))
            for (wanted, ending), status in list(hub.failures.items()):
                if wanted == method and path.endswith(ending):
                    del hub.failures[wanted, ending]
                    if status == SILENT:
                        time.sleep(1)
                        self.close_connection = True
                        return
                    self._send(status, b"", {})
                    return
            if path.startswith("/upload/"):  # a signed address: no token goes there
                assert "Authorization" not in self.headers
                hub.large[path.removeprefix("/upload/")] = content
                self._send(200, b"", {})
                return
            owner = hub.owners.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
            if owner is None:
                self._send(401, b"", {"X-Error-Message": BAD_TOKEN})
                return
            self._answer_known(method, path, content, owner)

        def _answer_known(self, method: str, path: str, content: bytes, owner: str) -> None:
            given = json.loads(content) if content.startswith(b"{") and not path.count("/commit/") else {}
            if path == "/api/validate-yaml":
                self._say({"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                self._create(given, owner)
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._say({"objects": [self._large(one) for one in given["objects"]]})
            elif path.startswith("/api/models/"):
                self._answer_model(method, path.removeprefix("/api/models/").split("/"), content, given, owner)
            else:
                self._send(404, b"", {})

        def _create(self, given: dict[str, Any], owner: str) -> None:
            repo = f"{given['organization'] or owner}/{given['name']}"
            if given["organization"] not in (None, owner):
                self._send(403, b"", {"X-Error-Message": "You don't have the rights"})
                return
            if repo not in hub.branches:
                hub.hold(repo, {".gitattributes": b""}, private=given.get("visibility") == "private")
            self._say({"url": f"{hub.url}/{repo}"})

        def _large(self, one: dict[str, Any]) -> dict[str, Any]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] in hub.large:
                return known
            return {**known, "actions": {"upload": {"href": f"{hub.url}/upload/{one['oid']}"}}}

        def _answer_model(
            self, method: str, parts: list[str], content: bytes, given: dict[str, Any], owner: str
        ) -> None:
            repo, rest = "/".join(parts[:2]), parts[2:]
            if repo not in hub.branches:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
                return
            branches = hub.branches[repo]
            if method == "POST" and parts[0] != owner:
                self._send(403, b"", {})
            elif rest[:1] == ["branch"]:
                branches.setdefault(rest[1], dict(branches["main"]))
                self._say({})
            elif rest and rest[-1] not in branches:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif rest[:1] == ["tree"]:
                self._send(200, json.dumps(_tree(branches[rest[-1]])).encode(), {})
            elif rest[:1] == ["preupload"]:
                self._say({"files": [self._mode(one, branches[rest[-1]]) for one in given["files"]]})
            elif rest[:1] == ["commit"]:
                self._commit(repo, content, branches[rest[-1]])
            else:
                files = [{"rfilename": name} for name in branches["main"]]
                told = {
                    "id": repo,
                    "sha": _commit_id(branches["main"]),
                    "private": hub.private[repo],
                    "siblings": files,
                }
                self._say(told)

        def _mode(self, one: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
            there = files.get(one["path"])
            oid = None if there is None else _oid(one["path"], there)
            mode = "lfs" if one["path"].endswith(LARGE) else "regular"
            return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        def _commit(self, repo: str, content: bytes, files: dict[str, bytes]) -> None:
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
            commit = _commit_id(files)
            self._say({"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit, "pullRequestUrl": None})

        def _say(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    return Handler


def _oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else git_blob_id(content)


def _commit_id(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()
