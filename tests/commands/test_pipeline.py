"""The loop's commands in processes of their own, what they say of what is absent, and the pipelines of the guides."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from amp_cli.commands.pipeline_file import read_pipeline
from amp_cli.main import app, main
from amp_cli.world import files
from tests.support.training_items import write_described

ROOT = Path(__file__).resolve().parents[2]


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
