"""Pipelines for tests: a small file, and commands that only leave behind what the next stage looks for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from amp_cli.commands.pipeline import Outcome, run_stages
from amp_cli.commands.pipeline_file import Pipeline, read_pipeline
from amp_cli.disk.jsonl import write_json, write_text
from amp_cli.disk.run import Run
from amp_cli.main import app

ROOT = get_command(app)


def pipeline_of(folder: Path, **changes: Any) -> Path:
    """Write a pipeline over `data.json` and a POPE folder, which are there; None leaves a key out."""
    data, pope = folder / "data.json", folder / "pope"
    if not data.exists():
        data.write_text('[{"id": "1", "images": [], "questions": ["What?"], "answers": ["A dog."]}]')
        pope.mkdir(exist_ok=True)
        line = '{"image": "0.png", "text": "Is there a dog in the image?", "label": "yes"}'
        (pope / "coco_pope_random.json").write_text(line)
        (pope / "0.png").write_bytes(b"")
    values = {
        "base": "tiny",
        "out": str(folder / "out"),
        "generate_prefs": {"data": str(data), "method": "meg", "expert": ["own={model}"]},
        "train": {"set": {"max_steps": 4}},
        "merge_lora": None,
        "eval": {"pope": {"data": str(pope)}},
    }
    left_out = {name for name, value in changes.items() if value is None}
    path = folder / "pipeline.yaml"
    kept = {name: value for name, value in (values | changes).items() if name not in left_out}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path


def read(path: Path) -> Pipeline:
    return read_pipeline(path, ROOT)


class Commands:
    """Stands in for the commands: each leaves a finished run folder with the result that the next stage looks for.

    Args:
        ends: (words) -> Outcome or an exception, in place of a good end; None where it ends well.
    """

    def __init__(self, ends: Callable[[Sequence[str]], Any] = lambda words: None) -> None:
        self.typed: list[str] = []
        self.ends = ends
        self.started = 0

    def __call__(self, words: Sequence[str]) -> Outcome:
        self.typed.append(" ".join(words))
        end = self.ends(words)
        if isinstance(end, BaseException):
            raise end
        if words[0] == "report":
            write_text(Path(_after("--html", words)), "<html>")
            return Outcome(status=0)
        if end is not None and end.status == 1:
            return Outcome(status=end.status, result=end.result)
        out = Path(_after("--out", words))
        self.started += 1
        command = " ".join(words[: 2 if words[0] == "eval" else 1])
        with Run.start(out, command=command, settings={}, overwrite="--overwrite" in words, inputs=()) as run:
            if not run.resumed:  # the clock has seconds only
                run.record(started=f"{run.facts['started']}, the {self.started}. run")
            if words[0] == "generate-prefs":
                (out / "preferences.jsonl").write_text("a line\n")
            if words[0] == "eval":
                write_json(out / "scores.json", {})
            run.finish()
        return end or Outcome(status=0, result={"items": 1, "steps": 4})

    def stages(self) -> list[str]:
        """Return the last part of each folder that was written since the last call."""
        places = [_after("--html" if line.startswith("report") else "--out", line.split()) for line in self.typed]
        self.typed = []
        return [Path(place).name for place in places]


def _after(flag: str, words: Sequence[str]) -> str:
    return words[list(words).index(flag) + 1]


def run_file(path: Path, commands: Commands, **options: Any) -> dict[str, Any]:
    return run_stages(read(path), start=commands, **options)
