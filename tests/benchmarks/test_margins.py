"""What probabilities of yes and no say: AUC, calibration and balance by hand, and where a change comes from."""

import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from amp_cli.benchmarks import amber, margins, yes_no
from amp_cli.benchmarks.amber_files import AmberAnswer, read_score
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.runner import read_scores, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.benchmarks.yes_no import YesNoScore
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.records import YesOrNo


def begins(margin: float) -> YesOrNo:
    """Return probabilities, of 0.9 together, with this margin in nats."""
    share = 1 / (1 + math.exp(-margin))
    return YesOrNo(yes=0.9 * share, no=0.9 * (1 - share))


def asked(
    rows: Sequence[tuple[float | None, bool]], *, shift: float = 0.0, split: str = "random", per_image: int = 1
) -> list[YesNoScore]:
    """Return questions of a model that says yes above its margin `shift`."""
    return [
        YesNoScore(
            id=f"{split}-{number}",
            split=split,
            images=(f"{number // per_image}.jpg",),
            question="Is there a dog?",
            answer="",
            label=label,
            reading=None if margin is None else margin > shift,
            probabilities=None if margin is None else begins(round(margin, 9)),
        )
        for number, (margin, label) in enumerate(rows)
    ]


BY_HAND = [(-1.0, False), (0.5, False), (1.0, False), (1.0, True), (2.0, True), (3.0, True)]
"""The example at the head of margins.py."""


def same_margins(rows: Sequence[tuple[float, bool]]) -> list[YesNoScore]:
    """Return questions whose equal margins are equal to the last bit: probabilities are written out."""
    scale = {-1.0: (0.2, 0.4), 0.5: (0.3, 0.2), 1.0: (0.6, 0.2), 2.0: (0.7, 0.1), 3.0: (0.8, 0.05)}
    scores = asked(rows)
    return [
        replace(one, probabilities=YesOrNo(yes=scale[margin][0], no=scale[margin][1]))
        for one, (margin, _) in zip(scores, rows, strict=True)
    ]


# --- numbers by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 3, 1, 4, 2, 0), (0, 1, 3, 2, 4, 5)])
def test_auc_and_balance_by_hand_with_a_tie_in_any_order(order: tuple[int, ...]) -> None:
    scores = same_margins([BY_HAND[place] for place in order])
    block = margins.measured(scores, {"all": scores})["all"]
    assert block["auc"] == pytest.approx(8.5 / 9, abs=1e-12)
    assert block["accuracy_at_balance"] == pytest.approx(5 / 6, abs=1e-12)
    assert block["threshold_cost"] == pytest.approx(1 / 6, abs=1e-12)
    assert block["threshold_at_balance"] == pytest.approx(math.log(0.6 / 0.2), abs=1e-12)  # within the tied pair
    assert block["margin"] == pytest.approx(
        (math.log(0.5) + math.log(1.5) + 2 * math.log(3) + math.log(7) + math.log(16)) / 6, abs=1e-12
    )
    assert block["probabilities"] == 6


def test_calibration_by_hand() -> None:
    # shares of yes 1/3 | 0.6 | 0.75, 0.75 | 0.875 | 16/17; truth 0 | 0 | 0, 1 | 1 | 1
    scores = same_margins(BY_HAND)
    expected = (1 / 3 + 0.6 + abs(1.5 - 1) + 0.125 + 1 / 17) / 6
    assert margins.measured(scores, {"all": scores})["all"]["ece"] == pytest.approx(expected, abs=1e-12)
    drawn = margins.distribution_of(scores)["probabilities"]
    filled = {number: one for number, one in enumerate(drawn["calibration"]) if one["n"]}
    assert {number: one["n"] for number, one in filled.items()} == {3: 1, 6: 1, 7: 2, 8: 1, 9: 1}
    assert filled[7] == {"n": 2, "yes": pytest.approx(0.75), "true": 0.5}
    # margins -0.69, 0.41, 1.10 twice, 1.95, 2.77; the borders begin at -12
    assert [number - 12 for number, count in enumerate(drawn["margins"]["no"]) if count] == [-1, 0, 1]
    assert [(number - 12, count) for number, count in enumerate(drawn["margins"]["yes"]) if count] == [(1, 2), (2, 1)]


def test_between_two_margins_the_threshold_is_their_middle() -> None:
    scores = asked([(-4.0, False), (1.0, False), (3.0, True), (5.0, True)])
    block = margins.measured(scores, {"all": scores})["all"]
    assert block["threshold_at_balance"] == pytest.approx(2.0)
    assert (block["auc"], block["accuracy_at_balance"], block["threshold_cost"]) == (1.0, 1.0, 0.25)


def test_when_all_margins_are_one_sight_is_chance() -> None:
    scores = [replace(one, probabilities=YesOrNo(yes=0.5, no=0.25)) for one in asked(BY_HAND)]
    block = margins.measured(scores, {"all": scores})["all"]
    assert (block["auc"], block["accuracy_at_balance"]) == (0.5, 0.5)


@pytest.mark.parametrize("label", [True, False])
def test_of_one_truth_only_nothing_but_calibration_is_defined(label: bool) -> None:
    scores = asked([(1.0, label), (2.0, label)])
    block = margins.measured(scores, {"all": scores})["all"]
    for name in ("auc", "accuracy_at_balance", "threshold_at_balance", "threshold_cost"):
        assert block[name] is None
        assert block["ci95"][name] is None
    assert block["ece"] is not None


def test_a_probability_of_zero_is_a_large_margin_and_two_are_none() -> None:
    assert margins.margin_of(YesOrNo(yes=0.5, no=0.0)) == pytest.approx(744, abs=1)
    assert margins.margin_of(YesOrNo(yes=0.0, no=0.5)) == pytest.approx(-744, abs=1)
    assert margins.margin_of(YesOrNo(yes=0.0, no=0.0)) is None
    scores = asked(BY_HAND)
    scores[0] = replace(scores[0], probabilities=YesOrNo(yes=0.0, no=0.0))
    assert margins.measured(scores, {"all": scores})["all"]["probabilities"] == 5
    json.dumps(margins.distribution_of([replace(scores[1], probabilities=YesOrNo(yes=1.0, no=0.0))]), allow_nan=False)


def test_ties_are_counted_as_an_independent_library_does() -> None:
    rng = random.Random(3)
    rows = [(rng.choice([-1.0, 0.5, 1.0, 2.0, 3.0]), rng.random() < 0.4) for _ in range(80)]
    scores = same_margins(rows)
    expected = roc_auc_score([label for _, label in rows], [margin for margin, _ in rows])
    assert margins.measured(scores, {"all": scores})["all"]["auc"] == pytest.approx(expected, abs=1e-12)


# --- intervals: images are drawn -------------------------------------------------------------------------------------


def test_a_drawn_image_counts_as_often_as_it_was_drawn() -> None:
    """Weights equal repetition: the measures of a draw are those of a list in which its questions are repeated."""
    rng = random.Random(1)
    scores = same_margins([(rng.choice([-1.0, 0.5, 1.0, 2.0, 3.0]), rng.random() < 0.5) for _ in range(24)])
    scores = [replace(one, images=(f"{number // 4}.jpg",)) for number, one in enumerate(scores)]
    units = [number // 4 for number in range(24)]
    times = np.array([[2, 0, 1, 3, 0, 0], [1, 1, 1, 1, 1, 1]])
    drawn = margins.measures(margins.in_order(scores, units), times)
    for row, weights in enumerate(times):
        repeated = [one for unit, one in zip(units, scores, strict=True) for _ in range(weights[unit])]
        alone = margins.measures(margins.in_order(repeated, [0] * len(repeated)), np.ones((1, 1)))
        for name in margins.NAMES:
            assert drawn[name][row] == pytest.approx(alone[name][0], abs=1e-12), (row, name)


def test_questions_about_one_image_are_drawn_together() -> None:
    """All of an image's questions are alike, so ten questions an image say no more than one."""
    rng = random.Random(0)
    rows = [(rng.gauss(1.0 if number % 2 else -1.0, 2.0), bool(number % 2)) for number in range(60)]
    once = asked(rows)
    tenfold = [replace(one, id=f"{one.id}-{copy}") for one in once for copy in range(10)]
    narrow, wide = (margins.measured(scores, {"all": scores})["all"]["ci95"]["auc"] for scores in (once, tenfold))
    assert wide == pytest.approx(narrow, abs=1e-9)
    apart = [replace(one, images=(one.id,)) for one in tenfold]
    low, high = margins.measured(apart, {"all": apart})["all"]["ci95"]["auc"]
    assert high - low < 0.5 * (wide[1] - wide[0])


# --- where a change comes from ---------------------------------------------------------------------------------------


def compared(pairs: Sequence[tuple[YesNoScore, YesNoScore]]) -> list[Difference]:
    return [*yes_no.compare(pairs, "strict"), *yes_no.measure(pairs)]


def two_runs(*, sharper: float = 1.0, shift: float = 1.5, count: int = 600) -> list[Difference]:
    """Compare a base that says yes too often with one of another threshold, and of margins that separate better."""
    rng = random.Random(7)
    noise = [rng.gauss(0, 1) for _ in range(count)]
    labels = [number % 2 == 0 for number in range(count)]
    base = [(1.5 + 1.2 * (1 if label else -1) + one, label) for one, label in zip(noise, labels, strict=True)]
    other = [
        (1.5 + 1.2 * sharper * (1 if label else -1) + one, label) for one, label in zip(noise, labels, strict=True)
    ]
    pairs = list(zip(asked(base, per_image=3), asked(other, shift=shift, per_image=3), strict=True))
    return compared(pairs)


def test_a_moved_threshold_is_told_from_better_sight() -> None:
    differences = two_runs()
    named = {one.name: one for one in differences}
    assert named["overall/auc"].difference == 0.0
    assert named["overall/accuracy"].is_clear
    sentence = margins.explanation(differences, "overall")
    assert sentence.startswith("The gain comes from the threshold: accuracy 0.")
    auc = named["overall/auc"].base
    assert f"AUC {auc:.3f} -> {auc:.3f} [+0.000, +0.000]" in sentence


def test_better_sight_is_told_from_a_moved_threshold() -> None:
    # the base's threshold is right from the start
    rng = random.Random(7)
    rows = [(rng.gauss(0, 1), number % 2 == 0) for number in range(600)]
    old, new = (
        asked([(noise + gap * (1 if label else -1), label) for noise, label in rows], per_image=3) for gap in (0.8, 2.0)
    )
    differences = compared(list(zip(old, new, strict=True)))
    assert margins.explanation(differences, "overall").startswith("The gain comes from sight: accuracy")
    back = compared(list(zip(new, old, strict=True)))
    assert margins.explanation(back, "overall").startswith("The loss comes from sight: accuracy")


def test_both_and_neither_are_said() -> None:
    assert margins.explanation(two_runs(sharper=2.0), "overall").startswith(
        "The gain comes from sight and from the thr"
    )
    same = two_runs(shift=0.0)
    assert margins.explanation(same, "overall").startswith("No clear change, of sight neither: accuracy")


def said(accuracy: tuple[float, float], auc: tuple[float, float], balance: tuple[float, float]) -> str:
    """Return the verdict on these intervals; what the threshold costs falls by what is left of the accuracy."""
    cost = (balance[0] - accuracy[0], balance[1] - accuracy[1])
    spans = {"accuracy": accuracy, "auc": auc, "accuracy_at_balance": balance, "threshold_cost": (min(cost), max(cost))}
    differences = [
        Difference(name=f"overall/{name}", base=0.5, other=0.5 + sum(ci) / 2, ci95=ci, n=9)
        for name, ci in spans.items()
    ]
    return margins.explanation(differences, "overall").partition(":")[0]


@pytest.mark.parametrize(
    ("accuracy", "auc", "balance", "verdict"),
    [
        ((0.01, 0.02), (-0.001, 0.001), (-0.002, 0.002), "The gain comes from the threshold"),
        (
            (0.01, 0.02),
            (-0.02, 0.03),
            (-0.009, 0.009),
            "The gain comes from the threshold, at least in part; whether from sight too is not clear",
        ),
        ((0.01, 0.02), (-0.02, -0.01), (-0.02, -0.01), "The gain comes from the threshold; sight got worse"),
        (
            (0.01, 0.02),
            (-0.01, 0.01),
            (0.0, 0.03),
            "Whether the gain comes from sight or from the threshold is not clear",
        ),
        ((0.01, 0.02), (0.01, 0.02), (0.03, 0.04), "The gain comes from sight; the threshold got worse"),
        ((0.01, 0.02), (0.01, 0.02), (-0.005, 0.03), "The gain comes from sight, at least in part"),
        ((-0.02, -0.01), (-0.02, -0.01), (-0.021, -0.009), "The loss comes from sight"),
        ((-0.02, -0.01), (0.01, 0.02), (0.01, 0.02), "The loss comes from the threshold; sight got better"),
        ((-0.02, 0.02), (-0.02, -0.01), (-0.02, 0.0), "Accuracy shows no clear change, but sight got worse"),
    ],
)
def test_a_verdict_says_no_more_than_its_intervals(
    accuracy: tuple[float, float], auc: tuple[float, float], balance: tuple[float, float], verdict: str
) -> None:
    assert said(accuracy, auc, balance) == verdict


def test_only_pairs_with_probabilities_on_both_sides_are_compared() -> None:
    old, new = asked(BY_HAND), asked(BY_HAND)
    new[0] = replace(new[0], probabilities=None)
    differences = {one.name: one for one in compared(list(zip(old, new, strict=True)))}
    assert (differences["overall/auc"].n, differences["overall/accuracy"].n) == (5, 6)
    bare = [replace(one, probabilities=None) for one in new]
    without = compared(list(zip(old, bare, strict=True)))
    assert not any(one.name.endswith("/auc") for one in without)
    assert margins.explanation(without, "overall") == ""


# --- in files and on the page ----------------------------------------------------------------------------------------


def files(folder: Path, rows: Sequence[tuple[float, bool]], *, answers: Path, known: int | None = None) -> Path:
    """Write label files of POPE and our own answers to them; the first `known` come with probabilities."""
    folder.mkdir(exist_ok=True)
    (folder / "coco_pope_random.json").write_text(
        "\n".join(
            json.dumps({"image": f"{number}.png", "text": "Is there a dog?", "label": "yes" if label else "no"})
            for number, (_, label) in enumerate(rows)
        )
    )
    settings = EvalSettings(benchmark="pope", data=folder, out=folder)
    lines = []
    for number, ((margin, _), item) in enumerate(zip(rows, _items(settings), strict=True)):
        record: dict[str, Any] = {"id": item, "answers": ["Yes" if margin > 0 else "No"]}
        if known is None or number < known:
            record["probabilities"] = [begins(margin).to_json()]
        lines.append(json.dumps(record))
    answers.write_text("\n".join(lines) + "\n")
    return folder


def _items(settings: EvalSettings) -> list[str]:
    from amp_cli.benchmarks import pope

    assert settings.data is not None
    return [item.id for item in pope.load(settings.data, settings).items]


def evaluated(tmp_path: Path, name: str, rows: Sequence[tuple[float, bool]], **changes: Any) -> dict[str, Any]:
    answers = tmp_path / f"{name}.jsonl"
    data = files(tmp_path / "data", rows, answers=answers, **changes)
    return run_benchmark(EvalSettings(benchmark="pope", data=data, answers=answers, out=tmp_path / name)).scores


def test_our_own_answers_bring_their_probabilities_and_are_scored_again_with_them(tmp_path: Path) -> None:
    scores = evaluated(tmp_path, "out", BY_HAND)
    assert scores["overall"]["auc"] == scores["splits"]["random"]["auc"] == pytest.approx(8.5 / 9)
    assert scores["probabilities"]["n"] == scores["probabilities"]["of"] == 6
    again = run_benchmark(EvalSettings(benchmark="pope", data=tmp_path / "data", out=tmp_path / "out", only="score"))
    assert again.scores == scores
    assert "AUC" in [row[0] for row in yes_no.tables(scores)[0][2]]
    assert margins.about(scores) == ""


def test_answers_without_probabilities_are_scored_as_ever_and_it_is_said(tmp_path: Path) -> None:
    scores = evaluated(tmp_path, "out", BY_HAND, known=0)
    assert "probabilities" not in scores
    assert "auc" not in scores["overall"]
    assert "AUC" not in [row[0] for row in yes_no.tables(scores)[0][2]]
    assert margins.about(scores).startswith("answers without probabilities of yes and no, so AUC")
    assert "probabilities" not in (tmp_path / "out" / "answers.jsonl").read_text()
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert "AUC │" not in shown.stdout
    assert "answers without probabilities" in " ".join(shown.stderr.split())


def test_of_how_many_answers_the_probabilities_are_known_is_said(tmp_path: Path) -> None:
    scores = evaluated(tmp_path, "out", BY_HAND, known=4)
    assert scores["overall"]["probabilities"] == 4
    assert "are of 4 of 6 questions" in margins.about(scores)


@pytest.mark.parametrize(
    "wrong", [[{"yes": 2, "no": 0}], [{"yes": 0.5}], [{"yes": "0.5", "no": 0}], [0.5], {"yes": 1}, "no", [], None]
)
def test_probabilities_that_are_none_are_refused_by_the_record(wrong: Any, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    data = files(tmp_path / "data", BY_HAND, answers=answers)
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"probabilities": wrong}), *lines[1:]]) + "\n")
    settings = EvalSettings(benchmark="pope", data=data, answers=answers, out=tmp_path / "out")
    if not wrong:
        assert run_benchmark(settings).scores["overall"]["probabilities"] == 5
        return
    with pytest.raises(AmpError, match=r"record 1: .*(probabilit|'no')"):
        run_benchmark(settings)


@pytest.mark.parametrize(
    "damage", [{"calibration": []}, {"calibration": [{"n": 1}]}, {"margins": {"borders": [0, 1]}}, {"n": "many"}, []]
)
def test_a_damaged_distribution_is_named_by_its_file(damage: Any, tmp_path: Path) -> None:
    scores = evaluated(tmp_path, "out", BY_HAND)
    whole = scores["probabilities"]
    scores["probabilities"] = whole | damage if damage else damage
    (tmp_path / "out" / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(AmpError, match=r"scores\.json' is damaged"):
        read_scores(tmp_path / "out")


def test_the_report_shows_both_runs_side_by_side_and_says_where_the_gain_comes_from(tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [(1.5 + 1.5 * (1 if number % 2 else -1) + rng.gauss(0, 1), bool(number % 2)) for number in range(300)]
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "0.png")
    evaluated(tmp_path, "base", rows)
    evaluated(tmp_path, "trained", [(margin - 1.5, label) for margin, label in rows])
    page = tmp_path / "page.html"
    words = ["report", str(tmp_path / "base"), str(tmp_path / "trained"), "--html", str(page)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert "trained: The gain comes from the threshold: accuracy" in " ".join(result.stderr.split())
    text = page.read_text()
    assert "The gain comes from the threshold: accuracy" in text
    assert text.count("what the model held probable, 300 questions") == 2
    assert text.count('class="balance"') == 2
    printed = json.loads(CliRunner().invoke(app, [*words[:3], "--json"]).stdout)
    named = {one["name"]: one for one in printed["runs"][1]["differences"]}
    assert named["overall/threshold_cost"]["clear"]


def test_ambers_questions_are_measured_by_kind_and_descriptions_are_not() -> None:
    kinds = itertools.cycle(["existence", "state", "relation"])
    scores = [
        AmberAnswer(
            id=one.id,
            images=one.images,
            question=one.question,
            answer=one.answer,
            kind=next(kinds),
            label=one.label,
            reading=one.reading,
            rule="strict",
            probabilities=one.probabilities,
        )
        for one in same_margins(BY_HAND)
    ]
    assert [read_score(json.loads(json.dumps(one.to_json()))) for one in scores] == scores
    summary = amber.summarise(scores, "strict") | {"benchmark": "amber", "rule": "strict"}
    assert summary["discriminative"]["auc"] == pytest.approx(8.5 / 9)
    # existence: -1.0 is no and 1.0 is yes
    assert (summary["types"]["existence"]["auc"], summary["types"]["existence"]["probabilities"]) == (1.0, 2)
    assert [title for title, _, _ in amber.tables(summary)][-1].startswith("AMBER, probabilities of yes and no")
    same = [(one, one) for one in scores]
    differences = {one.name: one for one in (*amber.compare(same, "strict"), *amber.measure(same))}
    assert differences["discriminative/auc"].difference == 0.0
    assert margins.explanation(list(differences.values()), "discriminative").startswith("No clear change")
    bare = amber.summarise([replace(one, probabilities=None) for one in scores], "strict")
    assert "answers without probabilities" in amber.about(bare)
