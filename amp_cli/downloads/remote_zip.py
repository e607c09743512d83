"""Takes single members out of a large zip archive on the web, by HTTP ranges: 80 MB of images instead of 6 GB."""

import io
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from amp_cli.disk.jsonl import disk_errors_explained
from amp_cli.downloads.http_files import refuse_status, web_client, with_retries
from amp_cli.downloads.places import check_space, is_offline, mirrored, shown_source
from amp_cli.downloads.reports import FETCHED, PRESENT, FileReport, Progress
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    import httpx2


BLOCK = 1 << 20
TAIL = 1 << 16
HEADER_ROOM = 30 + 1024
"""A member's local header: 30 bytes, its name and extra fields (their length stands only in the header itself)."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip file on the web. `file` is the name it has when somebody carries it into the folder by hand."""

    url: str
    file: str
    bytes: int | None = None
    checksum: str | None = None


class RangeFile(io.RawIOBase):
    """A file on the web that can be read from any place; what was read last is kept."""

    def __init__(self, client: "httpx2.Client", mirror: str | None, archive: Archive, carried: Path) -> None:
        super().__init__()
        self.client, self.archive, self.carried = client, archive, carried
        self.url, self.shown = mirrored(archive.url, mirror), shown_source(archive.url, mirror)
        self.position, self.window_start, self.window = 0, 0, b""
        self.size = 0
        self.validator: dict[str, str] = {}
        self._ask(f"bytes=-{TAIL}", first=True)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, size: int = -1) -> bytes:
        wanted = self.size - self.position if size is None or size < 0 else size
        wanted = max(0, min(wanted, self.size - self.position))
        if not self._holds(self.position, wanted):
            self.hold(self.position, max(wanted, BLOCK))
        start = self.position - self.window_start
        self.position += wanted
        return self.window[start : start + wanted]

    def hold(self, start: int, length: int) -> None:
        """Have these bytes ready, with one request at most."""
        end = min(start + length, self.size)
        if end > start and not self._holds(start, end - start):
            self._ask(f"bytes={start}-{end - 1}")

    def _holds(self, start: int, length: int) -> bool:
        return self.window_start <= start and start + length <= self.window_start + len(self.window)

    def _ask(self, ranges: str, *, first: bool = False) -> None:
        with_retries(lambda: self._ask_once(ranges, first), self.shown, lambda: 0)

    def _ask_once(self, ranges: str, first: bool) -> None:
        with self.client.stream("GET", self.url, headers={"Range": ranges, **self.validator}) as response:
            refuse_status(response, self.shown)
            if response.status_code != 206:
                raise self._by_hand(
                    "does not serve parts of a file" if first else "has changed since the download began"
                )
            start, size = _content_range(response.headers.get("Content-Range", ""), self.shown)
            if first:
                self._begin(response, size)
            elif size != self.size:
                raise self._by_hand("has changed since the download began")
            self.window = response.read()
            self.window_start = start

    def _begin(self, response: "httpx2.Response", size: int) -> None:
        if self.archive.bytes is not None and size != self.archive.bytes:
            raise self._by_hand(f"has an archive of {size:,} bytes; {self.archive.bytes:,} were expected")
        self.size = size
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            self.validator = {"If-Range": etag}

    def _by_hand(self, what: str) -> AmpError:
        return AmpError(
            f"{self.shown} {what}", hint=f"Download {self.archive.url} by hand and save it as '{self.carried}'"
        )


def _content_range(header: str, url: str) -> tuple[int, int]:
    """Return first byte and total size out of `bytes 0-99/1000`."""
    span, _, size = header.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    if not (start.isdigit() and size.isdigit()):
        raise AmpError(
            f"{url} does not say which part of the file it sends ('{header}')",
            hint="Fetch the archive by hand and give its folder with --data",
        )
    return int(start), int(size)


def fetch_members(
    archive: Archive, members: Mapping[str, str], folder: Path, mirror: str | None, progress: Progress
) -> FileReport:
    """Bring members of an archive to their places below `folder`; what is there already stays.

    Each is verified by the size and CRC-32 that the archive's directory gives, and renamed into place.

    Args:
        members: place below `folder` -> name in the archive.

    Returns:
        One report for all of them.
    """
    missing = {place: member for place, member in members.items() if not (folder / place).is_file()}
    if missing:
        with _opened(archive, folder, mirror) as (source, reader):
            _extract(source, reader, missing, folder, progress, archive)
    sizes = [(folder / place).stat().st_size for place in members]
    top = sorted({str(Path(place).parent) for place in members})
    return FileReport(
        file=f"{', '.join(top)}/ ({len(members):,} files of {archive.file})",
        url=shown_source(archive.url, mirror),
        place=folder / top[0],
        bytes=sum(sizes),
        verified="size and CRC-32" if missing else "by name",
        state=FETCHED if missing else PRESENT,
        count=len(members),
    )


@contextmanager
def _opened(
    archive: Archive, folder: Path, mirror: str | None
) -> Iterator[tuple[zipfile.ZipFile, Callable[[int, int], None]]]:
    """Open the archive in the folder if somebody put it there, else the one on the web."""
    carried = folder / archive.file
    try:
        if carried.is_file():
            if archive.bytes is not None and carried.stat().st_size != archive.bytes:
                raise AmpError(
                    f"'{carried}' has {carried.stat().st_size:,} bytes; {archive.bytes:,} were expected",
                    hint="It is incomplete, or a different file. Copy it again, or remove it",
                )
            with zipfile.ZipFile(carried) as source:
                yield source, lambda start, length: None
        elif is_offline():
            raise AmpError(
                f"Files of {archive.file} are missing in '{folder}', and amp is offline",
                hint=f"Save {archive.url} as '{carried}', or run without --offline",
            )
        else:
            with web_client(mirror) as client:
                remote = RangeFile(client, mirror, archive, carried)
                with zipfile.ZipFile(remote) as source:
                    yield source, remote.hold
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AmpError(
            f"{archive.file} is damaged: {error}", hint="Run the same command again; finished files are kept"
        ) from error


def _extract(
    source: zipfile.ZipFile,
    hold: Callable[[int, int], None],
    members: Mapping[str, str],
    folder: Path,
    progress: Progress,
    archive: Archive,
) -> None:
    known = {info.filename: info for info in source.infolist()}
    absent = sorted(member for member in members.values() if member not in known)
    if absent:
        raise AmpError(
            f"{archive.file} does not contain '{absent[0]}' ({len(absent):,} of {len(members):,} are missing)",
            hint="Its publisher has changed it: fetch the archive by hand and give its folder with --data",
        )
    todo = sorted(members.items(), key=lambda pair: known[pair[1]].header_offset)
    total = sum(known[member].file_size for member in members.values())
    check_space(folder, total)
    with progress(f"{len(todo):,} files of {archive.file}", total, 0) as advance:
        for place, member in todo:
            info = known[member]
            hold(info.header_offset, min(HEADER_ROOM + info.compress_size, 8 * BLOCK))
            with source.open(info) as stream:
                _write(stream, folder / place)
            advance(info.file_size)


def _write(stream: IO[bytes], target: Path) -> None:
    """Write one member beside its place and rename it over, once its size and CRC-32 are right."""

    def write() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        try:
            with beside.open("wb") as out:
                shutil.copyfileobj(stream, out, BLOCK)  # raises at its end if the CRC-32 is another
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    disk_errors_explained(write, target)
