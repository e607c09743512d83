"""A new benchmark of yes/no questions is one file and one line: here is the file, and everything else follows."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.benchmark import LoadedBenchmark, Option
from amp_cli.benchmarks.files import own_answers, records_of
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.benchmarks.yes_no import yes_no_benchmark
from amp_cli.commands.eval import command_of
from amp_cli.records import Answer, BenchmarkItem
from amp_cli.report.compare import compare_runs
from amp_cli.report.everything import folder_of
from amp_cli.report.report import build_report
from amp_cli.report.runs import ReportRun


def load(data: Path, settings: EvalSettings) -> LoadedBenchmark:
    """Read toy.jsonl: id, image, question, label."""
    file = data / "toy.jsonl"
    items = [
        BenchmarkItem(
            id=record["id"],
            images=(record["image"],),
            questions=(record["question"],),
            reference={"split": "all", "label": record["label"]},
        )
        for record in records_of(file)
    ]
    return LoadedBenchmark(items=tuple(items), files=(file,))


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings) -> dict[str, Answer]:
    return own_answers(records_of(path), path)


TOY = yes_no_benchmark(
    name="toy",
    title="Toy: is it red?",
    help="Ask whether images are red.",
    options=[Option(name="data", help="Folder with toy.jsonl.")],
    splits=(),
    files=("toy.jsonl",),
    load=load,
    adopt=adopt,
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """20 images of two kinds, one question each."""
    monkeypatch.setitem(BENCHMARKS, "toy", TOY)
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for number in range(20):
        is_red = number % 2 == 0
        Image.new("RGB", (8, 8), (255, 0, 0) if is_red else (0, 0, number)).save(folder / f"{number}.png")
        label = "yes" if is_red else "no"
        lines.append({"id": f"q{number}", "image": f"{number}.png", "question": "Is it red?", "label": label})
    (folder / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def says(*, wrong: int) -> Callable[..., None]:
    """Return what answers: rightly, but for the first few."""

    def answer(
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        for number, request in enumerate(requests):
            is_red = number % 2 == 0
            on_answer(Answer(id=request.id, answers=("Yes" if is_red != (number < wrong) else "No",)))

    return answer


def test_a_new_yes_no_benchmark_is_asked_scored_compared_and_shown(data: Path) -> None:
    base, better = data.parent / "base", data.parent / "better"
    for out, wrong in ((base, 16), (better, 0)):
        scores = run_benchmark(EvalSettings(benchmark="toy", data=data, out=out), answerer=says(wrong=wrong)).scores
        assert scores["benchmark"] == "toy"
        assert scores["overall"]["accuracy"] == (20 - wrong) / 20
        assert scores["splits"]["all"]["n"] == 20
    ((title, columns, rows),) = TOY.tables(scores)
    assert title.startswith("TOY, rule strict")
    assert columns == ["", "all", "overall"]
    assert rows[1][1] == "1.000\n1.000-1.000"
    assert [column.title for column in TOY.columns][:3] == ["accuracy, all", "F1, mean of splits", "said yes"]
    accuracy = next(one for one in compare_runs(base, better) if one.name == "overall/accuracy")
    assert (accuracy.benchmark, accuracy.base, accuracy.other, accuracy.n) == ("toy", 0.2, 1.0, 20)
    assert accuracy.is_clear
    page = data.parent / "page.html"
    result = build_report([ReportRun(name="base", path=base), ReportRun(name="better", path=better)], html=page)
    assert [run["scores"]["toy"]["overall"]["accuracy"] for run in result["runs"]] == [0.2, 1.0]
    text = page.read_text()
    assert "Toy: is it red?" in text
    assert "+0.800" in text
    assert "20 of 20 questions and descriptions" in text


def test_its_protocol_and_its_folder_are_known(data: Path) -> None:
    settings = EvalSettings(benchmark="toy", out=data)
    assert settings.prompt_suffix.endswith("single word or phrase.")
    assert folder_of("toy", {"": data}) == data


def test_it_has_a_command(data: Path) -> None:
    app = typer.Typer()
    app.command()(command_of(TOY))
    answers = data.parent / "answers.jsonl"
    lines = [json.dumps({"id": f"q{number}", "answers": ["Yes"]}) + "\n" for number in range(20)]
    answers.write_text("".join(lines))
    words = ["--data", str(data), "--answers", str(answers), "--out", str(data.parent / "typed"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert (scores["benchmark"], scores["overall"]["accuracy"], scores["overall"]["yes_ratio"]) == ("toy", 0.5, 1.0)
    assert "Ask whether images are red." in CliRunner().invoke(app, ["--help"]).stdout
