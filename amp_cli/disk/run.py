"""A run folder and its `run.json`: what was asked, with what, and how it ended."""

import platform
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from amp_cli import __version__, stopping
from amp_cli.addresses import stored
from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.lock import LOCK, alone_in, claim_folder, release_folder, rename_held
from amp_cli.disk.parsing import read_object, refuse_endless_numbers
from amp_cli.disk.replacing import (
    EMPTYING,
    NAME,
    empty_run,
    facts_in,
    leftovers,
    refuse_inputs,
    remove_files,
    replaceable,
)
from amp_cli.disk.settings import default_settings, flatten, free_settings
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "spacy")
FIELDS: dict[str, type] = {"command": str, "settings": dict}
"""What a `run.json` must have to be looked at; to be gone on with or replaced, it must be ours (`facts_in`)."""
OPTIONAL_FIELDS: dict[str, type] = {"identity": dict, "judging": dict, "result": dict, "image_folder": str}


class Run:
    """One run folder. `start` opens or resumes it, `record` adds facts, `finish` closes it.

    From `start` or `go_on` to `finish` no other process can open it.
    """

    def __init__(self, out: Path, facts: dict[str, Any], *, resumed: bool) -> None:
        self.out = out
        self.facts = facts
        self.resumed = resumed
        self._is_held = False

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
        inputs: Iterable[Path | None] = (),
    ) -> Self:
        """Open `out` for `command`; an unfinished or finished run with the same settings is resumed.

        Args:
            settings: a record, whose fields say what may differ when the run goes on, or plain values.
            identity: model and data identity (revision or content hash), compared like the settings.
            overwrite: start afresh; the files of an earlier run of the same command are removed. So this is called when
                all that can be checked is checked.
            inputs: all that is read; none of it may lie in a folder that is overwritten.

        Raises:
            AmpError: the folder holds a run with other settings, or other files, and `overwrite` is off; or it holds
                what may not be overwritten.
            OccupiedError: another process has it open.
        """
        if out.exists() and not out.is_dir():
            raise AmpError(f"'{out}' is a file", hint="Choose a new folder with --out")
        flat, free, defaults = _told_by(settings)
        facts = _new_facts(command, _plain(flat), _plain(identity or {}), seed)
        claim_folder(out, command)
        try:
            if (out / NAME).exists() and (overwrite or facts_in(out).get("state") == EMPTYING):
                empty_run(out, replaceable(out, command, inputs))
            run = cls._opened(out, facts, free, _plain(defaults))
        except BaseException:
            release_folder(out)
            raise
        run._is_held = True
        return run

    @classmethod
    def _opened(cls, out: Path, facts: dict[str, Any], free: Collection[str], defaults: Mapping[str, Any]) -> Self:
        if (out / NAME).exists():
            old = _sound(facts_in(out), out / NAME)
            _refuse_other_run(out, old, facts, free, defaults)
            facts = {**old, "settings": facts["settings"], "state": "running", "ended": None}
            run = cls(out, facts, resumed=True)
        else:
            if out.exists() and any(file.suffix != ".part" and file.name != LOCK for file in out.iterdir()):
                raise AmpError(f"'{out}' is not empty and is not a run folder", hint="Choose a new folder with --out")
            run = cls(out, facts, resumed=False)
        write_json(out / NAME, run.facts)
        stopping.opened(run)
        return run

    @classmethod
    def go_on(cls, out: Path) -> Self:
        """Open the run that is in `out`, whatever its settings, until `finish`.

        Raises:
            AmpError: there is no run there.
            OccupiedError: another process has it open.
        """
        command = cls.read(out).facts["command"]
        claim_folder(out, command)
        run = cls.read(out)
        run._is_held = True
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
        return cls(out, _sound(read_object(out / NAME, **FIELDS), out / NAME), resumed=True)

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
        """Close the run: `done`, `failed` or `interrupted`; what fails after we were told to stop was interrupted."""
        if state == "failed" and stopping.is_told():
            state = "interrupted"
        try:
            self.record(state=state, ended=_now(), **facts)
        finally:
            if state != "interrupted":
                stopping.closed(self)
            if self._is_held:
                release_folder(self.out)
            self._is_held = False


class Facts(dict[str, Any]):
    """What `run.json` holds, and the objects inside it; a name that is missing is an error that names the file."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        inside = {name: Facts(one, file) if isinstance(one, dict) else one for name, one in values.items()}
        super().__init__(inside)
        self._file = file

    def __missing__(self, name: str) -> Any:
        raise AmpError(f"'{self._file}' lacks '{name}'", hint="Restore the file, or start afresh with --overwrite")


def _sound(facts: dict[str, Any], file: Path) -> Facts:
    """Return what was read from a `run.json`; a field that is there is of its type.

    Raises:
        AmpError: it is damaged.
    """
    refuse_endless_numbers(facts, file)
    for name, kind in OPTIONAL_FIELDS.items():
        if not isinstance(facts.get(name, kind()), kind):
            raise AmpError(
                f"'{name}' in '{file}' is {facts[name]!r:.80}, which amp does not write",
                hint="Restore the file, or start afresh with --overwrite",
            )
    return Facts(facts, file)


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
            hint="Choose a new folder with --out",
        )
    for part in ("settings", "identity"):
        before, now = {**(defaults if part == "settings" else {}), **_plain(old.get(part, {}))}, new[part]
        for name in sorted({*before, *now} - set(free)):
            if before.get(name) != now.get(name):
                raise AmpError(
                    f"'{out}' was made with {name} = {before.get(name)!r:.200}, not {now.get(name)!r:.200}",
                    hint="Choose a new folder with --out, or start afresh with --overwrite",
                )


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it: paths become texts, tuples lists, and addresses are without their secrets."""
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return stored(str(value) if isinstance(value, Path) else value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def make_whole(
    out: Path,
    *,
    command: str,
    settings: Mapping[str, Any],
    identity: Mapping[str, Any],
    write: Callable[[Path], Mapping[str, Any]],
    overwrite: bool,
    inputs: Collection[Path | None],
) -> Run:
    """Return the finished run in `out`: the very one that is there (`resumed`), or one that `write` makes beside it.

    Of what fails nothing is left; of what is killed `OUT.part`, which the next call clears away.

    Args:
        write: makes the files in the folder that it is given, and returns facts for `run.json`.
        overwrite: replace an older run of the same command, when the new one is whole.
        inputs: all that is read; none of it may lie in a folder that is replaced.

    Raises:
        AmpError: `out` holds anything else.
        OccupiedError: another process makes it.
    """
    part = place_beside(out)
    with alone_in(part, command, for_out=out):
        if done := _made_before(out, command, _plain(identity), overwrite, inputs):
            return done
        clear_part(out, command=command, inputs=inputs)
        try:
            with Run.start(part, command=command, settings=settings, identity=identity) as run:
                run.finish("done", **write(part))
        except AmpError:
            remove_files(part, leftovers(part, command))
            raise
        put_in_place(part, out, command=command, inputs=inputs)
        return Run(out, run.facts, resumed=False)


def _made_before(
    out: Path, command: str, identity: Mapping[str, Any], overwrite: bool, inputs: Collection[Path | None]
) -> Run | None:
    """Return the finished run in `out` where it is this very one; None where `out` is free (or may be replaced)."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if out.is_dir() and (out / NAME).is_file():
        run = Run.read(out)
        is_same = run.facts.get("command") == command and run.facts.get("identity") == identity
        if is_same and not overwrite:
            return run
        if overwrite:
            replaceable(out, command, inputs)
            return None
    raise AmpError(
        f"'{out}' is not empty, and it does not hold a result of this `amp {command}`",
        hint="Choose a new folder with --out, or replace an older result of the command with --overwrite",
    )


def place_beside(out: Path) -> Path:
    """Return the place beside `out` where it is made; whoever makes it there holds it by `alone_in`.

    Raises:
        AmpError: `out` is the root of the file system, which has nothing beside it.
    """
    place = out.resolve() if out.name in ("", "..") else out
    if not place.name:
        raise AmpError(f"'{out}' cannot be the result's folder", hint="Choose a new folder with --out")
    return place.with_name(place.name + ".part")


def clear_part(out: Path, *, command: str, inputs: Collection[Path | None]) -> None:
    """Remove what a kill left in the place beside `out`.

    Raises:
        AmpError: somebody else's files are there, or something that is read.
    """
    part = place_beside(out)
    if old := leftovers(part, command):
        refuse_inputs(part, inputs)
        remove_files(part, old)


def put_in_place(part: Path, out: Path, *, command: str, inputs: Collection[Path | None]) -> None:
    """Give the finished folder its name, over an older one of the same command.

    Raises:
        AmpError: meanwhile something has come there that may not be replaced.
    """
    old = replaceable(out, command, inputs) if (out / NAME).exists() else []

    def move() -> None:
        if old:
            empty_run(out, old)
        rename_held(part, out)

    disk_errors_explained(move, out)
