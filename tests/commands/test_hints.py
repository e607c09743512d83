"""The next command that a command suggests can be pasted, in folders with spaces too, and goes on from there."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.commands.eval import options_of
from amp_cli.commands.options import options_in, train_line, typed_again
from amp_cli.commands.train import train
from amp_cli.main import app
from amp_cli.world.files import write_evaluation
from tests.support.training_items import write_preferences


def type_in(words: list[str]) -> Any:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done


def next_words(done: Any) -> list[str]:
    """Return the suggested command as a shell would split it, without `amp`."""
    line = next(one for one in done.stderr.splitlines() if one.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: "))
    assert words[0] == "amp"
    return words[1:]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with spaces and a quote in its name, in which commands are typed."""
    folder = tmp_path / "my own 'runs'"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AMP_HOME", str(folder / "home"))
    return folder


@pytest.mark.slow
def test_what_train_suggests_leads_to_a_report(place: Path) -> None:
    prefs = write_preferences(place / "data")
    write_evaluation(place / "home" / "benchmarks" / "pope", scenes=4, seed=0)
    settings = [word for one in ("max_steps=1", "logging_steps=1", "save_steps=1") for word in ("--set", one)]
    trained = type_in(["train", "--size", "tiny", "--prefs", str(prefs), "--out", str(place / "first run"), *settings])
    merged = type_in(next_words(trained))
    asked = type_in(next_words(merged))
    type_in(next_words(asked))
    assert (place / "first run-merged-pope.html").is_file()


def test_what_import_suggests_leads_to_a_training(place: Path) -> None:
    prefs = write_preferences(place / "data")
    imported = type_in(["prefs", "import", str(prefs), "--out", str(place / "taken over")])
    checked = type_in(next_words(imported))
    words = next_words(checked)
    assert words == ["train", "--size", "7b", "--prefs", str(place / "taken over" / "preferences.jsonl"),
                     "--out", "runs/mdpo"]  # fmt: skip
    known = type_in(["prefs", "check", str(prefs), "--model", "tiny", "--image-root", str(place / "data")])
    assert next_words(known)[:5] == ["train", "--size", "tiny", "--prefs", str(prefs)]
    assert next_words(known)[5:7] == ["--image-root", str(place / "data")]


def test_faults_are_listed_by_the_same_check_with_a_folder(place: Path) -> None:
    prefs = write_preferences(place / "data")
    prefs.write_text(prefs.read_text() + '{"id": "bad"}\n')
    done = CliRunner().invoke(app, ["prefs", "check", str(prefs), "--max-length", "900"])
    assert done.exit_code == 3
    words = next_words(done)
    assert words == ["prefs", "check", str(prefs), "--max-length", "900", "--out", "findings"]
    assert CliRunner().invoke(app, words).exit_code == 3
    assert (place / "findings" / "findings.jsonl").is_file()


def test_a_model_of_ones_own_is_the_base() -> None:
    line = train_line("my prefs.jsonl", model="Qwen/Qwen2.5-VL-7B-Instruct", max_length=2048)
    assert line == (
        "amp train --size 7b --base Qwen/Qwen2.5-VL-7B-Instruct --prefs 'my prefs.jsonl' --set max_length=2048 "
        "--out runs/mdpo"
    )


def test_a_command_is_typed_again_with_what_was_given_and_nothing_else() -> None:
    options = options_in(train)
    values = {name: default for name, (_, default) in options.items()}
    values |= {"prefs": Path("p q.jsonl"), "out": Path("run"), "vision_tower": "clip", "changes": ["lora_r=8", "a=b"]}
    values |= {"dry_run": True, "reference": "cache"}
    assert typed_again(("amp", "train"), options, values, dry_run=None) == (
        "amp train --prefs 'p q.jsonl' --out run --vision-tower clip --set lora_r=8 --set a=b --reference cache"
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_option_of_a_benchmark_can_be_typed_again(name: str) -> None:
    options = options_of(BENCHMARKS[name])
    words = shlex.split(typed_again(("amp",), options, dict.fromkeys(options, "given")))
    assert len(words) == 1 + 2 * len(options)
    assert {"--dtype", "--template", "--vision-tower", "--quantization", "--data", "--out"} <= set(words)


def test_what_is_written_in_the_current_folder_is_called_after_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_evaluation(place / "pope", scenes=2, seed=0)
    (place / "first run").mkdir()
    monkeypatch.chdir(place / "first run")
    words = ["eval", "pope", "--model", "tiny", "--data", "../pope", "--out", ".", "--max-new-tokens", "2"]
    done = type_in([*words, "--num-beams", "1", "--prompt-suffix", ""])
    here = str(place / "first run")
    assert next_words(done) == ["report", here, "--html", f"{here}.html"]


def test_answers_alone_are_scored_by_the_same_command(place: Path) -> None:
    write_evaluation(place / "my pope", scenes=2, seed=0)
    words = ["eval", "pope", "--model", "tiny", "--data", str(place / "my pope"), "--out", str(place / "its answers")]
    answered = type_in([*words, "--max-new-tokens", "2", "--num-beams", "1", "--prompt-suffix", "", "--only", "answer"])
    scored = next_words(answered)
    assert scored[2:6] == ["--out", str(place / "its answers"), "--data", str(place / "my pope")]
    assert "--num-beams" in scored
    type_in(scored)
    assert (place / "its answers" / "scores.json").is_file()
