"""Experts shared by several processes: the same bytes as one process, also when a worker was killed on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.asking.answerer import Running
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.experts import FOLDER, Expert
from amp_cli.preferences.generate import GenerateSettings, generate_preferences
from tests.support.workers import wait_for_answers, workers

ROOT = Path(__file__).resolve().parents[2]
ASKED = "What is the colour of this, and what is behind it?"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = []
    for number in range(40):
        name = f"{number}.png"
        Image.new("RGB", (16, 16), (6 * number, 255 - 6 * number, 90)).save(tmp_path / name)
        question = ASKED[: 20 + number % 7]
        item = {"id": f"item-{number}", "images": [name], "questions": [question], "answers": ["A plain colour."]}
        lines.append(item)
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def generate(
    data: Path, out: Path, processes: int | None, *names: str, max_new_tokens: int = 12, **decoding: Any
) -> None:
    generate_preferences(
        GenerateSettings(
            data=data,
            out=out,
            method="meg",
            experts=tuple(Expert(name=name, model="tiny") for name in names),
            loading=Loading(device="cpu"),
            decoding=Decoding(max_new_tokens=max_new_tokens, **decoding),
            running=Running(batch_size=4, num_processes=processes),
            auto_check=False,
        )
    )


def same_files(one: Path, other: Path) -> bool:
    names = ("candidates.jsonl", "preferences.jsonl", "rejected.jsonl", "stats.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.slow
def test_two_processes_write_byte_for_byte_what_one_writes(data: Path, tmp_path: Path) -> None:
    generate(data, tmp_path / "one", None, "big", num_beams=2)
    generate(data, tmp_path / "two", 2, "big", num_beams=2)
    assert same_files(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "two" / FOLDER / "1").exists()


LONG = 120
"""Tokens of an answer where a worker is killed: a worker has seconds to go when its first answers are on disk."""
CALL = """
import sys
from pathlib import Path
from amp_cli.errors import AmpError
from tests.preferences.test_generate_processes import LONG, generate
try:
    generate(Path(sys.argv[1]), Path(sys.argv[2]), 2, "sampled", temperature=0.7, max_new_tokens=LONG)
except AmpError as error:
    sys.exit(f"{error.message} | {error.hint}")
"""


@pytest.mark.slow
def test_sampled_texts_are_those_of_one_process_though_a_worker_was_killed(data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    generate(data, one, None, "sampled", temperature=0.7, max_new_tokens=LONG)
    first = subprocess.Popen(
        [sys.executable, "-c", CALL, str(data), str(two)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_answers(two / FOLDER / "1", first)
    workers(first)[0].kill()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1, said
    assert "the same command goes on" in said
    assert 0 < len((two / "candidates.jsonl").read_text().splitlines()) < 40
    generate(data, two, 2, "sampled", temperature=0.7, max_new_tokens=LONG)
    assert same_files(one, two)
    assert Run.read(two).facts["state"] == "done"


def test_more_processes_than_gpus_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amp_cli.asking.processes.visible_gpus", lambda: ["0"])
    with pytest.raises(AmpError, match="2 processes need 2 GPUs"):
        generate_preferences(
            GenerateSettings(
                data=data,
                out=tmp_path / "out",
                method="meg",
                experts=(Expert(name="big", model="tiny"),),
                running=Running(num_processes=2),
                auto_check=False,
            )
        )
    assert not (tmp_path / "out").exists()
