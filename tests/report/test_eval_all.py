"""`amp eval all`: what is asked, what is left out and why, one failure among many, going on, one table."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.runner import EvalResult, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.commands.eval import settings_among_all, show_all
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.records import Answer
from amp_cli.report.everything import ALL, AllResults, Plan, plan, run_all
from tests.support.settings import eval_settings


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images of a dog, with files of POPE and CHAIR; nothing was downloaded."""
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    folder = tmp_path / "data"
    folder.mkdir()
    questions = []
    for number in range(2):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(folder / f"{number}.png")
        questions.append({"image": f"{number}.png", "text": "Is there a dog in the image?", "label": "yes"})
    (folder / "coco_pope_random.json").write_text("\n".join(map(json.dumps, questions)))
    instances = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(2)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"image_id": number, "category_id": 1} for number in range(2)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


class Model:
    """Answers "Yes, a dog." to everything; stops as a kill would after some answers; fails at one benchmark."""

    def __init__(self, *, stop_after: int | None = None, fails_at: str | None = None) -> None:
        self.asked = 0
        self.stop_after = stop_after
        self.fails_at = fails_at
        self.seen: list[EvalSettings] = []

    def evaluate(self, settings: EvalSettings) -> EvalResult:
        self.seen.append(settings)
        if settings.benchmark == self.fails_at:
            raise AmpError("The judge is gone", hint="Start it")
        return run_benchmark(settings, answerer=self.answer)

    def answer(
        self,
        questions: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        for question in questions:
            if question.id in done:
                continue
            if self.asked == self.stop_after:
                raise KeyboardInterrupt
            self.asked += 1
            on_answer(Answer(id=question.id, answers=("Yes, a dog.",)))


def options(**changes: Any) -> dict[str, Any]:
    """What the command hands on."""
    given: dict[str, Any] = {"model": "tiny", "out": Path("out"), "limit": None, "judge": None, "rule": "strict"}
    return given | changes


def all_of(data: Path, model: Model) -> AllResults:
    chosen = plan({"": data}, judge=None)
    settings = [settings_among_all(name, folder, {}, options()) for name, folder in chosen.folders.items()]
    return run_all(chosen, settings, data.parent / "out", evaluate=model.evaluate)


def test_what_is_at_hand_is_asked_and_the_rest_left_out_with_the_reason(data: Path) -> None:
    (data / "response_template.json").write_text("[]")
    chosen = plan({"": data}, judge=None)
    assert chosen.folders == {"pope": data, "chair": data}
    assert chosen.left_out["mmhal"] == "it is rated by a judge, and no --judge is given"
    assert "amp download amber" in chosen.left_out["amber"]
    assert set(chosen.folders) | set(chosen.left_out) == set(BENCHMARKS)
    assert "mmhal" in plan({"": data}, judge="some").folders


def test_what_was_downloaded_is_at_hand(data: Path) -> None:
    folder = data.parent / "home" / "benchmarks" / "mrhal"
    folder.mkdir(parents=True)
    (folder / "whatever.json").write_text("[]")
    assert plan({}, judge="some").folders == {"mrhal": folder}


def test_nothing_at_hand_is_an_error_that_says_how_to_get_each(data: Path) -> None:
    with pytest.raises(AmpError, match="amp download llava-bench-wild"):
        plan({}, judge=None)


def test_each_benchmark_keeps_its_own_protocol(data: Path) -> None:
    pope, chair = (settings_among_all(name, data, {}, options()) for name in ("pope", "chair"))
    assert (pope.decoding.max_new_tokens, pope.decoding.no_repeat_ngram_size) == (16, 0)
    assert (chair.decoding.max_new_tokens, chair.decoding.no_repeat_ngram_size) == (512, 5)
    mmhal = settings_among_all("mmhal", data, {}, options(judge="some", repeat=3, limit=5, rule="official"))
    assert (mmhal.judging.judge, mmhal.judging.repeat, mmhal.limit, mmhal.rule) == ("some", 3, 5, "official")
    assert settings_among_all("pope", data, {}, options(limit=5)).limit == 5
    assert (
        settings_among_all("chair", data, {}, options(rule="official")).rule == "strict"
    )  # CHAIR has no rule of that name
    assert pope.prompt_suffix.startswith("\n")


def test_images_are_given_by_name_or_for_all(data: Path) -> None:
    elsewhere = data.parent
    assert settings_among_all("pope", data, {"pope": elsewhere}, options()).image_root == elsewhere
    assert settings_among_all("chair", data, {"pope": elsewhere}, options()).image_root is None
    assert settings_among_all("chair", data, {"": elsewhere}, options()).image_root == elsewhere


def test_scores_and_reasons_are_on_disk_and_each_benchmark_in_its_own_folder(data: Path) -> None:
    results = all_of(data, Model())
    assert results.scores["pope"]["overall"]["accuracy"] == 1.0
    assert results.scores["chair"]["chair_i"] == 0.0
    out = data.parent / "out"
    assert json.loads((out / ALL).read_text()) == results.to_json()
    assert json.loads((out / "chair" / "scores.json").read_text()) == results.scores["chair"]
    run = Run.read(out)
    assert (run.facts["command"], run.facts["state"], run.facts["done"]) == ("eval all", "done", ["pope", "chair"])


def test_a_stopped_run_goes_on_with_what_is_left(data: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        all_of(data, Model(stop_after=3))
    assert Run.read(data.parent / "out").facts["state"] == "interrupted"
    second = Model()
    assert set(all_of(data, second).scores) == {"pope", "chair"}
    assert second.asked == 1


def test_one_that_fails_is_named_and_the_others_go_on(data: Path) -> None:
    results = all_of(data, Model(fails_at="pope"))
    assert results.failed == {"pope": "The judge is gone. Start it"}
    assert list(results.scores) == ["chair"]
    assert set(all_of(data, Model()).scores) == {"pope", "chair"}


def test_another_model_in_the_same_folder_is_refused(data: Path) -> None:
    all_of(data, Model())
    other = [eval_settings(benchmark="pope", out=data, data=data, model="other")]
    with pytest.raises(AmpError, match="model"):
        run_all(Plan(folders={"pope": data}, left_out={}), other, data.parent / "out")


def test_the_cost_limit_is_that_of_all_together(data: Path) -> None:
    limits = []

    def evaluate(settings: EvalSettings) -> EvalResult:
        limits.append(settings.judging.max_cost)
        scores = {"benchmark": settings.benchmark, "judge": {"cost": 1.5}}
        return EvalResult(scores=scores, rejected={}, out=settings.out, seconds=0.0)

    settings = [eval_settings(benchmark=name, out=data, data=data, max_cost=2.0) for name in ("mmhal", "mrhal", "pope")]
    run_all(Plan(folders={}, left_out={}), settings, data.parent / "out", evaluate=evaluate)
    assert limits == [2.0, 0.5, 0.0]


def test_one_table_shows_all_scores_with_their_intervals(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_all(all_of(data, Model()), data.parent / "out", as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "pope │ accuracy, all │ 1.000 │ 1.000-1.000" in shown
    assert "chair │ CHAIR-i │ 0.000 │ 0.000-0.000" in shown


def test_the_command_refuses_a_model_that_is_not_there_before_anything_is_written(data: Path) -> None:
    out = data.parent / "out"
    words = ["eval", "all", "--model", "./nowhere", "--data", str(data), "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, AmpError)
    assert "nowhere" in result.exception.message
    assert not out.exists()


def test_the_embedded_model_is_asked_all_that_is_at_hand(data: Path) -> None:
    out = data.parent / "out"
    words = ["eval", "all", "--model", "tiny", "--data", str(data), "--out", str(out), "--limit", "1", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3, result.output  # its one answer to POPE is neither yes nor no
    printed = json.loads(result.stdout)
    assert printed["scores"]["pope"]["overall"]["n"] == 1
    assert printed["scores"]["chair"]["n"] == 1
    assert set(printed["left_out"]) == set(BENCHMARKS) - {"pope", "chair"}
