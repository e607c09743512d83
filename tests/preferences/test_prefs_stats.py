"""`amp prefs stats`: every figure by hand, one pass, tables, bars and an image."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli import ui
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences import nounchunks
from amp_cli.preferences.figures import SAMPLED, Figures, PairStyle, spread
from amp_cli.preferences.measuring import binned, measure
from amp_cli.records import Level, PreferenceItem

ITEMS: list[dict[str, Any]] = [
    {
        "id": "a",
        "images": ["p.png", "q.png"],
        "questions": ["One?", "Two?"],
        "levels": [
            {"answers": ["one two three", "four"], "source": "standard"},
            {"answers": ["one two", "three"], "source": "big", "accuracy": 0.5, "score": 0.7},
            {"answers": ["one", "two"], "source": "small", "accuracy": 0.25},
        ],
        "meta": {"dataset": "farm"},
    },
    {
        "id": "b",
        "images": ["p.png", "p.png"],
        "questions": ["One?"],
        "levels": [{"answers": ["one"], "source": "big"}, {"answers": ["one two three"], "source": "small"}],
    },
    {
        "id": "c",
        "images": [],
        "questions": ["One?"],
        "levels": [{"answers": ["one two"], "source": "standard"}, {"answers": ["two one"], "source": "small"}],
        "meta": {"dataset": "farm"},
    },
]


@pytest.fixture
def prefs(tmp_path: Path) -> Path:
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return path


def figures_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    figures = Figures()
    for item in items:
        figures.add(PreferenceItem.from_json(item))
    return figures.to_json()


def test_items_levels_rounds_and_data_sets_are_counted() -> None:
    numbers = figures_of(ITEMS)
    assert numbers["items"] == 3
    assert numbers["levels"] == {"2": 2, "3": 1}
    assert numbers["rounds"] == {"1": 2, "2": 1}
    assert numbers["datasets"] == {"farm": 2, "": 1}


def test_images_are_counted_by_name_and_once_an_item() -> None:
    assert figures_of(ITEMS)["pictures"] == {
        "per_item": {"0": 1, "2": 2},
        "distinct": 2,
        "in_several_items": 1,
        "most_items": 2,
    }
    assert figures_of(ITEMS[2:])["pictures"]["most_items"] == 0


def test_words_are_summed_over_rounds_and_described_by_level() -> None:
    first, second, third = figures_of(ITEMS)["per_level"]  # 4, 1, 2 words; 3, 3, 2 words; 2 words
    assert (first["n"], second["n"], third["n"]) == (3, 3, 1)
    assert first["words"] == {"mean": pytest.approx(7 / 3), "min": 1, "q1": 1, "median": 2, "q3": 4, "max": 4}
    assert second["words"]["mean"] == pytest.approx(8 / 3)
    assert (first["accuracy"], second["accuracy"], third["accuracy"]) == (None, 0.5, 0.25)
    assert (second["score"], third["score"]) == (0.7, None)


def test_sources_have_their_mean_level() -> None:
    sources = figures_of(ITEMS)["per_source"]
    assert list(sources) == ["small", "standard", "big"]
    assert sources["small"]["mean_level"] == pytest.approx((2 + 1 + 1) / 3)
    assert (sources["big"]["n"], sources["big"]["mean_level"], sources["big"]["accuracy"]) == (2, 0.5, 0.5)


def test_differences_are_better_minus_worse() -> None:
    adjacent = figures_of(ITEMS)["length_differences"]["adjacent"]  # 4-3, 3-2, 1-3, 2-2
    assert adjacent["pairs"] == 4
    assert adjacent["mean"] == 0
    assert (adjacent["min"], adjacent["max"]) == (-2, 1)
    assert (adjacent["better_is_longer"], adjacent["equally_long"]) == (0.5, 0.25)
    ends = figures_of(ITEMS)["length_differences"]["best_and_worst"]  # 4-2, 1-3, 2-2
    assert (ends["pairs"], ends["mean"], ends["better_is_longer"]) == (3, 0, pytest.approx(1 / 3))


def test_quartiles_of_counted_numbers_are_those_of_the_list() -> None:
    assert spread({1: 1, 2: 1, 3: 1, 100: 1}) == {"mean": 26.5, "min": 1, "q1": 1, "median": 2, "q3": 3, "max": 100}
    assert spread({-5: 1000, 7: 1})["median"] == -5


def test_bins_are_equal_hold_all_and_one_starts_at_zero() -> None:
    counts = Counter({-7: 2, 0: 5, 3: 1, 12: 4})
    bins = binned(counts, 5)
    assert sum(items for _, _, items in bins) == 12
    assert len(bins) <= 5
    assert {high - low for low, high, _ in bins} == {5}
    assert 0 in [low for low, _, _ in bins]
    assert bins[0] == (-10, -5, 2)
    assert binned(Counter({4: 3}), 5) == [(4, 5, 3)]


def test_one_odd_item_does_not_widen_the_bins() -> None:
    bins = binned(Counter({0: 500, 5: 500, 90_000: 1}), 5)
    assert bins[-1][1] <= 10
    assert sum(items for _, _, items in bins) == 1001


def test_the_json_object_is_the_only_thing_on_stdout(prefs: Path) -> None:
    result = CliRunner().invoke(app, ["prefs", "stats", str(prefs), "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    chunks = told["pair_style"].pop("noun_chunks")
    assert chunks["with_level_0"]["pairs"] == 4
    expected = figures_of(ITEMS)
    del expected["pair_style"]["noun_chunks"]
    expected["pair_style"]["why_no_noun_chunks"] = None
    assert told == {"rejected": 0, **expected}


def test_tables_and_bars_are_shown(prefs: Path) -> None:
    result = CliRunner().invoke(app, ["prefs", "stats", str(prefs)])
    assert result.exit_code == 0
    for text in ("different images", "1 in 2 items, 2 in 1 items", "standard", "(not named)", "█", "-2 to", "+0.0"):
        assert text in result.stdout, text
    assert "amp prefs view" in result.stderr


def test_a_folder_takes_figures_image_and_what_was_refused(prefs: Path, tmp_path: Path) -> None:
    prefs.write_text(prefs.read_text() + '{"id": "bad", "questions": ["Q"], "levels": []}\n')
    out = tmp_path / "stats"
    result = CliRunner().invoke(app, ["prefs", "stats", str(prefs), "--out", str(out), "--json"])
    assert result.exit_code == 3
    assert json.loads((out / "stats.json").read_text()) == json.loads(result.stdout)
    assert json.loads(result.stdout)["rejected"] == 1
    assert json.loads((out / "rejected.jsonl").read_text())["id"] == "bad"
    with Image.open(out / "stats.png") as image:
        assert image.width > 800
    assert "rejected.jsonl" in result.stderr


def test_a_set_without_accuracy_is_drawn_too(tmp_path: Path, prefs: Path) -> None:
    prefs.write_text(json.dumps(ITEMS[1]))
    measure(str(prefs), tmp_path / "out")
    assert (tmp_path / "out" / "stats.png").stat().st_size > 5000


def test_the_folder_of_a_run_is_not_overwritten(prefs: Path) -> None:
    (prefs.parent / "run.json").write_text("{}")
    (prefs.parent / "rejected.jsonl").write_text("precious")
    with pytest.raises(AmpError, match="holds a run"):
        measure(str(prefs), prefs.parent)
    assert (prefs.parent / "rejected.jsonl").read_text() == "precious"


def test_a_file_without_an_item_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "x", "questions": ["Q"], "levels": []}\n')
    with pytest.raises(AmpError, match=r"None of the 1 entries of .*; the first: .*0 level"):
        measure(str(tmp_path / "bad.jsonl"))


def test_bars_begin_on_one_axis(capsys: pytest.CaptureFixture[str]) -> None:
    ui.bars("Title", [("half", 0, 5, "five"), ("whole", 0, 10, "ten"), ("late", 5, 10, "[b]")])
    title, half, whole, late = capsys.readouterr().out.splitlines()
    assert title.strip() == "Title"
    assert (half.count("█"), whole.count("█"), late.count("█")) == (20, 40, 20)
    assert late.index("█") > half.index("█")
    assert late.rstrip().endswith("[b]")


def styled(*words_by_level: tuple[int, ...], text: str = "a dog") -> PairStyle:
    """Return the style of items whose levels have so many words."""
    style = PairStyle()
    for number, counts in enumerate(words_by_level):
        answers = [" ".join((text.split() * count)[:count]) for count in counts]
        levels = tuple(Level(answers=(answer,), source="a") for answer in answers)
        style.take(PreferenceItem(id=str(number), images=(), questions=("What?",), levels=levels))
    return style


def test_pairs_with_level_0_and_those_among_the_others_are_compared_apart() -> None:
    words = styled((10, 14, 12), (10, 8)).to_json()["words"]
    # with level 0: -4, -2 and +2; among the others: +2; the worse sides have 14, 12 and 8 words, and 12
    assert words["with_level_0"]["difference"] == pytest.approx(-4 / 3)
    assert words["with_level_0"]["relative"] == pytest.approx(-4 / 34)
    assert words["with_level_0"]["better_has_less"] == pytest.approx(2 / 3)
    assert words["with_level_0"]["better_has_more"] == pytest.approx(1 / 3)
    assert (words["with_level_0"]["pairs"], words["with_level_0"]["items"]) == (3, 2)
    # residuals of the items' sums: -6 - 2 * -4/3 = -10/3 and 2 + 4/3 = 10/3, over 3 pairs, 2 items of which one is free
    half = 1.96 * math.sqrt(2 * (10 / 3) ** 2 * 2) / 3
    assert words["with_level_0"]["ci95"] == pytest.approx([-4 / 3 - half, -4 / 3 + half])
    assert (words["among_others"]["difference"], words["among_others"]["ci95"]) == (2, None)  # one item has no spread


@pytest.mark.parametrize(
    ("items", "is_told"),
    [
        ([(9, 10)] * 20, True),  # a tenth of the worse side's ten words
        ([(91, 100)] * 20, False),  # less than a tenth
        ([(9, 10)] * 19, False),  # too few items
        ([(5, 10), (14, 10)] * 20, False),  # not beyond chance
    ],
)
def test_a_lean_of_pairs_with_level_0_is_told_when_it_is_clear(items: list[tuple[int, ...]], is_told: bool) -> None:
    told = styled(*items).finding()
    assert (told is not None) == is_told
    assert told is None or "in pairs with level 0 the better side is 1.0 words (10%) shorter" in told


def test_noun_chunks_of_the_better_side_are_counted() -> None:
    style = PairStyle()
    answers = ("A dog sits on a sofa.", "A dog, a cat and a ball are on a sofa.", "There is a dog.")
    levels = tuple(Level(answers=(answer,), source="a") for answer in answers)
    style.take(PreferenceItem(id="a", images=(), questions=("What?",), levels=levels))
    style.count_chunks()
    chunks = style.to_json()["noun_chunks"]
    assert chunks["with_level_0"]["difference"] == -0.5  # 2 - 4 and 2 - 1
    assert (chunks["with_level_0"]["better_has_less"], chunks["with_level_0"]["better_has_more"]) == (0.5, 0.5)
    assert chunks["among_others"]["difference"] == 3  # 4 - 1


def test_why_noun_chunks_are_not_counted_is_said() -> None:
    german = styled((12, 14), text="der Hund sitzt auf dem Sofa und die Katze ist neben dem Tisch")
    german.count_chunks()
    assert german.chunks is None
    assert "no answer is in the language of en_core_web_sm" in (german.why_no_chunks or "")


def test_without_a_parser_the_words_are_told_and_what_is_missing(prefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(model: str) -> str:
        raise AmpError(f"The spaCy model '{model}' is not installed", hint="pip install it")

    monkeypatch.setattr(nounchunks, "spacy_language", missing)
    result = CliRunner().invoke(app, ["prefs", "stats", str(prefs)])
    assert result.exit_code == 0
    assert "with level 0" in result.stdout
    assert "Noun chunks are not counted: The spaCy model" in " ".join(result.stderr.split())


def test_a_sample_of_a_large_set_holds_no_more_items_and_comes_from_all_of_it() -> None:
    style = styled(*[(1, 2)] * (5 * SAMPLED))
    places = [int(item.id) for item in style._sample]
    assert len(set(places)) == SAMPLED
    assert max(places) > 4 * SAMPLED
    assert style.words.with_level_0.difference.items == 5 * SAMPLED
