"""`--limit`: the same items for everybody, in proportion, whole where they belong together, and always said."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks import BENCHMARKS, dashb, hallusionbench
from amp_cli.benchmarks.hallusionbench import Place
from amp_cli.benchmarks.runner import run_benchmark, sampled
from amp_cli.benchmarks.sampling import Sampling, place_of, take
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.commands.eval import options_of
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.records import Answer, BenchmarkItem
from amp_cli.report.report import build_report
from amp_cli.report.runs import ReportRun
from tests.support.settings import eval_settings

GOLDEN = Path(__file__).parents[1] / "golden"


def items(*ids: str) -> list[BenchmarkItem]:
    return [BenchmarkItem(id=one, images=(), questions=(one,)) for one in ids]


def ids_of(found: Sequence[BenchmarkItem]) -> list[str]:
    return [one.id for one in found]


def test_strata_keep_their_shares_and_a_higher_limit_adds_to_a_lower_one() -> None:
    """The drawing at the top of the file: places 1/8, 3/8, 5/8, 7/8 of four and 1/4, 3/4 of two."""
    by_letter = Sampling(strata=lambda item: (item.id[0],))
    four, two = [f"a{number}" for number in range(4)], [f"b{number}" for number in range(2)]
    a, b = (sorted(ids, key=lambda one: place_of(one, 0)) for ids in (four, two))
    order = [a[0], b[0], a[1], a[2], b[1], a[3]]
    for limit in range(1, 7):
        assert set(ids_of(take(items(*four, *two), by_letter, limit, 0))) == set(order[:limit])


def test_the_order_of_the_items_stays_and_that_of_the_file_does_not_matter() -> None:
    names = [f"q{number}" for number in range(20)]
    found = ids_of(take(items(*names), Sampling(), 5, 0))
    assert found == [name for name in names if name in found]
    assert set(ids_of(take(items(*reversed(names)), Sampling(), 5, 0))) == set(found)
    assert set(ids_of(take(items(*names), Sampling(), 5, 1))) != set(found)


def test_what_belongs_together_is_asked_together_and_the_limit_is_not_exceeded() -> None:
    pairs = Sampling(whole=lambda item: item.id[0])
    found = ids_of(take(items("a1", "a2", "b1", "b2", "c1", "c2"), pairs, 5, 0))
    assert sorted(Counter(name[0] for name in found).values()) == [2, 2]
    assert len(take(items("a1", "a2"), pairs, 1, 0)) == 2  # never nothing
    by_letter = Sampling(whole=lambda item: item.id[0], unit="letters")
    assert len(take(items("a1", "a2", "b1", "b2"), by_letter, 1, 0)) == 2  # one letter


def test_dash_b_stays_balanced_at_every_limit() -> None:
    settings = EvalSettings(benchmark="dashb", out=Path("out"))
    loaded = dashb.load(GOLDEN / "dashb", settings)
    for limit in range(1, 13):
        found = take(loaded.items, dashb.BENCHMARK.sampling or Sampling(), limit, 0)
        counts = Counter(item.reference["label"] for item in found)
        assert len(found) == limit
        assert abs(counts["yes"] - counts["no"]) <= 1


def test_hallusionbench_keeps_its_sets_whole() -> None:
    settings = EvalSettings(benchmark="hallusionbench", out=Path("out"), limit=14)
    whole = hallusionbench.load(GOLDEN / "hallusionbench", settings)
    found = sampled(hallusionbench.BENCHMARK, whole, settings)
    sets = {Place.of(item.id).set for item in found.items}
    assert 0 < len(found.items) <= 14
    assert list(found.items) == [item for item in whole.items if Place.of(item.id).set in sets]


def answering(asked: list[str]) -> Callable[..., None]:
    def answer(
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        for request in requests:
            if request.id not in done:
                asked.append(request.id)
                on_answer(Answer(id=request.id, answers=("Yes",)))

    return answer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("neg", "pos"):
        (folder / split / "toy" / "cup").mkdir(parents=True)
        names = [f"{number}.png" for number in range(10)]
        for name in names:
            Image.new("RGB", (4, 4)).save(folder / split / "toy" / "cup" / name)
        (folder / f"dash_benchmark_{split}.json").write_text(json.dumps({"toy": {"cup": names}}))
    return folder


def run(data: Path, out: str, limit: int | None, asked: list[str], **settings: Any) -> dict[str, Any]:
    given = EvalSettings(benchmark="dashb", data=data, out=data.parent / out, limit=limit, **settings)
    return run_benchmark(given, answerer=answering(asked)).scores


def test_a_limit_is_recorded_and_said_in_scores_tables_and_report(data: Path) -> None:
    scores = run(data, "few", 6, [])
    assert scores["limit"] == {"asked": 6, "of": 20, "items": "questions", "seed": 0}
    assert scores["splits"]["neg"]["n"] == scores["splits"]["pos"]["n"] == 3
    ((title, _, _),) = BENCHMARKS["dashb"].tables(scores)
    assert "6 of 20 questions, seed 0" in title
    facts = Run.read(data.parent / "few")
    assert (facts.settings["limit"], facts.settings["limit_seed"]) == (6, 0)
    page = data.parent / "page.html"
    build_report([ReportRun(name="few", path=data.parent / "few")], html=page)
    assert "6 of 20 questions, seed 0, chosen by --limit" in page.read_text()


def test_without_a_limit_or_beyond_all_nothing_is_said(data: Path) -> None:
    assert "limit" not in run(data, "all", None, [])
    assert "limit" not in run(data, "beyond", 21, [])


def test_a_higher_limit_goes_on_and_a_lower_one_is_refused(data: Path) -> None:
    asked: list[str] = []
    run(data, "grows", 6, asked)
    run(data, "grows", 8, asked)
    assert (len(asked), len(set(asked))) == (8, 8)
    with pytest.raises(AmpError, match="was made with --limit 8, and --limit 6 asks for less"):
        run(data, "grows", 6, asked)
    assert "limit" not in run(data, "grows", None, asked)
    assert len(set(asked)) == len(asked) == 20
    with pytest.raises(AmpError, match="was made with everything"):
        run(data, "grows", 19, asked)


def test_another_seed_is_another_sample_and_refused_in_the_same_folder(data: Path) -> None:
    first: list[str] = []
    other: list[str] = []
    run(data, "one", 6, first)
    run(data, "two", 6, other, limit_seed=1)
    assert set(first) != set(other)
    with pytest.raises(AmpError, match="limit_seed"):
        run(data, "one", 6, first, limit_seed=1)


def test_of_a_file_with_all_answers_only_those_are_scored(data: Path) -> None:
    run(data, "all", None, [])
    asked: list[str] = []
    answers = data.parent / "all" / "answers.jsonl"
    scores = run(data, "few", 6, asked, answers=answers)
    assert (scores["overall"]["n"], scores["limit"]["of"], asked) == (6, 20, [])
    again = run_benchmark(EvalSettings(benchmark="dashb", out=data.parent / "few", only="score")).scores
    assert again == scores


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_limit_and_its_seed(name: str) -> None:
    assert {"limit", "limit_seed"} <= options_of(BENCHMARKS[name]).keys()


def test_the_command_takes_it_and_refuses_none(data: Path) -> None:
    words = ["eval", "dashb", "--model", "tiny", "--data", str(data), "--out", str(data.parent / "out"), "--limit", "0"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2


def test_of_a_file_with_all_verdicts_only_those_are_taken_and_more_with_a_higher_limit(tmp_path: Path) -> None:
    golden = GOLDEN / "hallusionbench"
    given = {"part": "all", "answers": golden / "HallusionBench_result.json", "verdicts": golden / "checked.json"}
    counts = []
    for limit in (10, 20, None):
        scores = run_benchmark(
            eval_settings(benchmark="hallusionbench-judged", data=golden, out=tmp_path / "out", limit=limit, **given)
        ).scores
        assert (scores["unscored"], scores["rejected"]) == (0, 0)
        counts.append(scores["n"])
    assert 0 < counts[0] < counts[1] < counts[2] == 36
