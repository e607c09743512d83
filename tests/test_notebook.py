"""The notebook runs as it stands, cell by cell, but for what it says to take long or to install."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_architecture import ROOT

NOTEBOOK = ROOT / "docs" / "amp.ipynb"
LEFT_OUT = {"install", "long"}


def code_cells() -> list[tuple[str, set[str]]]:
    """Return the source of each cell of code, and its tags."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [("".join(one["source"]), {*one["metadata"].get("tags", [])}) for one in cells if one["cell_type"] == "code"]


def test_the_notebook_is_stored_without_what_a_run_of_it_gave() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
    assert [cell for cell in found["cells"] if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
def test_each_cell_runs_after_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = []
    for source, tags in code_cells():
        if tags & LEFT_OUT:
            continue
        if source.startswith("!"):  # Jupyter's way to type a command
            words = shlex.split(source[1:])
            assert words[0] == "amp"
            done = subprocess.run(
                [sys.executable, "-m", "amp_cli", *words[1:]], capture_output=True, text=True, check=False
            )
            assert done.returncode in (0, 3), (source, done.stdout, done.stderr)
            ran.append(words[1])
        else:
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert ran == ["doctor", "prefs", "train"]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert names["loaded"].identity["dtype"] == "float32"
