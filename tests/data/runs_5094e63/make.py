"""Makes the run folders: `python make.py FOLDER`, with commit 5094e63 on PYTHONPATH and `data/`, `replies/` in FOLDER.

It types the commands of `commands.txt`, cuts some of the folders back to what a kill leaves, throws away what is large
and never read again, and writes {ROOT} for FOLDER and {URL} for the server that stood in for judge and model.
"""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from judge_server import JudgeServer  # of that commit's tests/

from amp_cli import main

HERE = Path(__file__).resolve().parent
LLAVA = HERE.parent.parent / "golden" / "llava" / "model"
SCORED = ("items.jsonl", "scores.json")
RANKED = ("autocheck.jsonl", "preferences.jsonl", "stats.json")
TRAINED = ("checkpoints/checkpoint-4", "adapter", "result.json", "curves.png")

KILLED: list[tuple[str, str, dict[str, int], tuple[str, ...]]] = [
    # made from, becomes, file -> whole lines that are left before a torn one, gone
    ("pope", "pope-killed", {"answers.jsonl": 20}, SCORED),
    ("chair-endpoint", "chair-endpoint-killed", {"answers.jsonl": 1}, SCORED),
    ("amber", "amber-killed", {"answers.jsonl": 4}, SCORED),
    ("mmhal-answered", "mmhal-answered-killed", {"answers.jsonl": 2}, ()),
    ("mmhal", "mmhal-half-judged", {"verdicts.jsonl": 2}, (*SCORED, "unscored.jsonl")),
    ("mmhal-twice", "mmhal-twice-half-judged", {"verdicts.jsonl": 5}, (*SCORED, "unscored.jsonl")),
    ("mmhal-endpoint", "mmhal-endpoint-half-judged", {"verdicts.jsonl": 2}, (*SCORED, "unscored.jsonl")),
    ("mrhal", "mrhal-half-judged", {"verdicts.jsonl": 1}, (*SCORED, "unscored.jsonl")),
    ("llava-bench", "llava-bench-half-judged", {"verdicts.jsonl": 2}, (*SCORED, "unscored.jsonl")),
    ("llava-bench-wild", "llava-bench-wild-half-judged", {"verdicts.jsonl": 2}, (*SCORED, "unscored.jsonl")),
    ("prefs-meg", "prefs-meg-killed", {"candidates.jsonl": 8}, RANKED),
    ("prefs-meg", "prefs-meg-killed-in-auto-check", {"autocheck.jsonl": 3}, RANKED[1:]),
    ("prefs-endpoint", "prefs-endpoint-killed", {"candidates.jsonl": 3}, RANKED),
    (
        "prefs-ig",
        "prefs-ig-killed",
        {},
        (*RANKED, "candidates.jsonl", "incremental/ig-2", "incremental/ig-2.json", "incremental/ig-2.jsonl"),
    ),
    ("train-mdpo", "train-mdpo-killed", {"metrics.jsonl": 3}, TRAINED),
    ("train-sft", "train-sft-killed", {"metrics.jsonl": 3}, TRAINED),
    ("sweep", "sweep-killed", {}, ("sweep.json", "sweep.png", "step-000004")),
    ("all", "all-killed", {}, ("all.json", "chair")),
]
KNOWN_AT_THE_END = ("result", "results", "scores", "rule", "data", "seconds", "best", "done", "failed", "left_out")
NOT_NEEDED = (
    "*/preferences.html",
    "*/worker.lock",
    "*/checkpoints/README.md",
    "sweep*/*.png",
    "train-[fs]*/curves.png",
    "merged/*[!n].json",
    "merged/config.json",
    "merged/*.safetensors",
    "merged/*.jinja",
    "converted-model/[!r]*",
    "prefs-*/incremental/*/checkpoints",
    "prefs-*/incremental/*/worker.lock",
    "train-from-adapter/checkpoints",
    "train-sft/checkpoints",
    "train-mdpo/checkpoints/*/*.pt",
    "train-mdpo/checkpoints/*/*.pth",
    "chair-endpoint",
    "mmhal-endpoint",
    "prefs-endpoint",
    "llava",
)


def type_in(line: str) -> None:
    sys.argv = ["amp", *shlex.split(line)]
    print("$", shlex.join(sys.argv), flush=True)
    try:
        main.main()
    except SystemExit as stop:
        if stop.code:
            raise


def kill(run: Path, kept: dict[str, int], gone: tuple[str, ...]) -> None:
    """Leave what a SIGKILL would have left."""
    for name, count in kept.items():
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[:count]) + lines[count][:20])
    for name in gone:
        remove(run / name)
    facts = json.loads((run / "run.json").read_text())
    facts = {name: fact for name, fact in facts.items() if name not in KNOWN_AT_THE_END}
    (run / "run.json").write_text(json.dumps(facts | {"state": "running", "ended": None}, indent=2) + "\n")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def type_all() -> str:
    """Type every command and return the address of the server that some of them asked."""
    shutil.copytree(LLAVA, "llava")
    with JudgeServer() as server:
        for line in (HERE / "commands.txt").read_text().splitlines():
            if not line.startswith("#"):
                type_in(line.replace("{URL}", server.url))
        return server.url


def tidy(root: Path, url: str) -> None:
    """Cut back, throw away, and leave no place of this machine in the texts."""
    for finished, name, kept, gone in KILLED:
        shutil.copytree(finished, name)
        kill(Path(name), kept, gone)
    for pattern in NOT_NEEDED:
        for path in Path().glob(pattern):
            remove(path)
    for path in Path().rglob("*.json*"):
        if "checkpoints" not in path.parts:  # their sizes are noted, and their hash in what used them
            text = path.read_text().replace(str(root), "{ROOT}").replace(url, "{URL}")
            path.write_text(text.replace(str(Path(main.__file__).parent.parent), "{CODE}"))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    tidy(Path.cwd(), type_all())
