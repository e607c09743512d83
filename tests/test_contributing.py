"""The steps of CONTRIBUTING.md, followed: a toy format, a toy judge; a family of the tests has its row in the guide."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from amp_cli.asking.judge import JudgeRequest
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.dialogues.named_images import Record
from amp_cli.preferences.formats import formats
from amp_cli.preferences.formats.draft import Choices, Draft, Format
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.formats.pairs import PairLayout
from amp_cli.records import Level, Verdict
from tests.support.judged_data import Script, mmhal_folder, write_lines
from tests.support.tiny_families import FAMILIES
from tests.test_architecture import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_each_recipe_has_numbered_steps_and_names_the_test_that_follows_them() -> None:
    recipes = re.findall(r"^## How to add a .*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(recipes) == 4
    for recipe in recipes:
        assert [int(number) for number in re.findall(r"^(\d)\. ", recipe, re.MULTILINE)][:3] == [1, 2, 3]
        tests = re.findall(r"^`(tests/[\w/]+\.py)`", recipe, re.MULTILINE)
        assert tests
        assert all((ROOT / test).is_file() for test in tests)


def convert_praise(record: Record, choices: Choices) -> list[Draft]:
    levels = tuple(Level(answers=(record[name],), source=name) for name in ("praised", "blamed"))
    return [Draft(id=None, images=(), questions=(record["asked"],), levels=levels)]


def test_a_toy_format_is_one_record_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Format(
        name="praise",
        title="a toy",
        describes=lambda record: {"asked", "praised", "blamed"} <= record.keys(),
        convert=convert_praise,
    )
    monkeypatch.setitem(formats.FORMATS, toy.name, toy)
    data = write_lines(tmp_path / "data.jsonl", [{"asked": "What is it?", "praised": "A dog.", "blamed": "A cat."}])
    result = import_preferences(data, tmp_path / "out")
    assert (result.format, result.items, result.levels) == ("praise", 1, {"2": 1})


def test_a_toy_pair_layout_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = PairLayout(name="toy", title="a toy", question="asked", images=("photo",), meta=()).format
    monkeypatch.setitem(formats.FORMATS, toy.name, toy)
    data = write_lines(tmp_path / "data.jsonl", [{"asked": "What is it?", "chosen": "A dog.", "rejected": "A cat."}])
    result = import_preferences(data, tmp_path / "out")
    assert (result.format, result.items, result.levels) == ("toy", 1, {"2": 1})


class Contrarian:
    """A toy judge: everything is rated 1."""

    identity: dict[str, Any] = {"kind": "toy", "model": "contrarian"}  # noqa: RUF012
    notes: tuple[str, ...] = ()

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        for request in requests:
            on_verdict(Verdict(id=request.id, repeat=request.repeat, text="Rating: 1"))


def test_a_toy_judge_has_three_members(tmp_path: Path) -> None:
    settings = EvalSettings(benchmark="mmhal", data=mmhal_folder(tmp_path / "data"), out=tmp_path / "out")
    scores = run_benchmark(settings, answerer=Script(), judge=Contrarian()).scores
    assert (scores["score"], scores["hallucination_rate"]) == (1.0, 1.0)
    assert scores["judge"]["kind"] == "toy"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_the_tests_has_its_row_in_the_guide(family: str) -> None:
    table = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("| family |")[1].split("\n\n")[0]
    assert re.split(r"[ ,]", family)[0] in table
