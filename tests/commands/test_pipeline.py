"""The commands of README and the guides, typed as they stand; only large models are exchanged for the embedded one.

They are run in this process, which has torch and all else loaded already; what a process of its own sees of them is
tested at the end.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from amp_cli.commands.pipeline_file import read_pipeline
from amp_cli.main import app, main
from amp_cli.world import files
from tests.support.prefs_formats import rated, turns, write_json, write_lines
from tests.support.training_items import draw, write_described, write_preferences

ROOT = Path(__file__).resolve().parents[2]
LLAVA = ROOT / "tests" / "golden" / "llava"
EXCHANGED = {
    "llava-hf/llava-1.5-13b-hf": "tiny",
    "llava-hf/llava-1.5-7b-hf": "tiny",
    "--size 7b": "--size tiny --set max_steps=2",
    "--model 7b": "--model tiny",
}


def commands_of_docs(heading: str) -> list[str]:
    """Return the commands of the first block under a heading of README or the guides."""
    pages = (file.read_text(encoding="utf-8") for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    section = next(page for page in pages if f"{heading}\n" in page).split(f"{heading}\n")[1]
    match = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert match
    block = match[1].replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("amp ")]


def type_in(line: str, folder: Path) -> str:
    """Run a command that must go well, as if typed in `folder`; return what it printed."""
    words = shlex.split(line)
    assert words[0] == "amp"
    with chdir(folder):
        done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\n{done.stderr[-2000:]}"
    return done.stdout


def start(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from amp_cli.main import main; main()", *shlex.split(line)[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: images with questions and answers, and POPE with its images."""
    folder = tmp_path_factory.mktemp("readme")
    write_described(folder, scenes=6, seed=3)
    files.write_evaluation(folder / "POPE/output/coco", scenes=3, seed=3)
    (folder / "POPE/output/coco/images").rename(folder / "val2014")
    return folder


@pytest.mark.slow
def test_readme_s_six_commands_work_as_they_stand(folder: Path) -> None:
    lines = commands_of_docs("The same by hand, in six commands:")
    names = ["generate-prefs", "eval", "train", "merge-lora", "eval", "report"]
    assert [line.split()[1] for line in lines] == names
    for line in lines:
        for large, small in EXCHANGED.items():
            line = line.replace(large, small)
        type_in(line, folder)
    assert (folder / "report.html").stat().st_size > 5000
    assert json.loads((folder / "prefs/stats.json").read_text())["items"] > 0
    assert (folder / "my-7b/model.safetensors").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/pipeline.md"])
def test_the_pipeline_of_a_page_is_read_and_names_its_commands(page: str, tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (tmp_path / "pipeline.yaml").write_text(found[1])
    names = [stage.words[0] for stage in read_pipeline(tmp_path / "pipeline.yaml", get_command(app)).stages]
    asked = ["eval"] if page == "README.md" else ["eval", "eval"]
    assert [name for name in names if name not in ("download", "prefs")] == [
        *("generate-prefs", *asked, "train", "merge-lora", *asked, "report")
    ]


@pytest.mark.slow
def test_readme_s_commands_for_original_checkpoints_work_as_they_stand(tmp_path: Path) -> None:
    for name, folder in {"liuhaotian/llava-v1.5-7b": "base", "my-llava-lora": "adapter", "openai": "openai"}.items():
        shutil.copytree(LLAVA / "model" / folder, tmp_path / name)
    shutil.copytree(LLAVA / "model" / "openai", tmp_path / "liuhaotian" / "openai")
    shutil.copytree(LLAVA / "images", tmp_path / "images")
    levels = [{"answers": [answer], "source": answer} for answer in ("A red dog.", "A dog.", "A blue cat.")]
    item = {"id": "1", "images": ["images/wide.png"], "questions": ["What is it?"], "levels": levels}
    (tmp_path / "prefs.jsonl").write_text(json.dumps(item))
    lines = commands_of_docs("### Original LLaVA checkpoints and adapters")
    assert [line.split()[1] for line in lines] == ["convert", "convert", "merge-lora", "train"]
    smaller = " --set quantization=none --set max_steps=1 --set global_batch_size=1"
    for line in [*lines[:3], lines[3] + smaller]:
        type_in(line, tmp_path)
    assert (tmp_path / "back" / "tokenizer.model").is_file()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_readme_s_commands_for_preference_data_work_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "coco" / "a").mkdir(parents=True)
    (tmp_path / "pope").mkdir()
    (tmp_path / "vlfeedback").mkdir()
    for number in range(4):
        draw(tmp_path / "coco" / "a", number)
    draw(tmp_path / "pope", 3)  # the benchmark has one of the images
    asked = "<image>\nWhat is it?"
    theirs = [
        {
            "image": f"a/{number}.png",
            **{f"output_{k + 1}": turns(asked, f"{number} {word}") for k, word in enumerate("ab")},
        }
        for number in range(4)
    ]
    write_json(tmp_path / "their_train.json", theirs)
    four = [rated(5 - number, number + 1, 3, f"Answer {number}.", f"m{number}") for number in range(4)]
    write_lines(tmp_path / "vlfeedback" / "train.jsonl", [{"id": "v", "prompt": "What?", "completions": four}])
    pair = {
        "question": "What?",
        "chosen": "This.",
        "rejected": "That.",
        "image": {"bytes": None, "path": "coco/a/0.png"},
    }
    rlaif = {
        **pair,
        "ds_name": "x",
        "origin_dataset": "y",
        "origin_split": "z",
        "idx": "1",
        "image_path": "coco/a/0.png",
    }
    write_lines(tmp_path / "rlaif.jsonl", [rlaif])
    for name in ("sharegpt4v", "silkie", "rlhfv", "own"):
        levels = [{"answers": [f"{name} {word}"], "source": word} for word in ("good", "bad")]
        item = {"id": name, "images": ["coco/a/1.png"], "questions": ["What?"], "levels": levels}
        write_lines(tmp_path / f"{name}.jsonl", [item, {**item, "id": f"{name}-2", "images": ["coco/a/2.png"]}])
    exchanged = {"openbmb/RLAIF-V-Dataset": "rlaif.jsonl", "~/.cache/amp/benchmarks/pope": "pope", **EXCHANGED}
    lines = commands_of_docs("## Preference data in and out")
    assert [line.split()[2] for line in lines] == [
        *("import", "import", "import", "check", "stats", "view", "mix", "export", "export")
    ]
    for line in lines:
        for large, small in exchanged.items():
            line = line.replace(large, small)
        printed = type_in(line, tmp_path)
        if " check " in line:
            assert "leakage" in printed  # the image that the benchmark has
    assert (tmp_path / "trl/train.parquet").is_file()
    assert (tmp_path / "my-preferences/README.md").is_file()


@pytest.mark.slow
def test_readme_s_commands_for_fast_training_work_as_they_stand(tmp_path: Path) -> None:
    write_preferences(tmp_path)
    *dry, real = commands_of_docs("## Training, fast and lean")
    assert len(dry) == 2
    for line in (*dry, real):
        type_in(line.replace("--size 7b", EXCHANGED["--size 7b"] + " --set save_steps=5"), tmp_path)
        assert (tmp_path / "run").exists() == (line == real)


@pytest.mark.slow
def test_a_command_in_json_prints_one_object_and_nothing_else(folder: Path) -> None:
    done = start(
        "amp eval pope --model tiny --data POPE/output/coco --image-root val2014 --out json-run --json", folder
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["benchmark"] == "pope"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("amp train --size tiny --prefs absent.jsonl --out x1", "no preference file 'absent.jsonl'"),
        ("amp generate-prefs absent.json --method meg --expert a=tiny --out x2", "absent.json"),
        ("amp merge-lora absent --out x3", "absent"),
        ("amp eval pope --model ./absent --data POPE/output/coco --out x4", "absent"),
        ("amp eval chair --model tiny --data absent --out x5", "absent"),
        ("amp report absent", "absent"),
        ("amp train --size 70b --prefs data.json --out x6", "70b"),
    ],
)
def test_what_is_not_there_is_one_error_and_one_hint(
    folder: Path, line: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert (err.count("Error:"), err.count("Hint:")) == (1, 1)
    assert message in err


@pytest.mark.slow
def test_a_process_ends_with_one_for_what_is_not_there_and_with_two_for_wrong_usage(folder: Path) -> None:
    done = start("amp report absent", folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert start("amp train --no-such-option", folder).returncode == 2
