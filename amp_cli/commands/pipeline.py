"""Does the stages of a pipeline one after the other, each once: what is done is known from `run.json` in `out`."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.commands.pipeline_file import REPORT, Pipeline, Stage
from amp_cli.disk.jsonl import content_hash, write_text
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run
from amp_cli.disk.settings import free_settings
from amp_cli.errors import AmpError
from amp_cli.launching import as_shells_say, killed_by, stop_family, worker_environment
from amp_cli.models.resolve import is_folder_name

COMMAND = "run"
PIPELINE = "pipeline.yaml"
"""A copy of the file that was run, in `out`."""
DONE, TO_DO, GOES_ON, AFRESH = "done", "to do", "goes on", "afresh"
LEFT_OUT = 3
"""Exit status of a command that had to leave items out."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended, and the object that it printed."""

    status: int
    result: dict[str, Any] = field(default_factory=dict)


def start_command(words: Sequence[str]) -> Outcome:
    """Run an `amp` command in a process of its own, with --json; its talk and bars go where ours go."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "amp_cli.commands.stage", *words, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # its end also tells the command that this process is gone
        text=True,
        encoding="utf-8",
        env={**os.environ, **worker_environment()},
        start_new_session=True,  # so that Ctrl-C reaches it once, from us
    )
    assert process.stdout is not None  # PIPE
    try:
        with ui.left_to_another():
            said = process.stdout.read()
            status = as_shells_say(process.wait())
    except BaseException:
        stop_family(process)
        raise
    try:
        result = json.loads(said)
    except json.JSONDecodeError:  # it came to a bad end
        result = {}
    return Outcome(status=status, result=result if isinstance(result, dict) else {})


def run_stages(
    pipeline: Pipeline,
    *,
    again: Sequence[str] = (),
    overwrite: bool = False,
    start: Callable[[Sequence[str]], Outcome] = start_command,
) -> dict[str, Any]:
    """Do all that is not done, and return what `amp run --json` prints.

    Args:
        again: stages to do afresh, and all that follows from them. overwrite: remove all that was done before.
        start: runs the words of a command.

    Raises:
        AmpError: a stage failed, or was made with other settings or files than it would be now.
    """
    begin = time.monotonic()
    redone = pipeline.with_followers(again)
    inputs = [pipeline.source.path, *(path for one in pipeline.stages for path in paths_read(pipeline, one).values())]
    settings = {"base": pipeline.base}
    with Run.start(pipeline.out, command=COMMAND, settings=settings, overwrite=overwrite, inputs=inputs) as run:
        records = {**run.facts.get("stages", {})}
        for stage in redone:
            records[stage.name] = {"old": _begun_at(stage)}
        run.record(stages=records)
        for stage in pipeline.stages:  # what cannot go on is refused before anything is done
            standing_of(pipeline, stage, records)
        write_text(pipeline.out / PIPELINE, pipeline.text)
        for number, stage in enumerate(pipeline.stages, start=1):
            standing = standing_of(pipeline, stage, records)
            title = f"{stage.name} ({number} of {len(pipeline.stages)})"
            if standing == DONE:
                ui.note(f"Stage {title} is done")
                continue
            ui.note(f"\nStage {title}")
            records[stage.name] = _done(pipeline, stage, records, standing, start)
            run.record(stages=records)
        left_out = [stage.name for stage in pipeline.stages if records[stage.name]["status"] == LEFT_OUT]
        run.finish(left_out=left_out)
    return {
        "out": str(pipeline.out),
        "stages": {
            stage.name: {
                "command": command_line(stage),
                **{name: records[stage.name][name] for name in ("status", "seconds", "result")},
            }
            for stage in pipeline.stages
        },
        "rounds": rounds_of(pipeline, records),
        "report": str(pipeline.out / REPORT) if (pipeline.out / REPORT).is_file() else None,
        "left_out": left_out,
        "seconds": round(time.monotonic() - begin, 1),
    }


def command_line(stage: Stage, *more: str) -> str:
    """Return a stage's command as it can be pasted."""
    return shlex.join(["amp", *stage.words, *more])


def _done(
    pipeline: Pipeline,
    stage: Stage,
    records: Mapping[str, Any],
    standing: str,
    start: Callable[[Sequence[str]], Outcome],
) -> dict[str, Any]:
    """Run a stage's command, and return its record."""
    more = ("--overwrite",) if standing == AFRESH else ()
    ui.step(command_line(stage, *more))
    begin = time.monotonic()
    outcome = start([*stage.words, *more])
    if outcome.status not in (0, LEFT_OUT):
        raise _failure(stage, outcome)
    return {
        "options": _options_kept(pipeline, stage),
        "inputs": _inputs_now(pipeline, stage),
        "status": outcome.status,
        "seconds": round(time.monotonic() - begin, 1),
        "result": outcome.result,
    }


def _failure(stage: Stage, outcome: Outcome) -> AmpError:
    error, hint = outcome.result.get("error"), outcome.result.get("hint")
    if isinstance(error, str) and isinstance(hint, str):
        if "start afresh with --overwrite" in hint:
            hint = f"{hint.partition('--overwrite')[0]}--again {stage.name}"
        return AmpError(f"Stage {stage.name}: {error}", hint=hint)
    how = killed_by(outcome.status) or f"it ended with status {outcome.status}; what it said stands above"
    return AmpError(
        f"Stage {stage.name} is not done: {how}", hint=f"The same command goes on; alone: {command_line(stage)}"
    )


def standing_of(pipeline: Pipeline, stage: Stage, records: Mapping[str, Any]) -> str:
    """Return how a stage stands: DONE, TO_DO, GOES_ON, or AFRESH where older results of it have to go first.

    Raises:
        AmpError: it was done with other settings, or with files that have changed since.
    """
    record = records.get(stage.name, {})
    begun = _begun_at(stage)
    if "old" in record and begun is not None and record["old"] == begun:
        return AFRESH
    if "options" not in record:
        return TO_DO if begun is None else GOES_ON
    if not _is_there(stage):
        return TO_DO
    before, now = record["options"], _options_kept(pipeline, stage)
    changed = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    bound = [name for name in changed if name not in _free(pipeline, stage)]
    if stage.name == REPORT:  # made in a moment, and nothing is made of it
        return DONE if not changed and record["inputs"] == _inputs_now(pipeline, stage) else TO_DO
    again = f"Make it and what follows from it again with --again {stage.name}, or choose another --out"
    if bound:
        was, would = (_shown(of, bound[0]) for of in (before, now))
        error = AmpError(f"'{stage.place or stage.name}' was made with {was}, not {would}", hint=again)
        raise pipeline.source.wrong((*stage.key, *bound[0].split(".")), error)
    if any("options" not in records.get(name, {}) for name in stage.needs):
        return GOES_ON  # what it is made of is made again: whether it still fits is for its command to say
    for name, digest in _inputs_now(pipeline, stage).items():
        if name in record["inputs"] and record["inputs"][name] != digest:
            path = paths_read(pipeline, stage).get(name, name)
            raise AmpError(f"'{stage.place}' was made of another '{path}' than is there now", hint=again)
    return GOES_ON if changed else DONE


def _free(pipeline: Pipeline, stage: Stage) -> Collection[str]:
    """Return the options that may differ when a stage goes on; files may lie elsewhere, with the same content."""
    free = set() if stage.settings is None else {*free_settings(stage.settings)}
    paths = {name.partition(".")[0] for name in paths_read(pipeline, stage)}
    return {*free, *(f"set.{name}" for name in free), *paths, "num_processes", "accelerate_config", "verify"}


def _options_kept(pipeline: Pipeline, stage: Stage) -> dict[str, Any]:
    """Return a stage's options as its record holds them: those of a mapping flat, and wherever `out` may lie."""
    flat: dict[str, Any] = {}
    for name, value in stage.options.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}

    ours = re.compile(rf"(?<![^=+]){re.escape(str(pipeline.out))}(?=/|$)")  # also within NAME=BASE+ADAPTER

    def kept(value: Any) -> str:
        return ours.sub("{out}", str(value))

    return {
        name: [kept(one) for one in value] if isinstance(value, list) else kept(value) for name, value in flat.items()
    }


def _shown(options: Mapping[str, Any], name: str) -> str:
    return f"{name} = {options[name]!r:.100}" if name in options else f"no {name}"


def _begun_at(stage: Stage) -> str | None:
    """Return when what lies in a stage's folder was begun; None where nothing does."""
    file = None if stage.place is None else stage.place / NAME
    if file is None or not file.is_file():
        return None
    return str(Run.read(file.parent).facts.get("started", ""))


def _is_there(stage: Stage) -> bool:
    if stage.place is None:
        return True
    if stage.name == REPORT:
        return stage.place.is_file()
    return (stage.place / NAME).is_file() and Run.read(stage.place).facts.get("state") == "done"


def paths_read(pipeline: Pipeline, stage: Stage) -> dict[str, Path]:
    """Return the files and folders of the user's that a stage's options name: by option, those of a list NAME.PLACE."""
    found: dict[str, Any] = {}
    for name, value in stage.values.items():
        listed = isinstance(value, list)
        found |= {f"{name}.{place}": one for place, one in enumerate(value)} if listed else {name: value}
    if stage.key == ("prefs_import",) and is_folder_name(found["source"]):
        found["source"] = Path(found["source"])
    paths = {name: one for name, one in found.items() if isinstance(one, Path)}
    return {name: one for name, one in paths.items() if one != stage.place and not one.is_relative_to(pipeline.out)}


def _inputs_now(pipeline: Pipeline, stage: Stage) -> dict[str, str]:
    """Return what a stage is made of: the digest of each file, and of what each earlier stage has made."""
    digests = {name: content_hash(path) for name, path in paths_read(pipeline, stage).items() if path.is_file()}
    for name in stage.needs:
        earlier = pipeline.stage(name)
        assert earlier.place is not None  # a download is not read by name
        results = [earlier.place / file for file in ("preferences.jsonl", "sources.jsonl", "scores.json")]
        file = next((file for file in results if file.is_file()), None)
        digests[name] = (_begun_at(earlier) or "") if file is None else content_hash(file)
    return digests


def rounds_of(pipeline: Pipeline, records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each round made and learned, as far as it is done; nothing where there are no rounds."""
    rounds = []
    for number in range(1, (pipeline.rounds or 0) + 1):
        prefs, train = (records.get(f"round-{number}/{name}", {}).get("result") for name in ("prefs", "train"))
        scores = {
            stage.key[1]: records[stage.name].get("result")
            for stage in pipeline.stages
            if stage.name.startswith(f"eval/round-{number}/") and stage.name in records
        }
        rounds.append({"round": number, "prefs": prefs, "train": train, "scores": scores})
    return rounds


def show_results(pipeline: Pipeline, result: Mapping[str, Any]) -> None:
    """Print what came of it for people: rounds, then scores side by side as `amp report` shows them."""
    from amp_cli.commands.report import show
    from amp_cli.report.runs import gather, name_runs

    if result["rounds"]:
        rows = [
            (
                one["round"],
                *(None if one["prefs"] is None else one["prefs"].get(name) for name in ("items", "reordered")),
                *(None if one["train"] is None else one["train"].get(name) for name in ("steps", "loss", "accuracy")),
            )
            for one in result["rounds"]
        ]
        ui.table("Rounds", ("round", "items", "reordered", "steps", "loss", "accuracy"), rows)
    if pipeline.evaluated:
        show(gather(name_runs(pipeline.evaluated)))
    elif not result["rounds"]:
        rows = [(name, ui.duration(one["seconds"])) for name, one in result["stages"].items()]
        ui.table("Stages", ("stage", "took"), rows)
    for name in result["left_out"]:
        ui.warn(f"Stage {name} left items out; see its files in '{pipeline.out / name}'")
    if result["report"] is not None:
        ui.hint(f"open {result['report']} in a browser")
