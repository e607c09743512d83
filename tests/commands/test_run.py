"""A pipeline: what its file may not say, what is skipped, what goes on, what is refused, and rounds."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from amp_cli.commands.init import ASKED_OF_TINY, pipeline_text
from amp_cli.commands.pipeline import Outcome, start_command
from amp_cli.commands.pipeline_plan import missing, plan_stages, refuse_missing
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app
from tests.support.pipelines import Commands, pipeline_of, read, run_file

ALL = ["prefs", "pope", "train", "merged", "pope", "report.html"]


def line_of(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("changes", "at", "message"),
    [
        ({"bsae": "7b"}, "bsae", "There is no `bsae` in a pipeline"),
        ({"base": 7}, "base", "`base` of the pipeline is 7, not a text"),
        ({"rounds": 0}, "rounds", "`rounds` is 0"),
        ({"rounds": True}, "rounds", "`rounds` is True"),
        ({"seed": -1}, "seed", "Invalid value for '--seed'"),
        ({"train": {"betta": 1}}, "betta", "There is no `betta` in `train`"),
        ({"train": {"set": {"betta": 1}}}, "betta", "`train`: There is no training setting 'betta'"),
        ({"train": {"set": {"beta": "much"}}}, "beta", "`train`: beta must be a number"),
        ({"train": {"size": "70b"}}, "train", "There is no recipe for size '70b'"),
        ({"train": {"held_out": 3}}, "held_out", "Invalid value for '--held-out'"),
        ({"train": {"base": "13b"}}, "13b", "`base` does not belong to `train`"),
        ({"train": {"out": "x"}}, "  out", "`out` does not belong to `train`"),
        ({"train": {"prefs": "x"}}, "prefs: x", "`generate_prefs` makes what is trained on"),
        ({"train": {"torch_compile": "maybe"}}, "torch_compile", "is 'maybe', not true or false"),
        ({"train": {"recipe": ["a", {}]}}, "recipe", "not one value"),
        ({"train": 3}, "train", "`train` does not consist of `key: value` lines"),
        ({"generate_prefs": None}, "train", "Nothing says what is trained on"),
        ({"generate_prefs": {"data": "x", "method": "mge"}}, "mge", "'mge' is not one of 'meg', 'ig'"),
        ({"generate_prefs": {"data": "x", "method": "meg"}}, "generate_prefs", "No expert is given"),
        ({"generate_prefs": {"data": "x"}}, "generate_prefs", "say how the answers are made"),
        ({"generate_prefs": {"method": "meg", "expert": "a=tiny"}}, "generate_prefs", "Missing argument"),
        ({"generate_prefs": {"data": "x", "shard": "1/2"}}, "shard", "`shard` does not belong to `generate_prefs`"),
        ({"eval": {"popes": {}}}, "popes", "There is no benchmark 'popes'"),
        ({"eval": {"pope": {"num_beamz": 1}}}, "num_beamz", "There is no `num_beamz` in `eval.pope`"),
        ({"eval": {"pope": {"num_beams": 0}}}, "num_beams", "`eval.pope`: Invalid value for '--num-beams'"),
        ({"eval": {"pope": {"model": "7b"}}}, "7b", "`model` does not belong to `eval.pope`"),
        ({"eval": {"pope": {"rule": "loose"}}}, "rule", "loose"),
        ({"eval": ["pope"]}, "eval", "`eval` does not consist of `key: value` lines"),
        ({"download": {"list_files": True}}, "list_files", "it fetches nothing"),
        ({"report": {"max_items": 0}}, "max_items", "Invalid value for '--max-items'"),
    ],
)
def test_what_a_pipeline_may_not_say_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, Any], at: str, message: str
) -> None:
    path = pipeline_of(tmp_path, **changes)
    with pytest.raises(AmpError) as caught:
        read(path)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"'{path}', line {line_of(path, at)}: ")


@pytest.mark.parametrize(("name", "message"), [("train", "no `train`"), ("base", "`base` of the pipeline is missing")])
def test_what_a_pipeline_must_say(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(AmpError, match=message):
        read(pipeline_of(tmp_path, **{name: None}))


def test_a_pipeline_that_is_no_mapping_or_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(AmpError, match="does not consist of"):
        read(tmp_path / "list.yaml")
    with pytest.raises(AmpError, match="There is no pipeline"):
        read(tmp_path / "absent.yaml")
    with pytest.raises(AmpError, match="is a folder, not the file of a pipeline"):
        read(tmp_path)


def test_the_command_lines_of_a_pipeline(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = pipeline_of(
        tmp_path,
        base="13b",
        seed=3,
        download=["13b", "pope"],
        train={"set": {"beta": 0.2, "quantization": None}, "torch_compile": True},
        eval={"pope": {"data": str(tmp_path / "pope"), "prompt_suffix": "\nYes or no?", "num_beams": 1}},
        report={"title": "A b"},
    )
    data = tmp_path / "data.json"
    model = f"--model 13b --out {out}/eval/before/pope"
    asked = f"--seed 3 --data {tmp_path}/pope --prompt-suffix '\\nYes or no?' --num-beams 1"
    assert [shlex.join(stage.words) for stage in read(path).stages] == [
        "download 13b pope",
        f"generate-prefs {data} --out {out}/prefs --seed 3 --method meg --expert own=13b",
        f"eval pope {model} {asked}",
        f"train --prefs {out}/prefs/preferences.jsonl --size 13b --out {out}/train --set seed=3 --set beta=0.2 "
        "--set quantization=none --torch-compile",
        f"merge-lora {out}/train --out {out}/merged",
        f"eval pope --model {out}/merged --out {out}/eval/after/pope {asked}",
        f"report {out}/eval/before {out}/eval/after {out}/train --html {out}/report.html --title 'A b'",
    ]
    assert read(path).stage("eval/before/pope").settings.prompt_suffix == "\nYes or no?"  # type: ignore[union-attr]


def test_without_merging_the_adapter_is_evaluated_and_imported_preferences_are_trained_on(tmp_path: Path) -> None:
    (tmp_path / "their.json").write_text("[]")
    given = {"generate_prefs": None, "merge_lora": None, "prefs_import": {"source": str(tmp_path / "their.json")}}
    stages = read(pipeline_of(tmp_path, base="org/model", **given)).stages
    assert [stage.name for stage in stages] == [
        "imported",
        "eval/before/pope",
        "train",
        "eval/after/pope",
        "report.html",
    ]
    out = tmp_path / "out"
    assert shlex.join(stages[2].words).startswith(
        f"train --prefs {out}/imported/preferences.jsonl --base org/model --out {out}/train"
    )
    assert shlex.join(stages[3].words).startswith(f"eval pope --model org/model --adapter {out}/train ")
    assert stages[3].needs == ("train",)


def test_what_is_missing_is_named_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    changes = {
        "generate_prefs": {
            "data": "absent.json",
            "method": "meg",
            "expert": ["a=org/strong", "b=./weak", "own={model}"],
        },
        "eval": {"pope": {"data": str(tmp_path / "pope")}, "chair": {"data": "nowhere"}, "mmhal": {"judge": "gpt"}},
    }
    path = pipeline_of(tmp_path, **changes)
    told = {one.what: one.is_fetched for one in missing(read(path))}
    expected = [
        (f"'{path}', line {line_of(path, 'absent.json')}: There is no file or folder 'absent.json'", False),
        (f"'{path}', line {line_of(path, 'nowhere')}: There is no file or folder 'nowhere'", False),
        (f"'{path}', line {line_of(path, 'mmhal')}: The data of mmhal was not found", False),
        ("OPENAI_API_KEY" if "OPENAI_API_KEY" in str(told) else "key", False),
        ("The weights of 'org/strong' are not on this disk; they are fetched", True),
        (f"'{path}', line {line_of(path, 'generate_prefs')}: There is no model folder './weak'", False),
    ]
    for text, is_fetched in expected:
        assert any(text in what and fetched == is_fetched for what, fetched in told.items()), (text, told)
    with pytest.raises(AmpError, match=r"absent\.json.*more above"):
        refuse_missing(read(path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not any(one.is_fetched for one in missing(read(path)))


def test_a_stage_is_done_once_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path)
    killed = Commands(ends=lambda words: KeyboardInterrupt() if words[0] == "merge-lora" else None)
    with pytest.raises(KeyboardInterrupt):
        run_file(path, killed)
    assert Run.read(tmp_path / "out").facts["state"] == "interrupted"
    commands = Commands()
    result = run_file(path, commands)
    assert commands.stages() == ["merged", "pope", "report.html"]
    assert list(result["stages"]) == [stage.name for stage in read(path).stages]
    assert result["stages"]["train"]["result"] == {"items": 1, "steps": 4}
    assert (result["left_out"], result["report"]) == ([], str(tmp_path / "out" / "report.html"))
    assert run_file(path, commands)["stages"] == result["stages"]
    assert commands.stages() == []
    assert (tmp_path / "out" / "pipeline.yaml").read_bytes() == path.read_bytes()


def test_a_changed_setting_is_refused_by_name_and_a_free_one_is_not(tmp_path: Path) -> None:
    commands = Commands()
    run_file(pipeline_of(tmp_path), commands)
    path = pipeline_of(tmp_path, train={"set": {"max_steps": 4, "beta": 0.5}})
    with pytest.raises(AmpError) as caught:
        run_file(path, commands)
    where = f"'{path}', line {line_of(path, 'beta')}: "
    assert caught.value.message == f"{where}'{tmp_path}/out/train' was made with no set.beta, not set.beta = '0.5'"
    assert "--again train" in caught.value.hint
    commands.stages()
    run_file(pipeline_of(tmp_path, train={"set": {"max_steps": 4}, "tokens_per_step": 100}), commands)
    assert commands.stages() == ["train"]  # its command decides; here nothing changed that others are made of
    with pytest.raises(AmpError, match="base = 'tiny', not '7b'"):
        run_file(pipeline_of(tmp_path, base="7b"), commands)


def test_results_and_files_may_lie_elsewhere_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pipeline_of(tmp_path)
    run_file(path, commands := Commands())
    commands.stages()
    (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    run_file(pipeline_of(tmp_path, out="moved"), commands)
    assert commands.stages() == []
    (tmp_path / "data.json").rename(tmp_path / "renamed.json")
    given = {"data": "renamed.json", "method": "meg", "expert": ["own={model}"]}
    run_file(pipeline_of(tmp_path, out="moved", generate_prefs=given), commands)
    assert commands.stages() == ["prefs"]  # the same content: its command may go on, and has nothing to do


def test_a_stage_that_is_to_be_done_again_may_have_other_settings(tmp_path: Path) -> None:
    run_file(pipeline_of(tmp_path), Commands())
    path = pipeline_of(tmp_path, train={"set": {"beta": 0.5}})
    with pytest.raises(AmpError, match=r"was made with set\.max_steps = '4'"):
        refuse_missing(read(path))
    redone = [stage.name for stage in read(path).with_followers(["train"])]
    refuse_missing(read(path), redone=redone)
    run_file(path, commands := Commands(), again=["train"])
    assert commands.stages() == ["train", "merged", "pope", "report.html"]


def test_again_does_a_stage_and_what_follows_afresh_also_when_it_is_killed(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path)
    run_file(path, commands := Commands())
    commands.stages()
    with pytest.raises(KeyboardInterrupt):
        run_file(
            path,
            Commands(ends=lambda words: KeyboardInterrupt() if words[0] == "merge-lora" else None),
            again=["train"],
        )
    run_file(path, commands)
    typed = commands.typed
    assert [("--overwrite" in line) for line in typed] == [True, True, False]  # the killed one still has its old result
    assert commands.stages() == ["merged", "pope", "report.html"]
    with pytest.raises(AmpError, match="no stage 'trian'") as caught:
        run_file(path, commands, again=["trian"])
    assert caught.value.hint.startswith("Did you mean 'train'? Stages: prefs, ")
    run_file(path, commands, again=["eval/before"])
    assert commands.stages() == ["pope", "report.html"]
    run_file(path, commands, overwrite=True)
    assert commands.stages() == ALL


def test_a_stage_whose_files_have_changed_is_not_taken_for_done(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path)
    run_file(path, Commands())
    (tmp_path / "out" / "prefs" / "preferences.jsonl").write_text("another line\n")
    with pytest.raises(AmpError, match="train' was made of another 'prefs' than is there now"):
        run_file(path, Commands())
    run_file(path, commands := Commands(), again=["train"])
    assert commands.stages() == ["train", "merged", "pope", "report.html"]
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(AmpError, match=r"prefs' was made of another '.*data.json' than is there now"):
        run_file(path, Commands())


def test_a_stage_that_fails_says_why_and_how_it_goes_on(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path)
    said = {"error": "no room", "hint": "Choose a new folder with --out, or start afresh with --overwrite"}
    fails = Commands(ends=lambda words: Outcome(status=1, result=said) if words[0] == "train" else None)
    with pytest.raises(AmpError, match="Stage train: no room") as caught:
        run_file(path, fails)
    assert caught.value.hint.endswith("or start afresh with --again train")
    killed = Commands(ends=lambda words: Outcome(status=137) if words[0] == "train" else None)
    killed.ends = lambda words: Outcome(status=1) if words[0] == "train" else None
    with pytest.raises(AmpError, match="Stage train is not done: it ended with status 1"):
        run_file(path, killed)


def test_items_left_out_are_told_at_every_run(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path)
    leaves = Commands(
        ends=lambda words: Outcome(status=3, result={"items": 1}) if words[0] == "generate-prefs" else None
    )
    assert run_file(path, leaves)["left_out"] == ["prefs"]
    assert run_file(path, Commands())["left_out"] == ["prefs"]


def test_each_round_asks_the_model_of_the_one_before_and_more_may_follow(tmp_path: Path) -> None:
    run_file(pipeline_of(tmp_path, rounds=1), commands := Commands())
    assert commands.stages() == ALL
    path = pipeline_of(tmp_path, rounds=2)
    result = run_file(path, commands)
    out = tmp_path / "out"
    typed = commands.typed
    assert (
        f"generate-prefs {tmp_path}/data.json --out {out}/round-2/prefs --method meg --expert own={out}/round-1/merged"
        in typed
    )
    assert (
        f"train --prefs {out}/round-2/prefs/preferences.jsonl --size tiny --out {out}/round-2/train --set max_steps=4"
        in typed
    )
    assert commands.stages() == ["prefs", "train", "merged", "pope", "report.html"]
    assert [(one["round"], one["train"]["steps"], list(one["scores"])) for one in result["rounds"]] == [
        (1, 4, ["pope"]),
        (2, 4, ["pope"]),
    ]
    followers = [stage.name for stage in read(path).with_followers(["round-1/train"])]
    assert "round-2/prefs" in followers
    assert "eval/before/pope" not in followers


def test_rounds_without_merging_ask_base_and_adapter(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path, rounds=2, merge_lora=None)
    stage = read(path).stage("round-2/prefs")
    assert stage.options["expert"] == [f"own=tiny+{tmp_path}/out/round-1/train"]
    assert stage.needs == ("round-1/train",)
    ig = {"data": str(tmp_path / "data.json"), "method": "ig", "base": "{model}", "finetune_data": "x", "levels": 3}
    with pytest.raises(AmpError, match="must be a whole model"):
        read(pipeline_of(tmp_path, rounds=2, merge_lora=None, generate_prefs=ig))
    meg = {"data": str(tmp_path / "data.json"), "method": "meg", "expert": ["a=13b"]}
    with pytest.raises(AmpError, match="all rounds would be the same"):
        read(pipeline_of(tmp_path, rounds=2, generate_prefs=meg))


def test_the_dry_run_tells_what_is_done_and_what_training_takes(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path)
    told = {one.stage: one for one in plan_stages(read(path), start=Commands())}
    assert [one.standing for one in told.values()] == ["to do"] * 6
    assert told["prefs"].cost == "1 items, 1 answers each"
    assert told["eval/before/pope"].cost == "1 items to answer"
    assert "once the preferences are there" in str(told["train"].cost)
    assert not (tmp_path / "out").exists()
    with pytest.raises(KeyboardInterrupt):
        run_file(path, Commands(ends=lambda words: KeyboardInterrupt() if words[0] == "train" else None))
    estimate = {"total": 5e9, "total_checkpointed": 2e9}
    dry = {"fits": False, "estimate": estimate, "gradient_checkpointing": True, "steps": 4, "device": "cpu"}
    asked: list[str] = []

    def start(words: Any) -> Outcome:
        asked.append(words[-1])
        return Outcome(status=0, result=dry)

    told = {one.stage: one for one in plan_stages(read(path), start=start)}
    assert told["prefs"].standing == "done"
    assert told["train"].cost == "4 steps, about 2.0 GB on each device (cpu), which may not fit"
    assert asked == ["--dry-run"]


def test_the_command_prints_lines_to_paste_and_one_object_in_json(tmp_path: Path) -> None:
    path = pipeline_of(tmp_path, eval=None)
    done = CliRunner().invoke(app, ["run", str(path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].startswith(f"amp generate-prefs {tmp_path}/data.json --out ")
    assert all(line.startswith(("# ", "amp ")) for line in done.stdout.splitlines())
    told = json.loads(CliRunner().invoke(app, ["run", str(path), "--dry-run", "--json"]).stdout)
    assert [one["stage"] for one in told["stages"]] == ["prefs", "train", "merged"]
    assert CliRunner().invoke(app, ["run", str(path), "--dry-run", "--overwrite"]).exit_code == 2


def test_what_amp_toml_and_variables_say_changes_no_stage_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pipeline_of(tmp_path)
    run_file(path, Commands())
    before = [one.standing for one in plan_stages(read(path))]
    (tmp_path / "amp.toml").write_text("[train.set]\nbeta = 0.5\n[eval]\nlimit = 3\n")
    done = CliRunner().invoke(app, ["run", str(path), "--dry-run"], env={"AMP_EVAL_POPE_SEED": "4", "AMP_CONFIG": ""})
    assert done.exit_code == 0, done.output
    told = "Not taken by the stages, whose options the pipeline says: AMP_EVAL_POPE_SEED, [eval.pope], [train]"
    assert told in done.stderr.replace("\n", " ")
    assert before == ["done"] * 6
    assert done.stdout.count(": done;") == 6
    assert "beta" not in done.stdout


@pytest.mark.slow
def test_the_process_of_a_stage_reads_no_amp_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMP_CONFIG", raising=False)
    monkeypatch.setenv("AMP_TRAIN_SIEZ", "13b")
    (tmp_path / "amp.toml").write_text("nonsense = 1\n")
    outcome = start_command(["models"])
    assert (outcome.status, "models" in outcome.result) == (0, True)
    assert "AMP_TRAIN_SIEZ" not in capfd.readouterr().err  # told once, by the command that starts the stages


@pytest.mark.parametrize("base", ["7b", "org/model", "tiny"])
@pytest.mark.parametrize("rounds", [None, "3"])
def test_what_init_writes_can_be_run(
    base: str, rounds: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data.json").write_text("[]")
    words = ["init", "--base", base, "--data", "my data.json", *(("--rounds", rounds) if rounds else ())]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    read_back = read(Path("pipeline.yaml"))
    assert read_back.base == base
    assert read_back.rounds == (int(rounds) if rounds else None)
    assert read_back.stages[0].words[:2] == ("generate-prefs", "my data.json")
    assert "Next: amp run pipeline.yaml --dry-run" in done.stderr
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, AmpError)
    assert "replaces nothing" in again.exception.message


def test_init_refuses_data_and_folders_that_are_not_there(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", "--base", " ", "--out", str(tmp_path / "p.yaml")]).exit_code == 2
    for words in (["--data", str(tmp_path / "absent.json")], []):
        out = tmp_path / "p.yaml" if words else tmp_path / "absent" / "p.yaml"
        assert isinstance(CliRunner().invoke(app, ["init", *words, "--out", str(out)]).exception, AmpError)
        assert not out.exists()


def test_texts_in_a_pipeline_are_read_back_as_they_were() -> None:
    for text in (
        "true",
        "1e-4",
        "a: b",
        "#x",
        "é 'q'",
        "x\ny",
        "7b",
        "null",
        "a/b.json",
        "-x",
        "2026-01-01",
        ".5",
        ".inf",
        "../a-b",
        "/t/x.y",
    ):
        written = pipeline_text(
            file="p",
            base=text,
            out="o",
            data=Path("d"),
            evaluations={"pope": {"prompt_suffix": text}},
            rounds=2,
            experts=(),
        )
        found = yaml.safe_load(written)
        assert (found["base"], found["eval"]["pope"]["prompt_suffix"]) == (text, text)


def test_the_loop_is_a_pipeline_of_rounds(tmp_path: Path) -> None:
    pipeline_of(tmp_path)
    data, out = tmp_path / "data.json", tmp_path / "loop"
    words = ["loop", str(data), "--base", "tiny", "--rounds", "2", "--out", str(out), "--samples", "2", "--dry-run"]
    more = ["--set", "max_steps=3", "--seed", "5", "--eval", f"pope={tmp_path}/pope", "--json"]
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    lines = [one["command"] for one in json.loads(done.stdout)["stages"]]
    assert [line.split()[1] for line in lines] == [
        *("generate-prefs", "eval", "train", "merge-lora", "eval"),
        *("generate-prefs", "train", "merge-lora", "eval", "report"),
    ]
    assert f"--expert own={out}/round-1/merged --samples 2" in lines[5]
    assert "--set seed=5 --set max_steps=3" in lines[6]
    for wrong, message in (
        (["--eval", "pope=nowhere"], "There is no folder 'nowhere'"),
        (["--eval", "popes"], "There is no benchmark 'popes'"),
        (["--set", "betta=1"], "no training setting 'betta'"),
    ):
        refused = CliRunner().invoke(app, [*words, *wrong])
        assert message in str(refused.exception), refused.output
    assert CliRunner().invoke(app, [*words, "--set", "beta"]).exit_code == 2


def test_a_command_in_a_process_of_its_own_gives_its_object_and_its_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = start_command(["prefs", "check", str(tmp_path / "absent.json")])
    assert (wrong.status, set(wrong.result)) == (1, {"error", "hint"})
    assert "Error" not in capfd.readouterr().err  # the pipeline says it, once
    listed = start_command(["download"])
    assert listed.status == 0
    assert {"models", "benchmarks"} <= set(listed.result)


STARTER = "import sys; from amp_cli.commands.pipeline import start_command; start_command(sys.argv[1:])"


@pytest.mark.slow
def test_a_stage_ends_with_the_command_that_started_it(tmp_path: Path) -> None:
    words = ["quickstart", "--out", str(tmp_path / "demo")]
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *words], stderr=subprocess.DEVNULL)
    lock = tmp_path / "demo" / "run.lock"
    while not lock.is_file() or not lock.read_text().endswith("}"):
        assert starter.poll() is None
        time.sleep(0.05)
    stage = json.loads(lock.read_text())["pid"]
    assert stage != starter.pid
    starter.kill()
    starter.wait()
    for _ in range(200):
        if not _is_running(stage):
            return
        time.sleep(0.05)
    os.kill(stage, signal.SIGKILL)
    pytest.fail("the stage ran on")


def _is_running(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_pipeline_with_the_embedded_model_from_images_to_the_report(tmp_path: Path) -> None:
    from amp_cli.world.files import write_evaluation
    from tests.support.training_items import ANSWERS, QUESTION, draw

    write_evaluation(tmp_path / "test", scenes=2, seed=0)
    items = []
    for number in range(2):
        draw(tmp_path, number)
        items.append(
            {"id": str(number), "images": [f"{number}.png"], "questions": [QUESTION], "answers": [ANSWERS[number]]}
        )
    (tmp_path / "data.json").write_text(json.dumps(items))
    path = tmp_path / "p.yaml"
    asked = {"pope": {"data": str(tmp_path / "test"), **ASKED_OF_TINY["pope"]}}
    path.write_text(
        pipeline_text(
            file=path, base="tiny", out=str(tmp_path / "out"), data=tmp_path / "data.json", evaluations=asked,
            rounds=1, experts=(), samples=2, settings={"max_steps": 1, "logging_steps": 1, "save_steps": 1},
        )
    )  # fmt: skip

    def type_in(words: Any) -> Outcome:
        done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
        return Outcome(status=done.exit_code, result=json.loads(done.stdout))

    result = run_file(path, type_in)  # type: ignore[arg-type]
    assert [one["status"] for one in result["stages"].values()] == [0] * 6
    assert result["stages"]["eval/round-1/pope"]["result"]["overall"]["n"] == 36
    (before, after, _) = result["stages"]["report.html"]["result"]["runs"]
    assert (before["name"], after["name"]) == ("before", "round-1")
    assert "pope" in (tmp_path / "out" / "report.html").read_text().lower()
