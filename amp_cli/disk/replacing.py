"""What may be replaced: the files that an earlier run of the same command wrote, and nothing else.

A folder is emptied by the names that its command gives its files, never as a whole, and not at all where it holds
anything else or where something that is read lies in it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.lock import LOCK, wait_for_worker
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError

NAME = "run.json"
EMPTYING = "emptying"
"""The state of a run whose files are being removed; a kill in between leaves it, and the next start goes on."""
SHOWN = 5

_PROCESSOR = (
    "README.md", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.*", "spiece.model",
    "sentencepiece*.model", "model*.safetensors", "adapter_config.json", "adapter_model.*", "non_lora_trainables.*",
)  # fmt: skip
_CHECKPOINT = (
    *_PROCESSOR,
    "complete.json", "trainer_state.json", "training_args.bin", "optimizer.*", "scaler.pt",
    "scheduler.pt", "rng_state*.pth", "latest", "zero_to_fp32.py", "optimizer_*/*", "pytorch_model_fsdp*/*",
    "global_step*/*", "mm_projector.*",
)  # fmt: skip
_ADAPTERS = ("adapter", "adapter-best", "checkpoints/checkpoint-*", "checkpoints/best-*")
_TOWERS = ("vision_tower", "*clip*", "*siglip*", "*/*clip*", "*/*siglip*")
_MODEL = (
    *_PROCESSOR,
    "config.json", "generation_config.json", "model.safetensors.index.json", "part-*.safetensors", "modeling_*.py",
    "appended_rows.safetensors", "configuration_*.py", "processing_*.py", "image_processing_*.py",
    "original/*.json", "original/*.model",
    *(f"{tower}/{name}" for tower in _TOWERS for name in ("model.safetensors", "*config.json")),
)  # fmt: skip
_EVAL = (
    "answers.jsonl", "rejected.jsonl", "verdicts.jsonl", "unscored.jsonl", "items.jsonl", "scores.json",
    "answering/answering.*", "answering/answers.*.jsonl",
)  # fmt: skip
_WORLD = ("images/*.png", "coco_pope_*.json", "instances.json", "synonyms.json", "train.json")
WRITTEN: dict[str, tuple[str, ...]] = {
    "train": (
        "items.jsonl", "held_out.jsonl", "rejected.jsonl", "encodable.json", "metrics.jsonl", "result.json",
        "train.log", "curves.png", "curves-dark.png", "worker.lock", "checkpoints/README.md", "checkpoints/runs/*/*",
        *(f"{place}/{name}" for place in _ADAPTERS for name in _CHECKPOINT),
    ),
    "generate-prefs": (
        "candidates.jsonl", "autocheck.jsonl", "rejected.jsonl", "preferences.jsonl", "preferences.html",
        "stats.json", "answering/*/answering.*", "answering/*/answers.*.jsonl", "incremental/ig-*.json",
        "incremental/ig-*.jsonl",
    ),
    "prefs import": ("preferences.jsonl", "sources.jsonl", "rejected.jsonl", f"images/{'[0-9a-f]' * 32}*"),
    "prefs mix": ("preferences.jsonl", "held_out.jsonl", "rejected.jsonl", "mix"),
    "merge-lora": _MODEL,
    "convert": _MODEL,
    "compare": (
        "answers.jsonl", "rejected.jsonl", "compare.html", "answering/*/answering.*", "answering/*/answers.*.jsonl",
    ),
    "eval all": ("all.json",),
    "eval sweep": ("sweep.json", "sweep.png"),
    "ablate": (
        "ablation.json", "ablation.md", "ablation.html", "ablation.png", "probe.json", "job-*.log",
        "cells/*/*/cell.json", "cells/*/*/failed.json", "cells/*/*.lock",
        "pool/*.lock", "pool/*/pool.json", "pool/*/levels-*.jsonl", "pool/*/levels-*.lock",
        *(f"pool/*/world/{part}/{name}" for part in ("train", "test") for name in _WORLD),
    ),
    "run": ("pipeline.yaml", "report.html"),
    "init": tuple(f"world/{part}/{name}" for part in ("train", "test") for name in _WORLD),
    "quickstart": (
        "report.html", "quickstart.json",
        *(f"world/{part}/{name}" for part in ("train", "test") for name in _WORLD),
    ),
}  # fmt: skip
"""The files of each command by name, below the run folder, beside `run.json`; a file in the making is NAME.part."""
NESTED: dict[str, dict[str, str]] = {
    "generate-prefs": {"incremental/ig-*": "train"},
    "eval all": {"*": "eval "},
    "eval sweep": {"step-*/*": "eval "},
    "ablate": {
        "cells/*/*/train": "train",
        "cells/*/*/*": "eval ",
        "probe/*": "train",
        "pool/*/described": "eval ",
        "pool/*/prefs": "generate-prefs",
    },
    "run": {
        f"{round_}{name}": command
        for round_ in ("", "round-*/")
        for name, command in (
            ("imported", "prefs import"),
            ("prefs", "generate-prefs"),
            ("train", "train"),
            ("merged", "merge-lora"),
            ("train.imported", "prefs import"),
            ("train.held-out.imported", "prefs import"),
        )
    }
    | {"eval/*/*": "eval "},
    "init": {"described": "eval "},
    "quickstart": {
        "described": "eval ",
        "prefs": "generate-prefs",
        "train/*": "train",
        "merged": "merge-lora",
        "eval/*/*": "eval ",
    },
}
"""Where a command's folder holds runs that it starts itself, and how their commands begin."""


def facts_in(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `run.json`.

    Raises:
        AmpError: it is somebody else's, or cannot be read.
    """
    facts = own_facts(folder)
    if facts is None:
        raise AmpError(f"'{folder}' is not a run folder: amp did not write its {NAME}", hint="Choose another --out")
    return facts


def own_facts(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's `run.json`; None where there is none, or one that amp did not write.

    Raises:
        AmpError: it cannot be read.
    """
    facts = read_json(folder / NAME) if (folder / NAME).is_file() else None
    wanted = {"amp_version": str, "command": str, "settings": dict}
    is_ours = isinstance(facts, dict) and all(isinstance(facts.get(name), kind) for name, kind in wanted.items())
    return facts if is_ours else None


def replaceable(folder: Path, command: str, inputs: Iterable[Path | None]) -> list[Path]:
    """Return the files of `command` in a folder, which a new run of it may replace.

    Args:
        inputs: all that the new run reads, files and folders; None stands for what was not given.

    Raises:
        AmpError: the folder holds another command's run or files that this command did not write, or an input.
    """
    refuse_inputs(folder, inputs)
    facts = facts_in(folder)
    if facts["command"] != command:
        raise AmpError(
            f"'{folder}' holds a run of `{facts['command']}`, not of `{command}`",
            hint="Choose a new folder with --out; only a run of the same command is replaced",
        )
    ours, others = _sorted_out(folder, command)
    refuse_others(folder, command, others)
    return ours


def refuse_others(folder: Path, command: str, others: list[Path]) -> None:
    """Refuse to replace a folder with files of others.

    Raises:
        AmpError: naming the first few.
    """
    if others:
        raise AmpError(
            f"'{folder}' holds files that `amp {command}` did not write: {_listed(folder, others)}",
            hint="Move them away, or choose another --out; nothing was replaced",
        )


def leftovers(folder: Path, command: str) -> list[Path]:
    """Return what a kill left of `command` in a folder that is in the making.

    Raises:
        AmpError: it holds anything else.
    """
    ours, others = _sorted_out(folder, command)
    has_begun = any((folder / name).is_file() for name in (NAME, f"{NAME}.part"))
    if others or (ours and not has_begun) or ((folder / NAME).is_file() and facts_in(folder)["command"] != command):
        raise AmpError(
            f"'{folder}' is in the way: it holds files that amp did not write: {_listed(folder, others or ours)}",
            hint="Move it, or choose another --out",
        )
    return ours


def refuse_inputs(out: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse to replace a file or folder that holds what is read, links followed.

    Raises:
        AmpError: naming the input.
    """
    place = out.resolve()
    for given in inputs:
        for path in () if given is None else _with_links(given):
            if path.resolve().is_relative_to(place):
                raise AmpError(
                    f"--overwrite would delete '{path}', which is an input",
                    hint="Choose a new folder with --out; nothing was replaced",
                )


def empty_run(folder: Path, files: Iterable[Path]) -> None:
    """Remove these files of a run, `run.json` last, and the folders that are empty then."""
    files = list(files)
    for lock in files:
        if lock.suffix == ".lock":
            disk_errors_explained(partial(wait_for_worker, lock), lock)
    facts = folder / NAME
    if facts.exists():
        known = facts_in(folder)
        kept = {name: known[name] for name in ("amp_version", "command")}  # the rest may hold what cannot be written
        write_json(facts, {**kept, "settings": {}, "state": EMPTYING})
    files = [file for file in files if file != facts]
    remove_files(folder, [*files, *([facts] if facts.exists() else [])])


def remove_files(folder: Path, files: Iterable[Path]) -> None:
    """Remove files below a folder, in turn, and each folder in it that is empty then."""
    for file in files:
        disk_errors_explained(partial(file.unlink, missing_ok=True), file)
    for place, _, _ in os.walk(folder, topdown=False):
        below = Path(place)
        if below != folder and not any(below.iterdir()):
            below.rmdir()


def _with_links(given: Path) -> Iterator[Path]:
    """Yield an input and the links in it: a folder elsewhere may hold links to files here."""
    yield given
    if given.is_dir():
        yield from (one for one in given.iterdir() if one.is_symlink())


def _sorted_out(folder: Path, command: str) -> tuple[list[Path], list[Path]]:
    """Return a run's own files, and all others in its folder."""
    return _sorted(folder, lambda file: _wrote(folder, file, command))


def sort_files(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return a folder's files that have one of these names (finished or in the making), and all others."""
    return _sorted(folder, lambda file: any(_fits(_finished(file), name) for name in (LOCK, *names)))


def _sorted(folder: Path, is_written: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    ours: list[Path] = []
    others: list[Path] = []
    for file in _files_below(folder):
        is_ours = file.is_file() and not file.is_symlink() and is_written(file.relative_to(folder))
        (ours if is_ours else others).append(file)  # no link is a file of ours
    return [file for file in ours if file != folder / LOCK], others  # a killed run below leaves its own behind


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place) / name for name in sorted(files))
        yield from (Path(place) / name for name in sorted(folders) if (Path(place) / name).is_symlink())


def _wrote(folder: Path, file: Path, command: str) -> bool:
    """Tell whether a command gives a file of its folder this name, itself or by a run that it starts there."""
    parts = _finished(file)
    if parts in ((NAME,), (LOCK,)) or any(_fits(parts, name) for name in _names_of(command)):
        return True
    for place, start in NESTED.get(command, {}).items():
        depth = place.count("/") + 1
        if len(parts) > depth and _fits(parts[:depth], place):
            inner = folder.joinpath(*file.parts[:depth])
            own = _command_of(inner)
            return own.startswith(start if own else "") and _wrote(inner, Path(*file.parts[depth:]), own)
    return False


def _command_of(folder: Path) -> str:
    """Return the command of a run folder; '' for a run that has only just begun."""
    facts = own_facts(folder)
    return "" if facts is None else str(facts["command"])


def _names_of(command: str) -> tuple[str, ...]:
    is_evaluation = command.startswith("eval ") and command not in WRITTEN
    return _EVAL if is_evaluation else WRITTEN.get(command, ())


def _finished(file: Path) -> tuple[str, ...]:
    """Return the parts of a path as they are called when they are finished."""
    return tuple(part.removesuffix(".part") for part in file.parts)


def _fits(parts: tuple[str, ...], name: str) -> bool:
    wanted = name.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _listed(folder: Path, files: list[Path]) -> str:
    shown = ", ".join(f"'{file.relative_to(folder)}'" for file in files[:SHOWN])
    return shown + (f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else "")
