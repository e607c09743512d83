"""Run folders of commit 5094e63 go on: resumed, judged, scored again, reported and merged as they lie there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.main import app

OLD = Path(__file__).parent / "data" / "runs_5094e63"
SMALL = "--num-beams 1 --max-new-tokens 8"
POPE = f"eval pope --model tiny --data pope --image-root val2014 {SMALL}"
MEG = (
    "generate-prefs data.json --method meg --expert big=tiny --expert small=tiny --max-new-tokens 24 --num-beams 1 "
    "--encoder world"
)
IG = (
    "generate-prefs more.json --method ig --base tiny --finetune-data more.json --levels 4 --finetune-steps 1 "
    "--finetune-batch-size 2 --finetune-lora-r 4 --finetune-set quantization=none --max-new-tokens 24 --num-beams 1 "
    "--encoder world"
)
TRAIN = (
    "train --size tiny --prefs prefs.jsonl --set max_steps=4 --set save_steps=2 --set logging_steps=1 --set lora_r=4 "
    "--set global_batch_size=2"
)
DATA = {"mmhal": "mmhal", "mrhal": "mrhal", "llava-bench": "llava"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the commands were given in, as the current one."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    for file in folder.rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("{ROOT}", str(folder)), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def amp(line: str, *, status: int = 0) -> str:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == status, f"{line}\n{done.output}\n{done.exception!r}"
    return done.stdout


def refusal(line: str) -> str:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 1
    return str(done.exception)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def run_json(folder: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(Path(folder, "run.json").read_text(encoding="utf-8"))
    return facts


def scores(folder: str) -> Any:
    return json.loads(Path(folder, "scores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("pope", POPE),
        ("pope-after", f"{POPE} --adapter runs/train"),
        ("pope-adopted", "eval pope --answers runs/pope/answers.jsonl --data pope --rule official"),
        ("chair", "eval chair --model tiny --data chair --image-root val2014 --num-beams 1 --max-new-tokens 40"),
        *(
            (name, f"eval {name} --model tiny --data {data} {SMALL} --judge replay:replies-{name}.jsonl")
            for name, data in DATA.items()
        ),
    ],
)
def test_a_finished_evaluation_given_again_has_the_same_items_and_scores(here: Path, folder: str, line: str) -> None:
    out = here / "runs" / folder
    before = content(out)
    amp(f"{line} --out runs/{folder}")
    after = content(out)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"run.json"}
    old, new = json.loads(before["run.json"]), json.loads(after["run.json"])
    for name in ("command", "settings", "identity", "seed", "scores", "judging"):
        assert new.get(name) == old.get(name), name


@pytest.mark.parametrize("folder", ["pope", "chair", "mmhal", "mrhal", "llava-bench"])
def test_an_old_evaluation_is_scored_again_to_the_same_numbers(here: Path, folder: str) -> None:
    before = content(here / "runs" / folder)
    (here / "runs" / folder / "scores.json").unlink()
    amp(f"eval {folder} --out runs/{folder} --only score")
    after = content(here / "runs" / folder)
    assert {name for name in before if before[name] != after[name]} <= {"run.json"}


def test_old_answers_are_scored_by_the_other_rule(here: Path) -> None:
    amp("eval pope --out runs/pope --only score --rule official")
    official, adopted = scores("runs/pope"), scores("runs/pope-adopted")
    assert official["rule"] == "official"
    assert official["splits"] == adopted["splits"]


@pytest.mark.slow
def test_a_killed_evaluation_keeps_its_answers_and_makes_the_others(here: Path) -> None:
    kept = lines(here / "runs/pope-killed/answers.jsonl")[:5]
    amp(f"{POPE} --out runs/pope-killed")
    answers = lines(here / "runs/pope-killed/answers.jsonl")
    assert answers[:5] == kept
    assert {json.loads(one)["id"] for one in answers} == {
        json.loads(one)["id"] for one in lines(here / "runs/pope/answers.jsonl")
    }
    assert len(answers) == 18
    assert run_json("runs/pope-killed")["state"] == "done"
    assert scores("runs/pope-killed")["overall"]["n"] == 18


@pytest.mark.parametrize("name", sorted(DATA))
def test_an_answered_evaluation_is_judged(here: Path, name: str) -> None:
    answers = (here / f"runs/{name}-answered/answers.jsonl").read_bytes()
    amp(f"eval {name} --out runs/{name}-answered --only judge --judge replay:replies-{name}.jsonl")
    assert scores(f"runs/{name}-answered") == scores(f"runs/{name}")
    assert (here / f"runs/{name}-answered/answers.jsonl").read_bytes() == answers


@pytest.mark.parametrize("name", sorted(DATA))
def test_a_judging_that_lacks_a_reply_still_lacks_it_and_is_not_mixed_with_other_replies(here: Path, name: str) -> None:
    line = f"eval {name} --model tiny --data {DATA[name]} {SMALL} --out runs/{name}-part"
    before = content(here / f"runs/{name}-part")
    amp(f"{line} --judge replay:part-{name}.jsonl", status=3)
    after = content(here / f"runs/{name}-part")
    assert {file for file in before if before[file] != after[file]} <= {"run.json"}
    assert "judge.file" in refusal(f"{line} --judge replay:replies-{name}.jsonl")


def test_a_killed_judging_keeps_its_verdicts(here: Path) -> None:
    kept = lines(here / "runs/mmhal-killed/verdicts.jsonl")[:3]
    amp(f"eval mmhal --model tiny --data mmhal {SMALL} --judge replay:replies-mmhal.jsonl --out runs/mmhal-killed")
    verdicts = lines(here / "runs/mmhal-killed/verdicts.jsonl")
    assert verdicts[:3] == kept
    assert len(verdicts) == 8
    assert scores("runs/mmhal-killed") == scores("runs/mmhal")


def test_old_runs_are_reported_side_by_side(here: Path) -> None:
    said = json.loads(amp("report runs/pope runs/pope-after --html report.html --json"))
    assert "pope" in json.dumps(said)
    assert "pope-after" in (here / "report.html").read_text(encoding="utf-8")
    amp("report runs/chair runs/mmhal runs/mrhal runs/llava-bench")


def test_finished_preferences_given_again_are_byte_for_byte_the_same(here: Path) -> None:
    for folder, line in (("prefs", MEG), ("prefs-ig", IG)):
        before = content(here / "runs" / folder)
        amp(f"{line} --out runs/{folder}")
        after = content(here / "runs" / folder)
        for name in ("candidates.jsonl", "preferences.jsonl"):
            assert after[name] == before[name], (folder, name)
        old, new = json.loads(before["stats.json"]), json.loads(after["stats.json"])
        assert {name: new[name] for name in old} == old


@pytest.mark.slow
def test_killed_candidates_are_kept_and_the_others_made(here: Path) -> None:
    kept = lines(here / "runs/prefs-killed/candidates.jsonl")[:7]
    amp(f"{MEG} --out runs/prefs-killed")
    candidates = lines(here / "runs/prefs-killed/candidates.jsonl")
    assert candidates[:7] == kept
    assert len(candidates) == 10  # 5 items, 2 experts
    assert len(lines(here / "runs/prefs-killed/preferences.jsonl")) == 5


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(here: Path) -> None:
    kept = lines(here / "runs/train-killed/metrics.jsonl")[:2]
    result = json.loads(amp(f"{TRAIN} --out runs/train-killed --json"))
    assert result["steps"] == 4
    assert result["resumed_from"] == "checkpoint-2"
    metrics = lines(here / "runs/train-killed/metrics.jsonl")
    assert metrics[:2] == kept
    unbroken = [json.loads(one)["loss"] for one in lines(here / "runs/train/metrics.jsonl")]
    assert [json.loads(one)["loss"] for one in metrics] == pytest.approx(unbroken, rel=1e-3)


def test_a_finished_training_given_again_trains_nothing(here: Path) -> None:
    before = (here / "runs/train/adapter/adapter_model.safetensors").read_bytes()
    assert json.loads(amp(f"{TRAIN} --out runs/train --json"))["steps"] == 4
    assert (here / "runs/train/adapter/adapter_model.safetensors").read_bytes() == before
    amp(f"{TRAIN.replace('max_steps=4', 'max_steps=2')} --method sft --out runs/sft")


@pytest.mark.slow
def test_an_old_adapter_is_merged_and_an_old_merge_is_known(here: Path) -> None:
    amp("merge-lora runs/train --out merged")
    assert (here / "merged" / "model.safetensors").stat().st_size > 2_000_000
    said = json.loads(amp("merge-lora runs/train --out runs/merged --json"))
    assert said["out"] == "runs/merged"


def test_imported_and_mixed_preferences_are_known_again(here: Path) -> None:
    for folder, line in (("imported", "prefs import prefs.jsonl"), ("mixed", "prefs mix prefs.jsonl")):
        before = (here / "runs" / folder / "preferences.jsonl").read_bytes()
        amp(f"{line} --out runs/{folder}")
        assert (here / "runs" / folder / "preferences.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        (f"{POPE} --max-new-tokens 9 --out runs/pope", "max_new_tokens"),
        (f"{POPE} --dtype bfloat16 --out runs/pope", "dtype"),
        (f"{MEG} --tau 0.5 --out runs/prefs", "tau"),
        (f"{TRAIN} --set beta=0.2 --out runs/train", "beta"),
    ],
)
def test_another_setting_is_refused_by_its_name(here: Path, line: str, setting: str) -> None:
    before = content(here / "runs")
    assert f"{setting} = " in refusal(line)
    assert content(here / "runs") == before


def test_what_changes_speed_or_scoring_only_may_differ(here: Path) -> None:
    amp(f"{POPE} --batch-size 3 --concurrency 2 --rule official --out runs/pope")
    amp(f"{MEG} --concurrency 3 --device cpu --out runs/prefs")
