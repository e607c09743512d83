"""Run folders of an earlier version (`tests/data/runs_5094e63`) are resumed, judged, re-scored, reported and merged.

Everything goes through the command line, typed in a copy of that folder.
"""

import json
import math
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amp_cli import main
from tests.support.judge_server import JudgeServer

TESTS = Path(__file__).resolve().parent
OLD = TESTS / "data" / "runs_5094e63"
COMMANDS = (OLD / "commands.txt").read_text(encoding="utf-8").splitlines()
JUDGED = ("mmhal", "mrhal", "llava-bench", "llava-bench-wild")
FINISHED = ("pope", "pope-adapter", "pope-theirs", "chair", "amber", "mmhal-local", "mmhal-theirs", "mmhal-twice")
FINISHED += JUDGED
NOTHING_READABLE = ("amber", "amber-killed", "mmhal-local")
"""The embedded model's answers and verdicts there say nothing that can be scored: status 3, and the same numbers."""


def status_of(name: str) -> int:
    return 3 if name in NOTHING_READABLE else 0


Amp = Callable[[str], int]
pytestmark = pytest.mark.slow  # each test goes on with a copy of all folders


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old folders, which is also where commands are typed."""
    folder = tmp_path / "runs"
    shutil.copytree(OLD, folder)
    fill_in(folder, "{ROOT}", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def amp(monkeypatch: pytest.MonkeyPatch) -> Amp:
    """Types a command line and returns its exit status."""

    def type_in(line: str) -> int:
        monkeypatch.setattr(sys, "argv", ["amp", *shlex.split(line)])
        try:
            main.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return type_in


def fill_in(folder: Path, placeholder: str, value: str) -> None:
    for file in folder.rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        if placeholder in text:
            file.write_text(text.replace(placeholder, value), encoding="utf-8")


def line_of(name: str) -> str:
    """The command that made a folder."""
    return next(line for line in COMMANDS if line.endswith(f" --out {name}"))


def line_for(folder: str, *, made_as: str) -> str:
    """The command that made `made_as`, for another folder."""
    return line_of(made_as).removesuffix(made_as) + folder


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines(keepends=True)


def records(file: Path) -> list[Any]:
    return [json.loads(line) for line in lines(file)]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def holds(new: Any, old: Any) -> bool:
    """Whether all that the old value says is in the new one; there may be more names, and other last bits."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and holds(new[name], old[name]) for name in old)
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(holds, new, old))
    if isinstance(old, float) and isinstance(new, int | float):
        return math.isclose(new, old, rel_tol=1e-9, abs_tol=1e-12)
    return bool(new == old)


def mark_first(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first line, so that a line which is made once more is told from one that was kept."""
    first, *others = lines(file)
    record = json.loads(first)
    change(record)
    file.write_text(json.dumps(record, ensure_ascii=False) + "\n" + "".join(others), encoding="utf-8")


def mark_answer(record: dict[str, Any]) -> None:
    record["answers"][0] += " Kept."


def mark_verdict(record: dict[str, Any]) -> None:
    record["text"] += "\nKept."


# --- evaluations ---


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_evaluation_typed_again_asks_nothing_and_says_the_same(name: str, runs: Path, amp: Amp) -> None:
    for marked, mark in (("answers.jsonl", mark_answer), ("verdicts.jsonl", mark_verdict)):
        if (runs / name / marked).exists() and "theirs" not in name:
            mark_first(runs / name / marked, mark)
    before = content(runs / name)
    assert amp(line_of(name)) == status_of(name)
    for file in ("answers.jsonl", "verdicts.jsonl"):  # verdicts may be put in the order of the items
        assert file not in before or sorted(lines(runs / name / file)) == sorted(before[file].decode().splitlines(True))
    assert read(runs / name / "run.json")["state"] == "done"
    if name not in ("pope", "pope-adapter", "chair", "amber"):  # there the marked answer may be scored otherwise
        assert holds(read(runs / name / "scores.json"), json.loads(before["scores.json"]))


@pytest.mark.parametrize("name", FINISHED)
def test_an_old_evaluation_is_scored_again_to_the_same_numbers(name: str, runs: Path, amp: Amp) -> None:
    scores, items = read(runs / name / "scores.json"), records(runs / name / "items.jsonl")
    for file in ("scores.json", "items.jsonl"):
        (runs / name / file).unlink()
    assert amp(f"{shlex.join(line_of(name).split()[:2])} --only score --out {name}") == status_of(name)
    assert holds(read(runs / name / "scores.json"), scores)
    assert holds(records(runs / name / "items.jsonl"), items)


def test_answers_on_disk_are_what_is_scored(runs: Path, amp: Amp) -> None:
    """66 questions, and half of them are true: who always says yes is right in 33."""
    answers = records(runs / "pope/answers.jsonl")
    changed = [json.dumps({**one, "answers": ["Yes."]}) + "\n" for one in answers]
    (runs / "pope/answers.jsonl").write_text("".join(changed))
    assert amp("eval pope --only score --rule official --out pope") == 0
    scores = read(runs / "pope/scores.json")
    assert scores["rule"] == "official"
    assert {name: scores["overall"][name] for name in ("n", "tp", "fp", "tn", "fn")} == {
        **{"n": 66, "tp": 33, "fp": 33, "tn": 0, "fn": 0}
    }


@pytest.mark.parametrize(
    ("name", "made_as", "kept"),
    [("pope-killed", "pope", 20), ("amber-killed", "amber", 4), ("mmhal-answered-killed", "mmhal-answered", 2)],
)
def test_a_killed_evaluation_asks_only_what_is_left(name: str, made_as: str, kept: int, runs: Path, amp: Amp) -> None:
    file = runs / name / "answers.jsonl"
    mark_first(file, mark_answer)
    before = lines(file)[:kept]
    assert amp(line_for(name, made_as=made_as)) == status_of(name)
    assert lines(file)[:kept] == before
    assert [one["id"] for one in records(file)] == [one["id"] for one in records(runs / made_as / "answers.jsonl")]
    assert read(runs / name / "run.json")["state"] == "done"
    assert (runs / name / "scores.json").exists() == (made_as != "mmhal-answered")


@pytest.mark.parametrize("name", JUDGED)
def test_old_answers_are_judged_to_the_same_numbers(name: str, runs: Path, amp: Amp) -> None:
    answered = runs / f"{name}-answered"
    before = (answered / "answers.jsonl").read_bytes()
    replies = line_of(name).split("--judge ")[1].split()[0]
    assert amp(f"eval {name} --only judge --judge {replies} --out {answered.name}") == 0
    assert (answered / "answers.jsonl").read_bytes() == before
    assert holds(read(answered / "scores.json"), read(runs / name / "scores.json"))


@pytest.mark.parametrize("name", [*JUDGED, "mmhal-twice"])
def test_a_half_judged_evaluation_has_only_the_rest_judged(name: str, runs: Path, amp: Amp) -> None:
    folder = runs / f"{name}-half-judged"
    kept = len(lines(folder / "verdicts.jsonl")) - 1
    mark_first(folder / "verdicts.jsonl", mark_verdict)
    before = lines(folder / "verdicts.jsonl")[:kept]
    assert amp(line_for(folder.name, made_as=name)) == 0
    assert lines(folder / "verdicts.jsonl")[:kept] == before
    assert len(lines(folder / "verdicts.jsonl")) == len(lines(runs / name / "verdicts.jsonl"))
    assert holds(read(folder / "scores.json"), read(runs / name / "scores.json"))


def test_of_four_verdicts_that_are_paid_for_two_are_not_paid_again(runs: Path, amp: Amp) -> None:
    folder = runs / "mmhal-endpoint-half-judged"
    with JudgeServer() as server:
        fill_in(folder, "{URL}", server.url)
        assert amp(line_for(folder.name, made_as="mmhal-endpoint").replace("{URL}", server.url)) == 0
        assert len(server.asked) == 2
    scores = read(folder / "scores.json")
    assert scores["score"] == 5  # what the server says to all
    assert scores["judge"]["cost"] == pytest.approx(4 * (100 * 2 + 10 * 8) / 1e6)


def test_an_endpoint_is_asked_only_what_it_has_not_answered(runs: Path, amp: Amp) -> None:
    folder = runs / "chair-endpoint-killed"
    before = lines(folder / "answers.jsonl")[:1]
    with JudgeServer() as server:
        fill_in(folder, "{URL}", server.url)
        assert amp(line_for(folder.name, made_as="chair-endpoint").replace("{URL}", server.url)) == 3  # no object named
        assert len(server.asked) == 3
    assert lines(folder / "answers.jsonl")[:1] == before
    assert read(folder / "scores.json")["n"] == 4


@pytest.mark.parametrize(("name", "made_as", "kept"), [("sweep-killed", "sweep", 4), ("all-killed", "all", 1)])
def test_evaluations_within_one_are_kept_and_the_rest_is_done(
    name: str, made_as: str, kept: int, runs: Path, amp: Amp
) -> None:
    before = {file: file.read_bytes() for file in sorted((runs / name).rglob("answers.jsonl"))}
    assert len(before) == kept
    assert amp(line_for(name, made_as=made_as)) == 0
    assert {file: file.read_bytes() for file in before} == before
    found, expected = (
        {str(file.relative_to(runs / one)) for file in (runs / one).rglob("scores.json")} for one in (name, made_as)
    )
    assert found == expected
    assert read(runs / name / "run.json")["state"] == "done"


@pytest.mark.parametrize(("name", "file"), [("sweep", "sweep.json"), ("all", "all.json")])
def test_a_finished_sweep_or_collection_says_the_same(name: str, file: str, runs: Path, amp: Amp) -> None:
    before = read(runs / name / file)
    (runs / name / file).unlink()
    assert amp(line_of(name)) == 0
    assert holds(read(runs / name / file), before)


def test_old_runs_are_reported_with_the_same_numbers(runs: Path, amp: Amp, capsys: pytest.CaptureFixture[str]) -> None:
    evaluations = "pope pope-adapter chair amber mmhal mmhal-twice mrhal llava-bench all train-mdpo"
    assert amp(f"report {evaluations} --html report.html --json") == 0
    before = read(OLD / "report.json") | {"html": "report.html"}
    for difference in (one for run in before["runs"] for one in run["differences"]):
        del difference["clear"]  # since then every difference is tested, and the tests are corrected for their number
        if difference["p_value"] is None:
            del difference["p_value"]
    assert holds(json.loads(capsys.readouterr().out), before)
    assert (runs / "report.html").stat().st_size > 5000


# --- preferences ---


@pytest.mark.parametrize("name", ["prefs-meg", "prefs-ig"])
def test_finished_preferences_typed_again_are_the_same_bytes(name: str, runs: Path, amp: Amp) -> None:
    before = {file: (runs / name / file).read_bytes() for file in ("candidates.jsonl", "preferences.jsonl")}
    (runs / name / "preferences.jsonl").unlink()
    assert amp(line_of(name)) == 0
    assert {file: (runs / name / file).read_bytes() for file in before} == before


def test_killed_preferences_go_on_with_the_candidates_that_are_left(runs: Path, amp: Amp) -> None:
    folder = runs / "prefs-meg-killed"
    mark_first(folder / "candidates.jsonl", mark_answer)
    before = lines(folder / "candidates.jsonl")[:8]
    assert amp(line_for(folder.name, made_as="prefs-meg")) == 0
    assert lines(folder / "candidates.jsonl")[:8] == before
    wanted = [(source, str(number)) for source in ("first", "second") for number in range(1, 7)]
    assert [(one["source"], one["id"]) for one in records(folder / "candidates.jsonl")] == wanted
    assert read(folder / "stats.json")["items"] == len(records(folder / "preferences.jsonl")) == 6


def test_preferences_killed_in_auto_check_end_as_the_unbroken_ones(runs: Path, amp: Amp) -> None:
    folder = runs / "prefs-meg-killed-in-auto-check"
    before = lines(folder / "autocheck.jsonl")[:3]
    assert amp(line_for(folder.name, made_as="prefs-meg")) == 0
    assert lines(folder / "autocheck.jsonl")[:3] == before
    assert (folder / "candidates.jsonl").read_bytes() == (runs / "prefs-meg/candidates.jsonl").read_bytes()
    made, unbroken = (records(runs / name / "preferences.jsonl") for name in (folder.name, "prefs-meg"))
    texts = [[[level["source"], level["answers"]] for level in one["levels"]] for one in unbroken]
    assert [[[level["source"], level["answers"]] for level in one["levels"]] for one in made] == texts
    scores = [level["score"] for one in unbroken for level in one["levels"][1:]]
    assert [level["score"] for one in made for level in one["levels"][1:]] == pytest.approx(scores, abs=1e-4)


def test_an_endpoint_that_is_an_expert_is_asked_only_what_is_left(runs: Path, amp: Amp) -> None:
    folder = runs / "prefs-endpoint-killed"
    before = lines(folder / "candidates.jsonl")[:3]
    with JudgeServer() as server:
        fill_in(folder, "{URL}", server.url)
        assert amp(line_for(folder.name, made_as="prefs-endpoint").replace("{URL}", server.url)) == 0
        assert len(server.asked) == 3
    assert set(before) <= set(lines(folder / "candidates.jsonl"))  # as they are, in one order with the others
    assert len(records(folder / "candidates.jsonl")) == 12


@pytest.mark.slow
def test_an_incremental_run_fine_tunes_only_what_is_left(runs: Path, amp: Amp) -> None:
    folder = runs / "prefs-ig-killed"
    first = content(folder / "incremental" / "ig-1")
    assert amp(line_for(folder.name, made_as="prefs-ig")) == 0
    assert content(folder / "incremental" / "ig-1") == first
    assert (folder / "incremental/ig-2/adapter/adapter_model.safetensors").exists()
    sources = {one["source"] for one in records(folder / "candidates.jsonl")}
    assert sources == {"ig-2", "ig-1", "base"}
    assert read(folder / "stats.json")["items"] == 6


def test_imported_and_mixed_preferences_are_left_as_they_are(runs: Path, amp: Amp) -> None:
    before = (runs / "imported" / "preferences.jsonl").read_bytes()
    started = read(runs / "imported" / "run.json")["started"]
    assert amp(line_of("imported")) == 0
    assert (runs / "imported" / "preferences.jsonl").read_bytes() == before
    assert read(runs / "imported" / "run.json")["started"] == started
    assert amp("prefs stats mixed/preferences.jsonl") == 0
    assert amp("prefs export mixed/preferences.jsonl --to amp-authors --out exported.json") == 0
    assert len(read(runs / "exported.json")) == len(lines(runs / "mixed/preferences.jsonl"))


# --- training ---


@pytest.mark.parametrize("name", ["train-mdpo", "train-sft", "train-from-adapter"])
def test_a_finished_training_typed_again_trains_nothing(
    name: str, runs: Path, amp: Amp, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(runs / name)
    assert amp(line_of(name) + " --json") == 0
    result = json.loads(before["result.json"])
    told = json.loads(capsys.readouterr().out)
    assert {key: told[key] for key in ("steps", "loss", "accuracy", "adapter")} == {
        key: result[key] for key in ("steps", "loss", "accuracy", "adapter")
    }
    after = content(runs / name)
    del before["run.json"], after["run.json"]
    assert {file: after[file] for file in before} == before
    assert {*after} - {*before} <= {"curves.png", "curves-dark.png"}  # drawn where it is missing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-mdpo", "train-sft"])
def test_a_killed_training_goes_on_from_its_checkpoint(
    name: str, runs: Path, amp: Amp, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of four steps are in the checkpoint; the third was logged, and is taken again."""
    folder = runs / f"{name}-killed"
    before = lines(folder / "metrics.jsonl")[:2]
    assert amp(line_for(folder.name, made_as=name) + " --json") == 0
    assert lines(folder / "metrics.jsonl")[:2] == before
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 4
    assert told["resumed_from"].endswith("checkpoint-2")
    metrics, unbroken = records(folder / "metrics.jsonl"), records(runs / name / "metrics.jsonl")
    assert [one["step"] for one in metrics] == [1, 2, 3, 4]
    assert [one["loss"] for one in metrics] == pytest.approx([one["loss"] for one in unbroken], rel=1e-3)
    assert read(folder / "adapter/adapter_config.json")["r"] == 2


def test_an_old_training_run_is_merged(runs: Path, amp: Amp, capsys: pytest.CaptureFixture[str]) -> None:
    assert amp("merge-lora train-mdpo --out merged-now --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["base"] == "tiny"
    assert told["max_logit_difference"] < 0.1
    assert (runs / "merged-now/model.safetensors").exists()


@pytest.mark.parametrize("name", ["merged", "converted-model", "converted-adapter"])
def test_a_folder_that_was_made_before_is_recognised(
    name: str, runs: Path, amp: Amp, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(TESTS / "golden/llava/model", runs / "llava")
    before = content(runs / name)
    assert amp(line_of(name) + " --json") == 0
    assert content(runs / name) == before
    told, facts = json.loads(capsys.readouterr().out), read(runs / name / "run.json")
    assert all(told[fact] == facts[fact] for fact in ("max_logit_difference", "tensors") if facts.get(fact) is not None)


# --- settings ---


@pytest.mark.parametrize(
    ("name", "change", "setting"),
    [
        ("pope", "--num-beams 2", "num_beams"),
        ("pope-killed", "--prompt-suffix x", "prompt_suffix"),
        ("chair", "--adapter train-sft", "adapter"),
        ("mmhal-half-judged", "--judge replay:replies/mmhal-twice.jsonl", "judge.file"),
        ("mmhal-half-judged", "--judge local:tiny", "judge"),
        ("prefs-meg", "--seed 1", "seed"),
        ("prefs-meg-killed", "--max-new-tokens 25", "decoding"),
        ("prefs-ig", "--finetune-steps 3", "tuning"),
        ("mixed", "--held-out 0.4", "held_out"),
        ("imported", "--ties drop", ""),
        ("train-mdpo", "--set lora_alpha=8", "lora_alpha"),
        ("train-mdpo-killed", "--method sft", "method"),
        ("sweep", "--limit 1", "benchmarks"),
        ("all", "--adapter train-sft", "adapter"),
        ("merged", "--dtype bfloat16", ""),
    ],
)
def test_another_setting_in_an_old_folder_is_refused_by_its_name(
    name: str, change: str, setting: str, runs: Path, amp: Amp, capsys: pytest.CaptureFixture[str]
) -> None:
    made_as = name.removesuffix("-killed").removesuffix("-half-judged")
    before = content(runs / name)
    assert amp(line_for(name, made_as=made_as) + f" {change}") == 1
    told = capsys.readouterr().err
    assert f"'{name}'" in told
    assert setting in told
    after = content(runs / name)
    assert {file for file in before if before[file] != after[file]} <= {"verdicts.jsonl"}  # a torn end is cut off


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pope", "--batch-size 3 --rule official"),
        ("pope", f"--data {OLD.as_posix()}/data/world"),
        ("mmhal", "--judge-concurrency 2 --rule strict"),
        ("prefs-meg", "--concurrency 3 --device cpu"),
        ("train-mdpo", "--set keep_checkpoints=3 --tokens-per-step 100 --reference online"),
    ],
)
def test_a_setting_that_changes_no_result_may_differ(name: str, change: str, runs: Path, amp: Amp) -> None:
    assert amp(line_of(name) + f" {change}") == 0
