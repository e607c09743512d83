"""Takes the pictures that a benchmark asks about out of a ZIP archive, those and no others, into our cache."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from amp_cli.core.downloads.places import cache_folder
from amp_cli.core.store import disk_errors_explained
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem

_LARGEST = 200 << 20
"""Bytes. A picture that unpacks to more is left where it is, and then reported as missing."""


def unpack_pictures(items: Sequence[BenchmarkItem], data: Path) -> Path | None:
    """Return a folder with the items' pictures out of an archive at or below `data`; None where none holds any.

    Members are matched by file name. What is unpacked already stays.
    """
    names = {name for item in items for name in item.images if _stays_inside(name)}
    for file in [data] if data.is_file() else sorted(data.rglob("*.zip")):
        if file.suffix != ".zip":
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                members = {PurePosixPath(member.filename).name: member for member in archive.infolist()}
                found = {name: members[base] for name in names if (base := PurePosixPath(name).name) in members}
                if found:
                    folder = cache_folder() / "unpacked" / _identity(archive)
                    for name, member in found.items():
                        _unpack(archive, member, folder / name)
                    return folder
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise AmpError(f"'{file}' cannot be read: {error}", hint="Fetch it again, or give --image-root") from error
    return None


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _identity(archive: zipfile.ZipFile) -> str:
    """Return a name for an archive's content, from its directory: names, sizes and checksums."""
    listed = "\n".join(f"{member.filename} {member.file_size} {member.CRC}" for member in archive.infolist())
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if target.is_file() or member.file_size > _LARGEST:
        return
    content = archive.read(member)

    def write() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        beside.write_bytes(content)
        beside.replace(target)

    disk_errors_explained(write, target)
