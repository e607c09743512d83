"""Fetches plain files over HTTPS: resumed where they stopped, retried, verified before they get their name."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from amp_cli.disk.jsonl import disk_errors_explained, write_text
from amp_cli.disk.lock import alone_at
from amp_cli.downloads.checks import Verified, verify
from amp_cli.downloads.places import is_offline, mirrored, shown_source
from amp_cli.downloads.reports import FETCHED, PRESENT, Advance, FileReport, Progress
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    import httpx2


ATTEMPTS = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
TIMEOUT = 30.0
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file on the web. `path` is its place below the benchmark's folder; `bytes`, `checksum` are None if unknown."""

    path: str
    url: str
    bytes: int | None = None
    checksum: str | None = None
    check: Callable[[Path], str] | None = None


@contextmanager
def web_client(mirror: str | None) -> Iterator["httpx2.Client"]:
    """Open connections; without a mirror, nothing but https is asked, whatever a server redirects to."""
    import httpx2

    def refuse_plain(request: httpx2.Request) -> None:
        if mirror is None and request.url.scheme != "https":
            raise AmpError(
                f"'{request.url}' is not an https address", hint="Give --mirror to download from another place"
            )

    with httpx2.Client(
        follow_redirects=True,
        timeout=TIMEOUT,
        event_hooks={"request": [refuse_plain]},
        headers={"Accept-Encoding": "identity"},  # ranges count the bytes of the file itself
    ) as client:
        yield client


def fetch_file(file: RemoteFile, folder: Path, mirror: str | None, progress: Progress) -> FileReport:
    """Return the file's report once it is at its place; only what is missing is fetched.

    Raises:
        AmpError: offline and not there, refused, not what was expected, or no connection after several attempts.
        OccupiedError: another process fetches it.
    """
    target = folder / file.path
    url, shown = mirrored(file.url, mirror), shown_source(file.url, mirror)
    fault = ""
    if target.is_file():
        try:
            return _report(file, shown, target, _verified(file, target), PRESENT)
        except AmpError as error:
            fault = error.message
    if is_offline():
        raise AmpError(
            fault or f"'{target}' is not on this disk, and amp is offline",
            hint=f"Put {shown} at '{target}', or run without --offline",
        )
    with alone_at(target, "download"):
        return _fetched(file, target, url, shown, mirror, progress)


def _fetched(
    file: RemoteFile, target: Path, url: str, shown: str, mirror: str | None, progress: Progress
) -> FileReport:
    part = target.with_name(target.name + ".part")
    with web_client(mirror) as client:
        _Transfer(client, url, shown, part, file.bytes).run(progress, file.path)
    try:
        verified = _verified(file, part)
    except AmpError as error:
        part.unlink()
        raise AmpError(
            f"{shown} sent a file that is not the expected one: {error.message}",
            hint="Nothing was kept. Try again, or download from another place with --mirror",
        ) from error
    part.replace(target)
    _validator_place(part).unlink(missing_ok=True)
    return _report(file, shown, target, verified, FETCHED)


def _verified(file: RemoteFile, path: Path) -> Verified:
    return verify(path, file.bytes, file.checksum, file.check)


def _report(file: RemoteFile, url: str, target: Path, verified: Verified, state: str) -> FileReport:
    return FileReport(
        file=file.path,
        url=url,
        place=target,
        bytes=target.stat().st_size,
        expected=file.checksum,
        sha256=verified.sha256,
        verified=verified.how,
        state=state,
    )


def _validator_place(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


class _Transfer:
    """One file on its way: `part` grows until it is whole; its ETag says whether it may be continued."""

    def __init__(self, client: "httpx2.Client", url: str, shown: str, part: Path, size: int | None) -> None:
        self.client, self.url, self.shown, self.part, self.size = client, url, shown, part, size

    def run(self, progress: Progress, label: str) -> None:
        done = self._resumable_bytes()
        if self.size is not None and done == self.size:
            return
        with progress(label, self.size, done) as advance:
            with_retries(lambda: self._once(advance), self.shown, self._bytes_there)

    def _bytes_there(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _resumable_bytes(self) -> int:
        if self.part.is_file() and not _validator_place(self.part).is_file():
            self.part.unlink()
        return self._bytes_there()

    def _once(self, advance: Advance) -> None:
        done = self._resumable_bytes()
        headers = (
            {"Range": f"bytes={done}-", "If-Range": _validator_place(self.part).read_text(encoding="utf-8")}
            if done
            else {}
        )
        with self.client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == 416:  # longer than the file on the server: not the same file
                self.part.unlink()
                raise _Busy(416, 0.0)
            refuse_status(response, self.shown)
            if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(
                f"bytes {done}-"
            ):
                raise AmpError(
                    f"{self.shown} sent a different part of the file than requested",
                    hint="Run the same command again; if it stays so, fetch the file by hand",
                )
            appending = done > 0 and response.status_code == 206
            if done and not appending:
                advance(-done)
            self._note_validator(response)
            with self.part.open("ab" if appending else "wb") as stream:
                for block in response.iter_raw():
                    disk_errors_explained(partial(stream.write, block), self.part)
                    advance(len(block))

    def _note_validator(self, response: "httpx2.Response") -> None:
        """Keep what tells this version of the file from another (a strong ETag or a date), if the server says it."""
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        if validator:
            write_text(_validator_place(self.part), validator)
        else:
            _validator_place(self.part).unlink(missing_ok=True)


class _Busy(Exception):
    """The server asked to come back later, `after` seconds if it said so."""

    def __init__(self, status: int, after: float | None) -> None:
        super().__init__(f"status {status}")
        self.after = after


def refuse_status(response: "httpx2.Response", url: str) -> None:
    """Raise for a status that is no success: transient ones are tried again by `with_retries`."""
    status = response.status_code
    if status in (200, 206):
        return
    if status in TRANSIENT:
        after = response.headers.get("Retry-After", "")
        raise _Busy(status, float(after) if after.isdigit() else None)
    if status == 404:
        raise AmpError(f"There is no file at {url}", hint="Give --mirror to download it from another place")
    raise AmpError(
        f"{url} refused the request (status {status})", hint="Give --mirror to download it from another place"
    )


def with_retries(action: Callable[[], None], url: str, progress_made: Callable[[], int]) -> None:
    """Run `action` until it succeeds; give up after `ATTEMPTS` failures in a row without a byte in between.

    Raises:
        AmpError: no connection, or the server stays busy.
    """
    import httpx2

    failures, before = 0, progress_made()
    while True:
        try:
            action()
            return
        except (httpx2.TransportError, _Busy) as error:
            now = progress_made()
            failures = 1 if now > before else failures + 1
            before = now
            if failures >= ATTEMPTS:
                raise AmpError(
                    f"Cannot download {url}: {error or type(error).__name__}",
                    hint="What has arrived is kept: run the same command to continue. --mirror uses another place",
                ) from error
            wait = error.after if isinstance(error, _Busy) and error.after is not None else None
            time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1) if wait is None else wait))
