"""Damaged inputs, seeded: a command that works, one of the files that it reads, and what is done to that file.

The files are those of `tests/data/runs_5094e63`, so that each reader has whole ones. Whatever a file holds, the command
ends by itself: status 0 or 3, or 1 or 2 with a sentence and what to do. `fault_of` says where it did not.
"""

import contextlib
import gzip
import io
import json
import os
import random
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli import main
from tests.support.prefs_formats import EXAMPLES, write_json, write_lines

OLD = Path(__file__).resolve().parents[1] / "data" / "runs_5094e63"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "llava" / "model"
PREFS, SOURCES, PAIRS = "data/train/prefs.jsonl", "data/train/data.json", "data/train/pairs.jsonl"
JUDGED = {"mmhal": "data/mmhal/response_template.json", "mrhal": "data/mrhal/some/where/dialogues.json"}
LLAVA = tuple(
    f"data/llava-bench/{name}"
    for name in ("qa90_gpt4_answer.jsonl", "rule.json", "caps_boxes_coco2014_val_80.jsonl", "qa90_questions.jsonl")
)
WILD = tuple(f"data/llava-bench-wild/{name}.jsonl" for name in ("questions", "answers_gpt4", "context"))
AMBER = tuple(
    f"data/amber/{n}" for n in ("query/query_all.json", "annotations.json", "relation.json", "safe_words.txt")
)
POPE = "data/world/coco_pope_random.json"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
BASE = (*(f"llava/base/{name}" for name in CONFIGS), "llava/base/tokenizer.model", "llava/base/model.safetensors")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
UNUSED = ("killed", "half-judged", "killed-in-auto-check")
RUN = ("run.json", "answers.jsonl", "items.jsonl", "scores.json")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A command line that ends well in a copy of the old folders, and the files it reads.

    `is_quick`: it neither loads a model nor starts a process. `status`: 3 where the old answers say nothing.
    """

    line: str
    files: tuple[str, ...]
    is_quick: bool = True
    status: int = 0


def _scoring(name: str, data: str, *files: str, more: str = "", status: int = 0) -> Reader:
    line = f"eval {name} --data {data} --answers {name}/answers.jsonl {more} --out new"
    return Reader(line=line, files=(f"{name}/answers.jsonl", *files), status=status)


def _again(name: str, *files: str) -> Reader:
    line = f"eval {name} --only score --out {name} --json"
    return Reader(line=line, files=tuple(f"{name}/{file}" for file in ("run.json", "answers.jsonl", *files)))


READERS = (
    Reader(line=f"prefs import {PAIRS} --out new --json", files=(PAIRS,)),
    Reader(line=f"prefs import {PAIRS} --out imported --overwrite", files=("imported/run.json",)),
    Reader(line=f"prefs import {PREFS} --out new", files=(PREFS,)),
    *(
        Reader(
            line=f"prefs import formats/{name}.json{ending} --format {name} --out new",
            files=(f"formats/{name}.json{ending}",),
        )
        for name in EXAMPLES
        for ending in ("", "l")
    ),
    Reader(line=f"prefs check {PREFS} --json", files=(PREFS,)),
    Reader(line=f"prefs stats {PREFS} --json", files=(PREFS,)),
    Reader(line=f"prefs view {PREFS} --out new.html --json", files=(PREFS,)),
    Reader(line=f"prefs mix {PREFS}:2 {PAIRS}:1 --out new", files=(PREFS, PAIRS)),
    Reader(line=f"prefs export {PREFS} --to trl --out new/a.jsonl", files=(PREFS,)),
    Reader(line=f"prefs export {PREFS} --to hub --out new", files=(PREFS,)),
    Reader(
        line=f"prefs export {PREFS} --to llama-factory --out mixed/a.jsonl", files=("mixed/dataset_info.json", PREFS)
    ),
    _scoring("pope", "data/world", POPE),
    _scoring("chair", "data/world", "data/world/instances.json", "data/world/synonyms.json"),
    _scoring("amber", "data/amber", *AMBER, status=3),
    _scoring("mmhal", "data/mmhal", "mmhal/verdicts.jsonl", JUDGED["mmhal"], more="--verdicts mmhal/verdicts.jsonl"),
    _scoring("mmhal", "data/mmhal", "replies/mmhal.jsonl", more="--judge replay:replies/mmhal.jsonl"),
    _scoring("mrhal", "data/mrhal", JUDGED["mrhal"], "replies/mrhal.jsonl", more="--judge replay:replies/mrhal.jsonl"),
    _scoring("llava-bench", "data/llava-bench", *LLAVA, more="--judge replay:replies/llava-bench.jsonl"),
    _scoring("llava-bench-wild", "data/llava-bench-wild", *WILD, more="--judge replay:replies/llava-bench.jsonl"),
    _again("pope"),
    _again("chair"),
    _again("mmhal", "verdicts.jsonl"),
    Reader(
        line="report pope pope-adapter --json",
        files=tuple(f"{run}/{f}" for run in ("pope", "pope-adapter") for f in RUN),
    ),
    Reader(line="report mmhal mmhal-twice --html new.html", files=tuple(f"mmhal/{file}" for file in RUN)),
    Reader(
        line="report chair amber mrhal llava-bench llava-bench-wild --json",
        files=tuple(f"{run}/items.jsonl" for run in ("chair", "amber", "mrhal", "llava-bench", "llava-bench-wild")),
    ),
    Reader(line="report train-mdpo pope --html new.html", files=("train-mdpo/run.json", "train-mdpo/metrics.jsonl")),
    Reader(
        line=f"train --size recipe.yaml --accelerate-config accelerate.yaml --prefs {PREFS} --dry-run --out new",
        files=("recipe.yaml", "accelerate.yaml", PREFS),
        is_quick=False,
    ),
    Reader(
        line=f"generate-prefs {SOURCES} --method meg --expert a=tiny --expert b=tiny --num-beams 1 "
        "--max-new-tokens 2 --out new",
        files=(SOURCES,),
        is_quick=False,
    ),
    Reader(
        line=f"generate-prefs {SOURCES} --method meg --expert first=tiny --expert second=tiny+train-sft --num-beams 2 "
        "--max-new-tokens 24 --out prefs-meg",
        files=tuple(f"prefs-meg/{name}" for name in ("run.json", "candidates.jsonl", "autocheck.jsonl", "stats.json")),
        is_quick=False,
    ),
    Reader(
        line="merge-lora train-mdpo --out new",
        files=("train-mdpo/run.json", *(f"train-mdpo/adapter/{name}" for name in ADAPTER)),
        is_quick=False,
    ),
    Reader(line="convert llava/base --to hf --out new", files=BASE, is_quick=False),
    Reader(
        line="convert llava/adapter --to hf --out new",
        files=tuple(f"llava/adapter/{name}" for name in ADAPTER),
        is_quick=False,
    ),
    Reader(
        line="eval pope --model llava/base --adapter llava/adapter --data data/world --limit 1 "
        "--max-new-tokens 1 --out new",
        files=(*BASE, *(f"llava/adapter/{name}" for name in ADAPTER)),
        is_quick=False,
    ),
    Reader(
        line="eval sweep train-mdpo --data data/world --limit 2 --prompt-suffix '' --out sweep",
        files=(
            "sweep/run.json",
            "sweep/step-000002/pope/run.json",
            "train-mdpo/checkpoints/checkpoint-2/complete.json",
        ),
        is_quick=False,
    ),
)

# --- what is done to a file ---

Damage = Callable[[Path, random.Random], None]
DEEP = 200_000
HUGE = b"9" * 5000
OTHERS = (
    b"3", b'"x"', b"null", b"true", b"[]", b"{}", b"[[]]", b"[null]", b"[1, 2]", b'{"a": 1}', b'[{"a": 1}]', b"{", b"[",
    b'"', b"NaN", b"- a\n- b\n", b"a: &x [1]\nb: *x\n",
)  # fmt: skip
VALUES: dict[str, Any] = {
    "null": None, "list": [], "object": {}, "number": 7, "negative number": -1, "text": "x", "empty text": "",
    "blank": " \n", "true": True, "NaN": float("nan"), "infinity": float("inf"), "1e308": 1e308, "2^80": 2**80,
    "half a character": "half \ud83d", "NUL": "a\0b", "path upwards": "../../../../etc/passwd", "list of null": [None],
    "object of object": {"a": {"b": 1}}, "long text": "long " * 20_000, "escape": "\x1b[2J\x1b]0;x\x07",
}  # fmt: skip


def _put(content: bytes) -> Damage:
    return lambda path, choose: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _changed(change: Callable[[bytes, random.Random], bytes]) -> Damage:
    return lambda path, choose: _write(path, change(path.read_bytes(), choose))


def _cut(content: bytes, choose: random.Random) -> bytes:
    return content[: choose.randrange(len(content) or 1)]


def _flip(content: bytes, choose: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(choose.choice((1, 3, 20)) if changed else 0):
        changed[choose.randrange(len(changed))] = choose.randrange(256)
    return bytes(changed)


def _without_some(content: bytes, choose: random.Random) -> bytes:
    start = choose.randrange(len(content) or 1)
    return content[:start] + content[start + choose.randrange(1, 40) :]


def _insert(what: bytes) -> Damage:
    def insert(content: bytes, choose: random.Random) -> bytes:
        place = choose.randrange(len(content) + 1)
        return content[:place] + what + content[place:]

    return _changed(insert)


def _first_number(what: bytes) -> Damage:
    def replace(content: bytes, choose: random.Random) -> bytes:
        places = [
            place for place in range(1, len(content)) if content[place - 1 : place] in b":[ " and _digit(content, place)
        ]
        if not places:
            return what
        start = choose.choice(places)
        end = next((place for place in range(start, len(content)) if not _digit(content, place)), len(content))
        return content[:start] + what + content[end:]

    return _changed(replace)


def _digit(content: bytes, place: int) -> bool:
    return content[place : place + 1].isdigit()


def twisted(value: Any, choose: random.Random, new: Any) -> Any:
    """Return a JSON value with one place in it, wherever, taken out or made into `new`."""
    if isinstance(value, dict) and value and choose.random() < 0.85:
        name = choose.choice(sorted(value))
        if choose.random() < 0.15:
            return {key: inner for key, inner in value.items() if key != name}
        return {**value, name: twisted(value[name], choose, new)}
    if isinstance(value, list) and value and choose.random() < 0.85:
        place = choose.randrange(len(value))
        return [*value[:place], twisted(value[place], choose, new), *value[place + 1 :]]
    return new


def _twist(new: Any) -> Damage:
    """Change one place of one record (or of the whole, where the file is one value)."""

    def twist(content: bytes, choose: random.Random) -> bytes:
        text = content.decode("utf-8", "replace")
        with contextlib.suppress(ValueError):
            return json.dumps(twisted(json.loads(text), choose, new)).encode()
        lines = text.splitlines()
        place = choose.randrange(len(lines) or 1)
        with contextlib.suppress(ValueError, IndexError):
            lines[place] = json.dumps(twisted(json.loads(lines[place]), choose, new))
        return "\n".join([*lines, ""]).encode()

    return _changed(twist)


def _instead(make: Callable[[Path], None]) -> Damage:
    def replace(path: Path, choose: random.Random) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return replace


DAMAGES: dict[str, Damage] = {
    "empty": _put(b""),
    "blank": _put(b" \n\r\n\t"),
    "NUL bytes": _put(b"\0" * 5000),
    "another value": lambda path, choose: _write(path, choose.choice(OTHERS)),
    "binary": _put(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8),
    "cut off": _changed(_cut),
    "bytes changed": _changed(_flip),
    "bytes missing": _changed(_without_some),
    "twice": _changed(lambda content, choose: content + content),
    "byte-order mark": _changed(lambda content, choose: b"\xef\xbb\xbf" + content),
    "UTF-16": _changed(lambda content, choose: content.decode("utf-8", "replace").encode("utf-16")),
    "UTF-32": _changed(lambda content, choose: content.decode("utf-8", "replace").encode("utf-32")),
    "not UTF-8": _insert(b"\xe9\xff"),
    "gzip": _changed(lambda content, choose: gzip.compress(content)),
    "gzip, cut off": _changed(lambda content, choose: _cut(gzip.compress(content), choose)),
    "gzip, changed": _changed(lambda content, choose: _flip(gzip.compress(content), choose)),
    "brackets": _put(b"[" * DEEP),
    "braces": _put(b'{"a":' * DEEP),
    "brackets inside": _insert(b"[" * DEEP),
    "nested": lambda path, choose: _twist(json.loads("[" * 400 + "]" * 400))(path, choose),
    "5,000 digits": _first_number(HUGE),
    "NaN for a number": _first_number(b"NaN"),
    "infinity for a number": _first_number(b"-Infinity"),
    "1e999": _first_number(b"1e999"),
    "a folder": _instead(lambda path: path.mkdir()),
    "a pipe": _instead(lambda path: os.mkfifo(path)),
    "a device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "missing": _instead(lambda path: None),
    **{f"a field is {name}": _twist(value) for name, value in VALUES.items()},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One damaged file of one command."""

    reader: Reader
    file: str
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} | {self.file} | amp {self.reader.line} | seed {self.seed}"


def bad_inputs(count: int, *, seed: int, quick: bool) -> Iterator[BadInput]:
    """Yield `count` inputs, every kind equally often; `quick` ones load no model."""
    choose = random.Random(seed)
    places = [(reader, file) for reader in READERS if reader.is_quick or not quick for file in reader.files]
    deck: list[tuple[Reader, str]] = []
    for number in range(count):
        if not deck:
            deck = choose.sample(places, len(places))
        reader, file = deck.pop()
        yield BadInput(
            reader=reader, file=file, kind=list(DAMAGES)[number % len(DAMAGES)], seed=choose.randrange(10**9)
        )


# --- typing the command ---


def copy_old_folders(folder: Path, *, only: tuple[str, ...] = ()) -> Path:
    """Copy what the readers need: the old folders, a LLaVA checkpoint, and settings as YAML."""
    for name in only or [one.name for one in OLD.iterdir() if one.is_dir() and not one.name.endswith(UNUSED)]:
        shutil.copytree(OLD / name, folder / name)
    for file in folder.rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        if "{ROOT}" in text:
            file.write_text(text.replace("{ROOT}", str(folder)), encoding="utf-8")
    for name in ("base", "adapter", "openai"):
        shutil.copytree(GOLDEN / name, folder / "llava" / name, ignore=shutil.ignore_patterns("*.bin"))
    (folder / "formats").mkdir()
    for name, records in EXAMPLES.items():
        write_lines(folder / "formats" / f"{name}.jsonl", records)
        write_json(folder / "formats" / f"{name}.json", records)
    templates = Path(main.__file__).parents[1] / "templates"
    shutil.copyfile(templates / "accelerate" / "cpu.yaml", folder / "accelerate.yaml")
    shutil.copyfile(templates / "recipes" / "tiny.yaml", folder / "recipe.yaml")
    (folder / "mixed" / "dataset_info.json").write_text('{"other": {"file_name": "b.json"}}')
    return folder


def copy_named(whole: Path, needed: str, folder: Path) -> Path:
    """Copy those of the folders and files that stand in `needed`, and the data that runs name."""
    folder.mkdir()
    for place in whole.iterdir():
        if place.name in needed or place.name == "data":
            (shutil.copytree if place.is_dir() else shutil.copyfile)(place, folder / place.name)
    return folder


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: exit status, what it printed, and the traceback of an error of ours."""

    status: int
    out: str
    err: str
    traceback: str


def type_in(line: str, folder: Path) -> Ended:
    """Run a command line in this process, in `folder`."""
    out, err, fault, status = io.StringIO(), io.StringIO(), "", 0
    words, here = sys.argv, Path.cwd()
    sys.argv = ["amp", *shlex.split(line)]
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        status, fault = -1, traceback.format_exc()
    finally:
        os.chdir(here)
        sys.argv = words
    return Ended(status=status, out=out.getvalue(), err=err.getvalue(), traceback=fault)


def fault_of(ended: Ended, line: str) -> str:
    """Say what a command that ended did not keep of the promise; '' where it kept it."""
    if ended.traceback:
        return "traceback: " + ended.traceback.strip().splitlines()[-1][:200]
    if ended.status not in (0, 1, 2, 3):
        return f"status {ended.status}"
    if "Traceback (most recent call last)" in ended.err:
        return "traceback in the output"
    if ended.status == 1 and ("Error: " not in ended.err or "Hint: " not in ended.err):
        return "an error without `Error:` and `Hint:`"
    if "--json" in shlex.split(line):
        try:
            said = json.loads(ended.out)
        except ValueError:
            return f"not one JSON object on stdout: {ended.out[:80]!r}"
        if ended.status in (1, 2) and set(said) != {"error", "hint"}:
            return "the error is not on stdout"
    return ""


def try_out(bad: BadInput, folder: Path) -> tuple[str, Ended]:
    """Damage the file in `folder` and type the command; return what was not held, and how it ended."""
    DAMAGES[bad.kind](folder / bad.file, random.Random(bad.seed))
    ended = type_in(bad.reader.line, folder)
    return fault_of(ended, bad.reader.line), ended
