"""Answering shared by several processes: the same bytes as one process, whatever was killed on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw

from amp_cli.asking import processes
from amp_cli.asking.processes import plan_processes
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from tests.support.settings import eval_settings
from tests.support.workers import wait_for_answers, workers

ROOT = Path(__file__).resolve().parents[2]
CALL = """
import json, sys
from pathlib import Path
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.errors import AmpError
from tests.support.settings import eval_settings
settings = json.loads(sys.argv[1])
settings |= {name: Path(settings[name]) for name in ("out", "data")}
try:
    run_benchmark(eval_settings(**settings))
except AmpError as error:
    sys.exit(f"{error.message} | {error.hint}")
"""


def settings(data: Path, out: Path, **changes: object) -> EvalSettings:
    values: dict[str, object] = {
        "benchmark": "chair",
        "model": "tiny",
        "device": "cpu",
        "num_beams": 2,
        "max_new_tokens": 12,
        "batch_size": 2,
        **changes,
    }
    return eval_settings(data=data, out=out, **values)


def pope(folder: Path, count: int) -> Path:
    """Images with a square each, and questions of different lengths about them."""
    folder.mkdir()
    lines = []
    for number in range(count):
        image = Image.new("RGB", (32, 32), (8 * number % 256, 200, 90))
        ImageDraw.Draw(image).rectangle((4, 4, 8 + number % 20, 20), fill=(200, 9 * number % 256, 0))
        image.save(folder / f"{number}.png")
        question = "Is there a dog in the image?" if number % 3 else "Is there a red square to the left of a circle?"
        label = "yes" if number % 2 else "no"
        lines.append({"question_id": number, "image": f"{number}.png", "text": question, "label": label})
    (folder / "coco_pope_random.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


def call(asked: dict[str, object]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CALL, json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- what is planned -------------------------------------------------------------------------------------------------


def test_one_process_per_gpu_and_one_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "visible_gpus", lambda: ["0", "1", "2"])
    planned = plan_processes("auto", None)
    assert planned is not None
    assert (planned.processes, planned.config_file.stem) == (3, "multi_gpu")
    assert plan_processes("auto", 1) is None
    assert plan_processes("cpu", None) is None
    planned = plan_processes("cpu", 2)
    assert planned is not None
    assert (planned.processes, planned.config_file.stem) == (2, "multi_cpu")
    monkeypatch.setattr(processes, "visible_gpus", list)
    assert plan_processes("auto", None) is None


def test_more_processes_than_gpus_or_one_device_for_several_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "visible_gpus", lambda: ["0"])
    data = pope(tmp_path / "data", 2)
    for device, said in (("auto", "2 processes need 2 GPUs"), ("cuda:0", "cuda:0 is one device")):
        with pytest.raises(AmpError, match=said):
            run_benchmark(settings(data, tmp_path / "out", benchmark="pope", device=device, num_processes=2))
    assert not (tmp_path / "out").exists()


# --- what they answer ------------------------------------------------------------------------------------------------


def test_answers_that_killed_workers_left_are_taken_over_once_and_torn_ones_dropped(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "answers.jsonl")
    log.append({"id": "a", "answers": ["1"]})
    locks = ["answering.0.lock", "answering.1.lock", "answering.lock"]  # the last is an earlier version's
    for lock in locks:
        (tmp_path / lock).touch()
    (tmp_path / "answering.json").write_text("{}")  # what the killed command asked
    (tmp_path / "answers.0.jsonl").write_text('{"id": "a", "answers": ["1"]}\n{"id": "b", "answers": ["2"]}\n{"id": "')
    (tmp_path / "answers.1.jsonl").write_text('{"id": "c", "answers": ["3"]}\n{"id": "d", "reason": "no image"}\n')
    refused: list[tuple[str, str]] = []
    processes.take_over(
        tmp_path,
        on_answer=lambda answer: log.append(answer.to_json()),
        on_reject=lambda item_id, reason: refused.append((item_id, reason)),
        done=log.ids(),
    )
    assert [record["id"] for record in log.read()] == ["a", "b", "c"]
    assert refused == [("d", "no image")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*locks, "answers.jsonl"]


@pytest.mark.slow
def test_two_processes_answer_byte_for_byte_as_one_even_after_kills(tmp_path: Path) -> None:
    data = pope(tmp_path / "data", 150)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run_benchmark(settings(data, alone, benchmark="pope"))
    assert (alone / "answers.jsonl").read_text().count('"probabilities": [{"yes": ') == 150
    asked: dict[str, object] = {
        **{"benchmark": "pope", "model": "tiny", "device": "cpu", "num_beams": 2, "max_new_tokens": 12},
        **{"batch_size": 2, "num_processes": 2, "data": str(data), "out": str(shared)},
    }
    first = call(asked)
    wait_for_answers(shared, first)
    both = workers(first)
    assert len(both) == 2
    both[0].kill()
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "Answering stopped" in said
    assert "the same command goes on" in said
    after_worker = len((shared / "answers.jsonl").read_text().splitlines())
    assert 0 < after_worker < 150

    second = call(asked)
    wait_for_answers(shared, second)
    left_over = workers(second)
    second.kill()
    second.wait()
    psutil.wait_procs(left_over, timeout=10)
    assert not any(one.is_running() for one in left_over)  # nobody goes on for a parent that is gone
    kept = [path.read_text().count("\n") for path in shared.glob("answers*.jsonl")]
    assert after_worker < sum(kept)

    third = call(asked)
    _, said = third.communicate(timeout=300)
    assert third.returncode == 0, said
    for name in ("answers.jsonl", "items.jsonl", "scores.json"):
        assert (shared / name).read_bytes() == (alone / name).read_bytes(), name
    assert not list(shared.glob("answers.*.jsonl"))
    facts = Run.read(shared).facts
    assert (facts["processes"], facts["state"]) == (2, "done")
    assert facts["model"] == Run.read(alone).facts["model"]


@pytest.mark.slow
def test_a_image_that_one_process_cannot_use_is_rejected_and_the_rest_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pope(tmp_path / "data", 6)
    monkeypatch.setattr("amp_cli.benchmarks.files.check_image", lambda path: None)  # goes bad after the check
    (data / "3.png").write_bytes((data / "3.png").read_bytes()[:50])
    result = run_benchmark(settings(data, tmp_path / "out", benchmark="pope", num_processes=2))
    assert len(result.rejected) == 1
    assert "3.png" in next(iter(result.rejected.values()))
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_the_workers_own_words_become_the_error(tmp_path: Path) -> None:
    data = pope(tmp_path / "data", 2)
    with pytest.raises(AmpError, match=r"There is no chat template 'none\.jinja'"):
        run_benchmark(settings(data, tmp_path / "out", benchmark="pope", num_processes=2, template="none.jinja"))
