"""A run folder and its `run.json`: what was asked, with what, and how it ended."""

import platform
import shutil
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from amp_cli import __version__
from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.settings import default_settings, flatten, free_settings
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "spacy")
NAME = "run.json"
FIELDS: dict[str, type] = {"command": str, "settings": dict}
"""What every `run.json` of ours holds, whichever version wrote it."""
OPTIONAL_FIELDS: dict[str, type] = {"identity": dict, "judging": dict, "result": dict, "image_folder": str}


class Run:
    """One run folder. `start` opens or resumes it, `record` adds facts, `finish` closes it."""

    def __init__(self, out: Path, facts: dict[str, Any], *, resumed: bool) -> None:
        self.out = out
        self.facts = facts
        self.resumed = resumed

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings the run was started with."""
        settings: dict[str, Any] = self.facts["settings"]
        return settings

    @classmethod
    def start(
        cls,
        out: Path,
        *,
        command: str,
        settings: "DataclassInstance | Mapping[str, Any]",
        identity: Mapping[str, Any] | None = None,
        seed: int | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Open `out` for `command`; an unfinished or finished run with the same settings is resumed.

        Args:
            settings: a record, whose fields say what may differ when the run goes on, or plain values.
            identity: model and data identity (revision or content hash), compared like the settings.

        Raises:
            AmpError: the folder holds a run with other settings, or other files, and `overwrite` is off.
        """
        flat, free, defaults = _told_by(settings)
        facts = _new_facts(command, _plain(flat), _plain(identity or {}), seed)
        if overwrite and (out / NAME).exists():
            disk_errors_explained(lambda: shutil.rmtree(out), out)
        if (out / NAME).exists():
            old = _read_facts(out)
            _refuse_other_run(out, old, facts, free, _plain(defaults))
            facts = {**old, "settings": facts["settings"], "state": "running", "ended": None}
            run = cls(out, facts, resumed=True)
        else:
            if out.exists() and (not out.is_dir() or any(file.suffix != ".part" for file in out.iterdir())):
                raise AmpError(f"'{out}' is not empty and is not a run folder", hint="Choose a new folder with --out")
            run = cls(out, facts, resumed=False)
        write_json(out / NAME, run.facts)
        return run

    @classmethod
    def read(cls, out: Path) -> Self:
        """Read an existing run folder.

        Raises:
            AmpError: there is no run there.
        """
        if not (out / NAME).is_file():
            raise AmpError(
                f"'{out}' is not a run folder: it holds no {NAME}", hint="Give a folder that an amp command wrote"
            )
        return cls(out, _read_facts(out), resumed=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note in `run.json` how a block that did not get to `finish` ended; what is on disk stays."""
        if kind is not None:
            self.finish("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def record(self, **facts: Any) -> None:
        """Add facts to `run.json`."""
        self.facts.update(_plain(facts))
        write_json(self.out / NAME, self.facts)

    def finish(self, state: str = "done", **facts: Any) -> None:
        """Close the run: `done`, `failed` or `interrupted`."""
        self.record(state=state, ended=_now(), **facts)


class Facts(dict[str, Any]):
    """What `run.json` holds, and the objects inside it; a name that is missing is an error that names the file."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        inside = {name: Facts(one, file) if isinstance(one, dict) else one for name, one in values.items()}
        super().__init__(inside)
        self._file = file

    def __missing__(self, name: str) -> Any:
        raise AmpError(f"'{self._file}' lacks '{name}'", hint="Restore the file, or start afresh with --overwrite")


def _read_facts(out: Path) -> Facts:
    """Read `run.json`; a field that is there is of its type.

    Raises:
        AmpError: it is damaged, or not ours.
    """
    facts = read_plain_object(out / NAME, **FIELDS)
    for name, kind in OPTIONAL_FIELDS.items():
        if not isinstance(facts.get(name, kind()), kind):
            raise AmpError(
                f"'{name}' in '{out / NAME}' is {facts[name]!r:.80}, which amp does not write",
                hint="Restore the file, or start afresh with --overwrite",
            )
    return Facts(facts, out / NAME)


def _new_facts(command: str, settings: dict[str, Any], identity: dict[str, Any], seed: int | None) -> dict[str, Any]:
    return {
        "amp_version": __version__,
        "command": command,
        "settings": settings,
        "seed": seed,
        "identity": identity,
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": f"{platform.system()} {platform.machine()}",
        "started": _now(),
        "ended": None,
        "state": "running",
    }


def _told_by(
    settings: "DataclassInstance | Mapping[str, Any]",
) -> tuple[Mapping[str, Any], Collection[str], Mapping[str, Any]]:
    """Return settings as they lie in `run.json`, those of them that are free, and the defaults of all."""
    if isinstance(settings, Mapping):
        return settings, (), {}
    return flatten(settings), free_settings(settings), default_settings(type(settings))


def _refuse_other_run(
    out: Path, old: dict[str, Any], new: dict[str, Any], free: Collection[str], defaults: Mapping[str, Any]
) -> None:
    """Refuse to go on with other settings or another identity; what an older run does not name had its default."""
    if old.get("command") != new["command"]:
        raise AmpError(
            f"'{out}' holds a run of `{old.get('command')}`, not of `{new['command']}`",
            hint="Choose a new folder with --out, or start afresh with --overwrite",
        )
    for part in ("settings", "identity"):
        before, now = {**(defaults if part == "settings" else {}), **old.get(part, {})}, new[part]
        for name in sorted({*before, *now} - set(free)):
            if before.get(name) != now.get(name):
                raise AmpError(
                    f"'{out}' was made with {name} = {before.get(name)!r:.200}, not {now.get(name)!r:.200}",
                    hint="Choose a new folder with --out, or start afresh with --overwrite",
                )


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it: paths become texts, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
        f"'{out}' is not empty, and it does not hold a result of this `amp {command}`",
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
                f"'{part}' is in the way: it holds files that amp did not write",
                hint="Move it, or choose another --out",
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
