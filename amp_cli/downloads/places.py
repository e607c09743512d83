"""Where downloads come from and go to: folders, mirrors, free disk space, and whether the network may be asked."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from amp_cli.addresses import shown_address
from amp_cli.errors import AmpError


def cache_folder() -> Path:
    """Return where this program keeps files: AMP_HOME if that is set, else XDG_CACHE_HOME/amp, else ~/.cache/amp."""
    home = os.environ.get("AMP_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "amp"


def benchmark_folder(name: str) -> Path:
    """Return the folder of a benchmark's files (nothing is created)."""
    return cache_folder() / "benchmarks" / name


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
