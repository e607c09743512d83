"""Runs side by side: paired differences, the folders a report finds, and a page that is safe and says what it shows."""

import json
import random
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks.comparing import Difference, mcnemar
from amp_cli.benchmarks.runner import Answerer, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.records import Answer
from amp_cli.report.compare import compare_runs
from amp_cli.report.report import build_report
from amp_cli.report.runs import ReportRun, name_runs
from tests.support.pages import problems

THINGS = ("dog", "cat", "car", "cup", "kite")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images with two things each; POPE's random split and COCO instances."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    questions, annotations = [], []
    for number in range(40):
        Image.new("RGB", (16, 16), (6 * number, 0, 0)).save(folder / f"{number}.png")
        there = rng.sample(THINGS, 2)
        for thing in THINGS:
            label = "yes" if thing in there else "no"
            questions.append({"image": f"{number}.png", "text": f"Is there a {thing} in the image?", "label": label})
        annotations += [{"image_id": number, "category_id": THINGS.index(thing)} for thing in there]
    (folder / "coco_pope_random.json").write_text("\n".join(json.dumps(question) for question in questions))
    instances = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(40)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(THINGS)],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


def speaker(data: Path, errors: float) -> Answerer:
    """Answers with the truth, except in a share of the cases; its descriptions name wrong things in as many."""
    truth: dict[str, set[str]] = {f"{number}.png": set() for number in range(40)}
    for line in (data / "coco_pope_random.json").read_text().splitlines():
        row = json.loads(line)
        if row["label"] == "yes":
            truth[row["image"]].add(row["text"].split()[3])

    def answer(
        questions: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        for question in questions:
            there = truth[question.images[0].name]
            wrong = random.Random(f"{question.id} {errors}").random() < errors
            if question.questions[0].startswith("Is there"):
                text = "Yes" if (question.questions[0].split()[3] in there) != wrong else "No"
            else:
                named = sorted(there) + ([thing for thing in THINGS if thing not in there][:1] if wrong else [])
                text = " ".join(f"There is a {thing}." for thing in named) + " <script>alert('x')</script>"
            on_answer(Answer(id=question.id, answers=(text,)))

    return answer


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for name, errors in (("base", 0.4), ("better", 0.1), ("same", 0.4)):
        for benchmark in ("pope", "chair"):
            settings = EvalSettings(benchmark=benchmark, data=data, out=root / name / benchmark)
            run_benchmark(settings, answerer=speaker(data, errors))
    return root


def by_name(differences: list[Difference]) -> dict[str, Difference]:
    return {one.name: one for one in differences}


def test_a_large_difference_is_clear_and_has_the_sign_of_other_minus_base(runs: Path) -> None:
    pope = by_name(compare_runs(runs / "base" / "pope", runs / "better" / "pope"))["overall/accuracy"]
    assert pope.base is not None
    assert pope.other is not None
    assert pope.difference == pytest.approx(pope.other - pope.base)
    assert pope.ci95 is not None
    assert 0 < pope.ci95[0] < pope.difference < pope.ci95[1]
    assert pope.p_value is not None
    assert pope.p_value < 0.001
    assert pope.n == 200
    chair = by_name(compare_runs(runs / "base" / "chair", runs / "better" / "chair"))
    assert chair["chair_i"].is_clear
    assert chair["chair_i"].difference is not None
    assert chair["chair_i"].difference < 0
    assert chair["recall"].difference == 0.0
    assert not chair["recall"].is_clear


def test_the_same_answers_differ_by_nothing(runs: Path) -> None:
    for difference in compare_runs(runs / "base" / "pope", runs / "same" / "pope"):
        assert difference.difference == 0.0
        assert difference.ci95 == (0.0, 0.0)
        assert difference.p_value in (None, 1.0)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)


def test_items_that_one_run_left_unscored_are_left_out_of_the_pair(data: Path, runs: Path, tmp_path: Path) -> None:
    def mute(questions: Sequence[Request], **rest: Any) -> None:
        speaker(data, 0.4)(questions[10:], **rest)
        for question in questions[:10]:
            rest["on_answer"](Answer(id=question.id, answers=("I cannot tell.",)))

    run_benchmark(EvalSettings(benchmark="pope", data=data, out=tmp_path / "out"), answerer=mute)
    pair = by_name(compare_runs(runs / "base" / "pope", tmp_path / "out"))["overall/accuracy"]
    assert pair.n == 190
    assert pair.difference == 0.0


def test_runs_scored_by_different_rules_are_not_compared(data: Path, runs: Path, tmp_path: Path) -> None:
    settings = EvalSettings(benchmark="pope", data=data, out=tmp_path / "out", rule="official")
    run_benchmark(settings, answerer=speaker(data, 0.4))
    with pytest.raises(AmpError, match="rule"):
        compare_runs(runs / "base" / "pope", tmp_path / "out")


def test_a_folder_of_runs_is_taken_apart_and_a_run_of_both_benchmarks_is_one(runs: Path) -> None:
    assert [run.name for run in name_runs([runs])] == ["base", "better", "same"]
    assert [run.name for run in name_runs([runs / "better", runs / "base"])] == ["better", "base"]
    named = name_runs([runs / "base" / "pope", runs / "better" / "pope"])
    assert len({run.name for run in named}) == 2


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="neither an evaluation"):
        build_report([ReportRun(name="a", path=tmp_path)])


def test_the_page_is_one_file_escapes_what_models_say_and_states_what_it_lists(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    train = tmp_path / "train"
    train.mkdir()
    (train / "run.json").write_text(json.dumps({"command": "train", "settings": {"method": "mdpo"}}))
    Image.new("RGB", (4, 4)).save(train / "curves.png")
    named = [ReportRun(name="the <base>", path=runs / "base"), ReportRun(name="better", path=runs / "better")]
    result = build_report(
        [*named, ReportRun(name="training", path=train)],
        title="A & B", notes=["a <note>"], commands=["amp eval pope --out a"], html=page, max_items=60,
    )  # fmt: skip
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "the &lt;base&gt;" in text
    assert "A &amp; B" in text
    assert "$ amp eval pope --out a" in text
    assert 'src="http' not in text
    assert "url(" not in text
    assert text.count("data:image/png;base64,") == 12  # ten images of six lines each, the first example, the curves
    assert "60 of 240 questions and descriptions, on 10 of 40 images" in text
    assert '<span class="invented" title="not in the image">' in text
    assert "quoted" in text
    assert result["html"] == str(page)
    assert [run["name"] for run in result["runs"]] == ["the <base>", "better", "training"]
    assert result["runs"][0]["differences"] == []
    assert result["runs"][1]["differences"][0]["benchmark"] == "pope"


def test_the_page_can_be_read_by_ear_and_keyboard_whatever_it_holds(runs: Path, tmp_path: Path) -> None:
    named = [ReportRun(name=name, path=runs / name) for name in ("base", "same", "better")]
    for count in (1, 2, 3):
        build_report(named[:count], notes=["A note"], commands=["amp eval"], html=tmp_path / "page.html", max_items=30)
        assert problems(tmp_path / "page.html") == []


def test_the_page_opens_with_what_came_out_and_an_invention_that_is_gone(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    named = [ReportRun(name=name, path=runs / name) for name in ("base", "better")]
    said = build_report(named, notes=["A note on reading"], html=page)["headline"]
    text = page.read_text()
    assert said.startswith("better is clearly better than base in POPE accuracy (all)")
    assert "<title>better against base: clearly better in 4 of 5 scores</title>" in text
    parts = ["<h1>", said, "numbers-first", 'class="example"', 'id="differences"', 'id="tables"', 'id="answers"']
    places = [text.index(part, text.index("<main")) for part in [*parts, 'id="reading"', "A note on reading"]]
    assert places == sorted(places)
    before, after = text[text.index('class="example"') :].split('<div class="reply">')[1:3]
    assert 'class="invented"' in before
    assert 'class="invented"' not in after.split("</div>")[0]


def test_only_where_the_runs_differ_is_on_unless_they_differ_nowhere(runs: Path, tmp_path: Path) -> None:
    shown = {}
    for other in ("better", "same"):
        named = [ReportRun(name=name, path=runs / name) for name in ("base", other)]
        build_report(named, html=tmp_path / "page.html", max_items=30)
        shown[other] = (tmp_path / "page.html").read_text()
    assert 'id="differ" checked>' in shown["better"]
    assert 'id="differ">' in shown["same"]
    assert "no clear difference in 5 scores" in shown["same"]


def test_quoted_rows_stand_in_a_table_of_their_own(runs: Path, tmp_path: Path) -> None:
    build_report([ReportRun(name="base", path=runs / "base")], html=tmp_path / "page.html", max_items=30)
    tables = (tmp_path / "page.html").read_text().split("<table")[1:]
    quoted = [table for table in tables if "AMP-MEG-13B" in table]
    assert len(quoted) == 1
    assert quoted[0].startswith(' class="numbers sticky quoted"')
    assert "base</bdi>" not in quoted[0].split("</table>")[0]


def test_images_that_are_gone_are_said_to_be_gone(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    run_benchmark(EvalSettings(benchmark="pope", data=folder, out=tmp_path / "run"), answerer=speaker(data, 0.1))
    (folder / "0.png").unlink()
    build_report([ReportRun(name="run", path=tmp_path / "run")], html=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count(">image not found<") == 1


def test_the_command_prints_tables_or_one_json_object(runs: Path) -> None:
    shown = CliRunner().invoke(app, ["report", str(runs / "base"), str(runs / "better")])
    assert shown.exit_code == 0, shown.output
    assert "Difference to base" in shown.stdout
    assert "Quoted" in shown.stdout
    printed = CliRunner().invoke(app, ["report", str(runs / "base"), str(runs / "better"), "--json"])
    assert json.loads(printed.stdout)["runs"][1]["name"] == "better"


def test_eval_scores_again_and_exits_3_when_items_were_left_out(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "0.png").write_bytes(b"")
    out = tmp_path / "run"
    run_benchmark(EvalSettings(benchmark="pope", data=folder, out=out), answerer=speaker(data, 0.1))
    result = CliRunner().invoke(app, ["eval", "pope", "--out", str(out), "--only", "score", "--json"])
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["rejected"] == 5


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda whole: b"\n".join(whole.split(b"\n")[:100]) + b"\n", "holds 100 whole lines of 200"),
        (lambda whole: whole[:-10], "holds 199 whole lines of 200"),
        (lambda whole: whole.replace(b'"split"', b'"spilt"', 1), "line 1 lacks the field 'split'"),
        (lambda whole: whole.replace(b'"random"', b"7", 1), "line 1 holds something else in 'split'"),
        (None, "has scores but no items.jsonl"),
    ],
)
def test_a_cut_or_damaged_items_file_is_not_reported_from_and_not_touched(
    runs: Path, tmp_path: Path, cut: Callable[[bytes], bytes] | None, words: str
) -> None:
    folder = Path(shutil.copytree(runs / "base" / "pope", tmp_path / "pope"))
    items = folder / "items.jsonl"
    content = b"" if cut is None else cut(items.read_bytes())
    items.unlink() if cut is None else items.write_bytes(content)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert isinstance(done.exception, AmpError)
    assert words in str(done.exception)
    assert "--only score" in done.exception.hint
    assert cut is None or items.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overall": None}, "is damaged"),
        ({"overall": 7}, "is damaged"),
        ({"benchmark": "none"}, "is not known"),
        ({"benchmark": 7}, "'benchmark' in .* must be a text"),
        ({"overall": {"accuracy": "high"}}, "not a number"),
    ],
)
def test_scores_that_are_not_as_amp_writes_them_are_refused_by_name(
    runs: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = Path(shutil.copytree(runs / "base" / "pope", tmp_path / "pope"))
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps({**scores, **change}))
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert isinstance(done.exception, AmpError)
    assert re.search(words, str(done.exception)), done.exception
