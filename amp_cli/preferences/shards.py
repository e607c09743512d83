"""Generation on several nodes: each answers its shard of the items, `--merge` makes of all what one run would make."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import RecordLog, write_lines
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.run import Run
from amp_cli.disk.settings import free_settings, restore
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.preferences.encoders import Encoder
from amp_cli.preferences.experts import Answering, Expert, NodeShare
from amp_cli.preferences.generate import (
    CANDIDATES,
    COMMAND,
    REJECTED,
    GenerateResult,
    GenerateSettings,
    ask_experts,
    prepare,
    rank_all,
    started,
)
from amp_cli.preferences.incremental import FineTuning
from amp_cli.records import Candidate

AGAIN = "Each shard is made by the same command, but for --shard and --out"


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What one node has made; `answered` counts the items that every expert answered."""

    shard: str
    answered: int
    rejected: int
    candidates: Path
    rejected_file: Path

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        return {
            "shard": self.shard,
            "answered": self.answered,
            "rejected": self.rejected,
            "candidates": str(self.candidates),
        }


def generate_shard(
    settings: GenerateSettings, *, answering: Answering | None = None, overwrite: bool = False
) -> ShardResult:
    """Let the experts answer this node's items; see `generate_preferences`. They are ranked when all are merged.

    Raises:
        AmpError: as `generate_preferences` does.
    """
    assert settings.shard is not None  # the command chooses by it
    prepared = prepare(settings, None, None, answering)
    with started(settings, prepared, overwrite) as run:
        candidates, rejected = ask_experts(settings, prepared)
        result = ShardResult(
            shard=settings.shard,
            answered=len(candidates),
            rejected=rejected,
            candidates=settings.out / CANDIDATES,
            rejected_file=settings.out / REJECTED,
        )
        run.finish(results=result.to_json())
    return result


class Shards:
    """The finished shards of one run, the first first.

    Raises:
        AmpError: one is missing, not finished or there twice, or they are not of one run.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        found = [(_shard_of(run), run) for run in map(_finished, folders)]
        found.sort(key=lambda one: one[0].number)
        self.runs = [run for _, run in found]
        first, count = self.runs[0], found[0][0].count
        for share, run in found:
            if share.count != count:
                raise AmpError(f"'{run.out}' is one of {share.count} shards, '{first.out}' of {count}", hint=AGAIN)
        for number in range(1, count + 1):
            own = [run.out for share, run in found if share.number == number]
            if not own:
                raise AmpError(f"Shard {number}/{count} is missing", hint="Give the folders of all shards")
            if len(own) > 1:
                raise AmpError(f"'{own[0]}' and '{own[1]}' are both shard {number}/{count}", hint="Give each once")
        for run in self.runs[1:]:
            _refuse_difference(first, run)

    @property
    def identity(self) -> dict[str, Any]:
        """The data and the models that all were made with."""
        identity: dict[str, Any] = self.runs[0].facts["identity"]
        return identity

    def settings(self, out: Path) -> GenerateSettings:
        """Return the settings of one run of all items."""
        return _settings_of(self.runs[0], out)

    def take_answers(self, out: Path) -> None:
        """Write candidates and rejections of all shards into the folder of one run, which sorts them."""
        write_lines(out / CANDIDATES, self._lines(CANDIDATES, Candidate.from_json))
        write_lines(out / REJECTED, self._lines(REJECTED, LeftOut.from_json))  # what the data refuse is found anew

    def _lines(self, name: str, build: Callable[[dict[str, Any]], Candidate | LeftOut]) -> Iterator[bytes]:
        """Yield what experts said or refused, of a file of all shards."""
        for run in self.runs:
            log = RecordLog(run.out / name)
            yield from log.lines_at(start for start, said in log.scan(build) if said.source is not None)


def merge_shards(
    folders: Sequence[Path],
    *,
    out: Path,
    encoder_of: Callable[[GenerateSettings], Encoder | None] = lambda settings: None,
    overwrite: bool = False,
) -> GenerateResult:
    """Make of all shards, byte for byte, what one run would have made; nobody is asked.

    Args:
        encoder_of: returns what compares texts in auto-check instead of the encoder that the settings name.

    Raises:
        AmpError: as `Shards` does; or the data are gone or others by now, or an item is in no shard.
    """
    shards = Shards(folders)
    settings = shards.settings(out)
    if not settings.data.is_file():
        raise AmpError(
            f"The shards were made from '{settings.data}', and there is no such file here",
            hint="Merge in the folder in which the shards were made; data and images are read again, at their places",
        )
    prepared = prepare(settings, None, encoder_of(settings), _nobody)
    if any(value != shards.identity.get(name) for name, value in prepared.identity.items()):
        raise AmpError(
            f"'{settings.data}' is not what the shards were made from: its content is another",
            hint="Restore the file, or make the shards again",
        )
    prepared.identity.update(shards.identity)  # the models, too
    with started(settings, prepared, overwrite, inputs=folders) as run:
        run.record(merged_from=[str(one.out) for one in shards.runs])
        shards.take_answers(out)
        result = rank_all(settings, prepared)
        run.finish(results=result.to_json())
    return result


def _nobody(expert: Expert, folder: Path) -> Any:
    raise AmpError(
        f"Some items have no answer of {expert.name} in any shard",
        hint="Were images added or mended since? Then give each shard's command again, and merge them anew",
    )


def _finished(folder: Path) -> Run:
    run = Run.read(folder)
    if run.facts["command"] != COMMAND or run.settings.get("shard") is None:
        raise AmpError(f"'{folder}' is not a shard of `amp {COMMAND}`", hint="Give folders made with --shard I/N")
    if run.facts["state"] != "done":
        raise AmpError(
            f"'{folder}', shard {run.settings['shard']}, is not finished (it is {run.facts['state']})",
            hint="Give its command again, which goes on where it stopped; then merge",
        )
    return run


def _shard_of(run: Run) -> NodeShare:
    return NodeShare.parse(str(run.settings["shard"]), 1)


def _settings_of(run: Run, out: Path) -> GenerateSettings:
    flat = {**run.settings, "out": out, "shard": None}
    try:
        return restore(
            GenerateSettings,
            {
                **flat,
                "experts": tuple(Expert(**one) for one in flat["experts"]),
                "tuning": FineTuning(**{**flat["tuning"], "more": dict(flat["tuning"]["more"])}),
                "decoding": Decoding(**flat["decoding"]),
            },
        )
    except (TypeError, LookupError, AttributeError) as error:
        raise AmpError(f"The settings in '{run.out / 'run.json'}' are damaged", hint="Make that shard again") from error


def _refuse_difference(first: Run, other: Run) -> None:
    """Refuse two shards that no one run could have made."""
    apart = {"shard", *free_settings(_settings_of(first, first.out))}
    for part in ("settings", "identity"):
        here, there = first.facts[part], other.facts[part]
        for name in sorted({*here, *there} - apart):
            if here.get(name) != there.get(name):
                raise AmpError(
                    f"'{other.out}' was made with {name} = {there.get(name)!r:.200}, "
                    f"'{first.out}' with {here.get(name)!r:.200}",
                    hint=AGAIN,
                )
