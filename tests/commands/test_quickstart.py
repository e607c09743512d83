"""The quickstart at a tenth of its size: the result's shape, the files, the commands, and going on after a stop."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from amp_cli.commands.quickstart import Size, findings, run_loop
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.training import launch
from tests.support.training_here import train_here


def type_in(words: list[str]) -> object:
    return app(words, standalone_mode=False)


pytestmark = pytest.mark.slow  # all look at the same four runs of training
SMALL = Size(scenes=12, test_scenes=8, steps=5)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("quickstart") / "demo"
    tool = out.parent / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n")  # which nothing of the demo may want to use
    tool.chmod(0o755)
    start_worker = launch.run_worker

    def run_worker(asked: launch.Launch, folder: Path) -> object:
        """Start a process for what is demonstrated; the controls are trained here, which saves its imports."""
        return start_worker(asked, folder) if folder.name == "mdpo" else train_here(asked, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run_worker", run_worker)
        patch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return out, run_loop(out, type_in=type_in, levels=3, seed=1, size=SMALL)


def test_the_result_holds_what_the_contract_names(loop: tuple[Path, dict[str, Any]]) -> None:
    out, result = loop
    assert {"seconds", "peak_memory_mb", "seed", "levels", "base", "sft", "dpo", "mdpo", "out"} <= set(result)
    assert (result["seed"], result["levels"], result["out"]) == (1, 3, str(out))
    for run in ("base", "sft", "dpo", "mdpo"):
        assert result[run]["pope"]["benchmark"] == "pope"
        assert result[run]["pope"]["overall"]["ci95"]["accuracy"][0] <= result[run]["pope"]["overall"]["accuracy"]
        assert 0 <= result[run]["pope"]["overall"]["auc"] <= 1
        assert 0 <= result[run]["chair"]["chair_i"] <= 1
    assert json.loads((out / "quickstart.json").read_text()) == result


def test_every_page_and_folder_is_there(loop: tuple[Path, dict[str, Any]]) -> None:
    out, _ = loop
    for name in ("report.html", "prefs/preferences.html", "merged/model.safetensors", "train/mdpo/curves.png"):
        assert (out / name).stat().st_size > 1000, name
    assert json.loads((out / "run.json").read_text())["state"] == "done"


def test_the_report_shows_images_commands_and_both_answers(loop: tuple[Path, dict[str, Any]]) -> None:
    page = (loop[0] / "report.html").read_text(encoding="utf-8")
    assert "data:image" in page
    assert "amp generate-prefs" in page
    assert "DPO" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_the_controls_go_through_as_many_tokens_as_mdpo(loop: tuple[Path, dict[str, Any]]) -> None:
    out, result = loop
    tokens = {name: result[name]["tokens"] for name in ("mdpo", "dpo", "sft")}
    steps = {name: json.loads((out / "train" / name / "result.json").read_text())["steps"] for name in tokens}
    assert tokens["dpo"] == tokens["mdpo"]
    assert steps["dpo"] == steps["mdpo"] == SMALL.steps < steps["sft"]
    assert abs(tokens["sft"] - tokens["mdpo"]) <= tokens["sft"] / steps["sft"]  # no step more, none less, comes nearer


def test_nothing_but_the_pairs_tells_dpo_from_mdpo(loop: tuple[Path, dict[str, Any]]) -> None:
    mdpo, dpo = (json.loads((loop[0] / "train" / name / "run.json").read_text()) for name in ("mdpo", "dpo"))
    assert {name for name in mdpo["settings"] if mdpo["settings"][name] != dpo["settings"][name]} == {"pairs"}
    assert dpo["settings"]["pairs"] == "best-vs-rest"


def test_the_same_call_again_does_nothing_twice(loop: tuple[Path, dict[str, Any]]) -> None:
    out, result = loop
    adapter = out / "train" / "mdpo" / "adapter" / "adapter_model.safetensors"
    written = adapter.stat().st_mtime_ns
    again = run_loop(out, type_in=type_in, levels=3, seed=1, size=SMALL)
    assert adapter.stat().st_mtime_ns == written
    assert again["mdpo"] == result["mdpo"]
    assert again["differences"] == result["differences"]


def test_another_seed_in_the_same_folder_is_refused(loop: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(AmpError, match="seed"):
        run_loop(loop[0], type_in=type_in, levels=3, seed=2, size=SMALL)


def test_all_models_run_on_the_cpu_whatever_the_machine_has(loop: tuple[Path, dict[str, Any]]) -> None:
    trained = [json.loads(file.read_text()) for file in loop[0].rglob("run.json")]
    configs = {Path(one["accelerate_config"]).name for one in trained if "accelerate_config" in one}
    assert configs == {"cpu.yaml"}


def test_findings_say_what_did_not_hold(loop: tuple[Path, dict[str, Any]]) -> None:
    result = json.loads(json.dumps(loop[1]))
    for row in result["differences"]["mdpo - base"]:
        row.update(difference=-0.01, ci95=[-0.03, 0.01], clear=False)
    sentences = findings(result)
    assert any(
        "the base, POPE accuracy: -0.010" in one and "over the images -0.030 to +0.010" in one for one in sentences
    )
    assert not any("clear of zero" in sentence for sentence in sentences)  # one training shows no more than itself


def test_the_commands_shown_are_commands(loop: tuple[Path, dict[str, Any]]) -> None:
    from html import unescape

    page = unescape((loop[0] / "report.html").read_text(encoding="utf-8"))
    lines = [line for line in page.splitlines() if "amp train" in line or "amp eval" in line]
    assert any(shlex.split(line[line.index("amp ") :].split("<")[0])[:2] == ["amp", "train"] for line in lines)
