"""What a report opens with, and how it draws: the sentence, the numbers, the example, the axes, the colours."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.showing import Piece, Reply, Row
from amp_cli.disk.templates import template_path
from amp_cli.report.answers import Place, choose_example
from amp_cli.report.opening import opening_of
from amp_cli.report.plots import axis, difference_plots, judgement_of
from amp_cli.report.runs import Evaluation, GatheredRun
from tests.support.pages import colours, contrast


def of(name: str, base: float, other: float, low: float, high: float) -> Difference:
    benchmark = "pope" if "/" in name else "chair"
    return Difference(benchmark=benchmark, name=name, base=base, other=other, ci95=(low, high), n=40)


def run(name: str, *differences: Difference) -> GatheredRun:
    of_benchmarks = {
        benchmark: Evaluation(
            folder=Path(name) / benchmark,
            scores={"rule": "strict", "overall": {"n": 40, "accuracy": 0.6, "ci95": {"accuracy": [0.5, 0.7]}}},
            differences=tuple(one for one in differences if one.benchmark == benchmark),
        )
        for benchmark in ("pope", "chair")
    }
    return GatheredRun(name=name, path=Path(name), evaluations=of_benchmarks, training=())


BASE = run("base")
GAIN = of("overall/accuracy", 0.6, 0.7, 0.05, 0.15)
LESS_INVENTED = of("chair_i", 0.3, 0.1, -0.25, -0.15)
LESS_RECALLED = of("recall", 0.8, 0.7, -0.15, -0.05)
CHANCE = of("chair_i", 0.3, 0.28, -0.06, 0.02)


def test_the_sentence_names_gains_and_every_clear_loss() -> None:
    opening = opening_of([BASE, run("mdpo", GAIN, LESS_INVENTED, LESS_RECALLED)])
    assert opening.title == "mdpo against base: clearly better in 2 and clearly worse in 1 of 3 scores"
    assert opening.sentence == (
        "mdpo is clearly better than base in POPE accuracy (all) from 0.600 to 0.700 and CHAIR-i from 0.300 to 0.100, "
        "but clearly worse in CHAIR recall from 0.800 to 0.700."
    )
    assert [(one.what, one.value, one.before, one.judgement) for one in opening.numbers] == [
        ("POPE accuracy (all)", "0.700", "0.600", "better"),
        ("CHAIR-i", "0.100", "0.300", "better"),
        ("CHAIR recall", "0.700", "0.800", "worse"),
    ]


def test_what_may_be_chance_is_called_so_and_nothing_better_is_claimed() -> None:
    opening = opening_of([BASE, run("new", CHANCE)])
    assert opening.title == "new against base: no clear difference in 1 score"
    assert opening.sentence == ("The difference between new and base in CHAIR-i from 0.300 to 0.280 may be chance.")
    as_good = opening_of([BASE, run("new", of("chair_i", 0.3, 0.3, -0.06, 0.04))])
    assert as_good.sentence == "There is no difference between new and base in CHAIR-i, 0.300."
    mixed = opening_of([BASE, run("new", GAIN, CHANCE)]).sentence
    assert mixed.endswith("to 0.700; the difference in CHAIR-i from 0.300 to 0.280 may be chance.")


def test_a_loss_alone_and_an_equal_score_are_told() -> None:
    worse = of("overall/accuracy", 0.7, 0.6, -0.15, -0.05)
    same = of("chair_i", 0.3, 0.3, 0.0, 0.0)
    assert opening_of([BASE, run("new", worse, same)]).sentence == (
        "new is clearly worse than base in POPE accuracy (all) from 0.700 to 0.600; "
        "there is no difference in CHAIR-i, 0.300."
    )
    assert judgement_of(same, True) == "same"


def test_the_opening_is_about_the_last_run_not_the_best() -> None:
    runs = [BASE, run("best", GAIN, LESS_INVENTED), run("last", CHANCE)]
    assert opening_of(runs).other == "last"


def test_one_run_is_not_compared_and_says_what_is_missing() -> None:
    opening = opening_of([BASE])
    assert opening.title == "base: POPE accuracy (all) 0.600"
    assert opening.sentence == "base reaches 0.600 in POPE accuracy (all); give a second run to compare it with."
    assert (opening.base, opening.other) == ("base", None)
    assert opening.numbers[0].difference == "[0.500, 0.700]"
    training = GatheredRun(name="t", path=Path("t"), evaluations={}, training=(Path("t"),))
    assert opening_of([training]).title == "Training of t"


# --- the example


def described(run: str, *invented: str) -> Reply:
    pieces = (
        Piece(text="A "),
        Piece(text="dog", kind="right"),
        *(Piece(text=one, kind="invented") for one in invented),
    )
    return Reply(run=run, pieces=pieces, fault=float(len(invented)), made_up=bool(invented))


def row(name: str, *replies: Reply) -> Row:
    return Row(
        images=(name,), question="Describe.", truth="dog", note="", replies=replies,
        differs=len({reply.fault for reply in replies}) > 1, is_short=False,
    )  # fmt: skip


def asked(name: str, truth: str, *verdicts: str) -> Row:
    replies = tuple(
        Reply(run=run, pieces=(Piece(text="Yes"),), verdict=verdict, fault=float(verdict == "wrong"))
        for run, verdict in zip(("base", "new"), verdicts, strict=True)
    )
    return Row(
        images=(name,), question="A cat?", truth=truth, note="", replies=replies, differs=True, is_short=True
    )  # fmt: skip


def test_the_first_example_is_one_that_the_base_invents_and_the_other_does_not(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    rows: dict[Place, list[Row]] = {
        "a": [row("a", described("base"), described("new", "a cat", "a cow", "a car"))],
        tmp_path / "b.png": [row("b.png", described("base", "a cat"), described("new"))],
        "c": [asked("c", "no", "wrong", "right"), asked("c", "yes", "wrong", "right")],
    }
    example = choose_example(rows, "base", "new")
    assert example is not None
    assert example.row.images == ("b.png",)
    assert [reply.run for reply in example.replies] == ["base", "new"]
    assert example.source.startswith("data:image/png")
    assert example.seen == "b.png, in which there is: dog"
    assert example.why == (
        "Chosen because base invents something here and new does not. That is so in 2 of 4 answered items; in 1 it is "
        "the other way round."
    )


def test_without_such_an_item_the_largest_difference_is_shown_and_it_is_said() -> None:
    rows: dict[Place, list[Row]] = {
        "a": [row("a", described("base"), described("new"))],
        "b": [row("b", described("base"), described("new", "a cat", "a cow"))],
        "c": [row("c", described("base", "a cat"), described("new", "a cow"))],
    }
    example = choose_example(rows, "base", "new")
    assert example is not None
    assert example.row.images == ("b",)
    assert example.why.startswith("There is no item in which base invents something and new does not; this is the one")
    assert "so in 1 of 3" in example.why
    assert choose_example({"a": [row("a", described("base"))]}, "base", "new") is None


def test_a_yes_to_what_is_not_there_is_invented_and_a_no_to_what_is_there_is_not() -> None:
    false_yes, false_no = asked("a", "no", "wrong", "right"), asked("a", "yes", "wrong", "right")
    assert [false_yes.invents(reply) for reply in false_yes.replies] == [True, False]
    assert [false_no.invents(reply) for reply in false_no.replies] == [False, False]


# --- the plots


def test_an_axis_is_zoomed_to_what_it_holds_and_its_steps_are_round() -> None:
    made = axis([0.60, 0.70], is_difference=False, full=1.0)
    assert (made.low, made.high) == (pytest.approx(0.592), pytest.approx(0.708))
    assert [label for _, label in made.ticks] == ["0.60", "0.62", "0.64", "0.66", "0.68", "0.70"]
    assert made.place(0.65) == pytest.approx(50, abs=0.01)
    both = axis([-0.2, 0.05, 0.0], is_difference=True, full=1.0)
    assert [label for _, label in both.ticks] == ["−0.20", "−0.15", "−0.10", "−0.05", "0", "+0.05"]
    alone = axis([0.0], is_difference=True, full=1.0)
    assert [label for _, label in alone.ticks] == ["−0.010", "−0.005", "0", "+0.005", "+0.010"]
    assert axis([0.0, 0.5], is_difference=False, full=1.0).low == 0.0  # no score is below zero


def test_a_difference_is_drawn_where_it_lies_and_told_in_words() -> None:
    runs = [(0, BASE), (1, run("new", LESS_INVENTED, LESS_RECALLED))]
    invented, recall = difference_plots(BENCHMARKS["chair"], runs)
    (dot,) = invented.dots
    assert dot.seen == "new less base: −0.200, 95 % interval −0.250 to −0.150, left of zero: better"
    assert invented.axis == recall.axis  # one scale, one axis
    assert invented.zero is not None
    assert dot.low is not None
    assert dot.high is not None
    assert 0 < dot.low < dot.place < dot.high < invented.zero < 100
    assert (invented.is_better_left, recall.is_better_left) == (True, False)
    assert recall.dots[0].judgement == "worse"


def test_an_interval_beside_zero_may_be_chance_once_it_is_corrected() -> None:
    def seen(difference: Difference) -> str:
        benchmark = BENCHMARKS[difference.benchmark]
        (plot,) = difference_plots(benchmark, [(0, BASE), (1, run("new", difference))])
        return plot.dots[0].seen.partition("0, ")[2].rpartition(", ")[2]

    assert seen(GAIN) == "right of zero: better"
    assert seen(replace(GAIN, p_value=0.04, adjusted=0.2)) == "right of zero: may be chance"
    assert seen(CHANCE) == "across zero: may be chance"


# --- the colours

READ = [*product(("text", "quiet", "accent", "good", "bad"), ("page", "card", "soft")), ("bad", "bad-back")]
DRAWN = [*product([f"s{number}" for number in range(6)], ("card", "good-back")), ("edge", "card")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_marks_stand_out(scheme: str) -> None:
    named = colours(template_path("report", "report.css"))[scheme]
    assert [pair for pair in READ if contrast(named[pair[0]], named[pair[1]]) < 4.5] == []
    assert [pair for pair in DRAWN if contrast(named[pair[0]], named[pair[1]]) < 3] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_preferences_can_be_read_too(scheme: str) -> None:
    named = colours(template_path("report", "prefs.css"))[scheme]
    pairs = [
        *product(("ink", "soft", "accent"), ("page", "card", "chosen")),
        ("good", "good-back"),
        ("bad", "bad-back"),
    ]
    assert [pair for pair in pairs if contrast(named[pair[0]], named[pair[1]]) < 4.5] == []
    assert contrast(named["edge"], named["card"]) >= 3
