"""A result folder that stands under its final name only when it is whole: made beside, checked, renamed."""

import shutil
from pathlib import Path
from typing import Any

from amp_cli.core.run import NAME, Run
from amp_cli.core.store import disk_errors_explained
from amp_cli.errors import AmpError


def made_before(out: Path, *, command: str, identity: dict[str, Any], overwrite: bool) -> Run | None:
    """Return the finished run in `out` where it is this very one; None where `out` is free (or may be replaced).

    Raises:
        AmpError: `out` holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if out.is_dir() and (out / NAME).is_file():
        run = Run.read(out)
        is_ours = run.facts.get("command") == command
        if is_ours and not overwrite and run.facts.get("identity") == identity:
            return run
        if is_ours and overwrite:
            return None
    raise AmpError(
        f"'{out}' is not empty and holds no result of this `amp {command}`",
        hint="Choose a new folder with --out, or replace an older result of the command with --overwrite",
    )


def part_of(out: Path) -> Path:
    """Return the empty place beside `out` where it is made; what a kill left there is removed.

    Raises:
        AmpError: somebody else's files are there.
    """
    part = out.with_name(out.name + ".part")
    if part.exists():
        begun = [(part / name).is_file() for name in (NAME, f"{NAME}.part")]
        if not any(begun) and (not part.is_dir() or any(part.iterdir())):
            raise AmpError(
                f"'{part}' is in the way: it holds files that are not ours", hint="Move it, or choose another --out"
            )
        disk_errors_explained(lambda: shutil.rmtree(part), part)
    return part


def put_in_place(part: Path, out: Path) -> None:
    """Give the finished folder its name, over an older one."""

    def move() -> None:
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)

    disk_errors_explained(move, out)
