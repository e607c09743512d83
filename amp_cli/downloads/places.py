"""Where downloads and kept conversions lie: folders, mirrors, free disk space, and whether the network may be asked."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from amp_cli import ui
from amp_cli.addresses import shown_address
from amp_cli.disk.lock import alone_at, alone_in
from amp_cli.disk.replacing import leftovers, own_facts, remove_files
from amp_cli.errors import AmpError, OccupiedError


def cache_folder() -> Path:
    """Return where this program keeps files: AMP_HOME if that is set, else XDG_CACHE_HOME/amp, else ~/.cache/amp."""
    home = os.environ.get("AMP_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "amp"


def benchmark_folder(name: str) -> Path:
    """Return the folder of a benchmark's files (nothing is created)."""
    return cache_folder() / "benchmarks" / name


def conversions_folder() -> Path:
    """Return where conversions of original checkpoints are kept (nothing is created)."""
    return cache_folder() / "converted"


def is_kept_conversion(folder: Path) -> bool:
    """Whether a folder is a finished conversion under its final name."""
    if not (re.fullmatch(r"[0-9a-f]{32}", folder.name) and folder.is_dir()):
        return False
    facts = own_facts(folder)
    return facts is not None and facts.get("state") == "done"


def unique_part(folder: Path) -> Path:
    """Return a name beside a conversion that no other process uses, to make or to remove it under."""
    return folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion on this disk: of which checkpoint, where, how large, and whether it is whole.

    One that is not is being made, or was left by a run that was killed.
    """

    model: str
    folder: str
    bytes: int
    is_finished: bool


def kept_conversions() -> list[Conversion]:
    """Return what is kept, and what is being made or was left half made."""
    found = []
    for folder in _conversion_folders():
        facts = own_facts(folder) or {"settings": {}}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        model = str(facts["settings"].get("model", "?"))
        found.append(Conversion(model=model, folder=str(folder), bytes=size, is_finished=is_kept_conversion(folder)))
    return found


def clear_conversions() -> int:
    """Remove all conversions that nobody is making, and return how many bytes that set free."""
    before = sum(one.bytes for one in kept_conversions())
    for folder in _conversion_folders():
        if is_kept_conversion(folder):
            try:
                with alone_at(folder, "models --clear-conversions"):
                    folder.rename(unique_part(folder))  # a kill from here on leaves nothing that looks whole
            except OccupiedError as error:
                ui.warn(error.message)
    clear_unfinished_conversions()
    return before - sum(one.bytes for one in kept_conversions())


def clear_unfinished_conversions() -> None:
    """Remove what killed runs left; what another process is making stays."""
    for folder in _conversion_folders():
        if is_kept_conversion(folder):
            continue
        try:
            with alone_in(folder, "models --clear-conversions", for_out=folder):
                remove_files(folder, leftovers(folder, "convert"))
        except OccupiedError:
            continue
        except AmpError as error:
            ui.warn(error.message)
            continue
        if not any(folder.iterdir()):
            folder.rmdir()


def _conversion_folders() -> Iterator[Path]:
    place = conversions_folder()
    yield from sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else ()


def mirrored(url: str, mirror: str | None) -> str:
    """Return `url`, or the place of the same file on a mirror: MIRROR/HOST/PATH."""
    if mirror is None:
        return url
    parts = urlsplit(url)
    base, mark, query = mirror.partition("?")
    return f"{base.rstrip('/')}/{parts.netloc}{parts.path}{mark}{query}"


def shown_source(url: str, mirror: str | None) -> str:
    """Return where a file comes from as it may be shown: a mirror's own address holds no secret then."""
    return mirrored(url, None if mirror is None else shown_address(mirror))


def is_offline() -> bool:
    """Tell whether `amp --offline` or HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


DOWNLOADS_HINT = "Free some space, or choose another disk with AMP_HOME (benchmarks) or HF_HOME (models)"


def check_space(folder: Path, needed: int, *, hint: str = DOWNLOADS_HINT) -> None:
    """Refuse to write what does not fit the disk of `folder`.

    Raises:
        AmpError: fewer than `needed` bytes are free.
    """
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise AmpError(
            f"'{folder}' needs {size_text(needed)}, but only {size_text(free)} are free",
            hint=hint,
        )


def size_text(size: int | None) -> str:
    """Return bytes as people read them: 14.1 GB, 12.2 kB."""
    if size is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
