"""The training curves: what is smoothed, how lines are told apart, light and dark, and what is said of them."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.training.curves import DARK, FEW, LIGHT, MARKERS, STYLES, Looks, describe_curves, draw_curves, smoothed
from tests.support.pages import contrast


def write_metrics(folder: Path, steps: int) -> Path:
    lines = [
        {"step": step, "loss": 1.0 if step % 2 else 0.0, "accuracy": step / steps}
        | {f"reward_level_{level}": float(-level) for level in range(4)}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_few_points_stay_and_many_become_the_mean_of_those_around() -> None:
    few = [0.0, 1.0] * (FEW // 2)
    assert smoothed(few) == few
    values = [float(number % 2) for number in range(40)]  # a twentieth of 40: two points to either side
    assert smoothed(values)[:4] == pytest.approx([1 / 3, 2 / 4, 2 / 5, 3 / 5])
    assert smoothed(values)[-1] == pytest.approx(2 / 3)
    assert smoothed([2.5] * 100) == pytest.approx([2.5] * 100)


def test_each_line_has_its_own_style_and_what_was_measured_stands_faint_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn: list[dict[str, Any]] = []
    plot = Axes.plot

    def watch(self: Axes, *args: Any, **named: Any) -> Any:
        drawn.append(named)
        return plot(self, *args, **named)

    monkeypatch.setattr(Axes, "plot", watch)
    draw_curves(write_metrics(tmp_path, steps=40))
    light = drawn[: len(drawn) // 2]
    levels = [one for one in light if str(one.get("label", "")).startswith("level")]
    assert [one["linestyle"] for one in levels] == list(STYLES[:4])
    assert len({one["color"] for one in levels}) == 4
    (raw,) = [one for one in light if "label" not in one]  # the loss alone changes by smoothing
    assert raw["alpha"] < 0.5
    assert len(set(STYLES)) == len(set(MARKERS)) == len(LIGHT.lines) == len(DARK.lines)


def test_there_is_a_light_and_a_dark_picture(tmp_path: Path) -> None:
    assert draw_curves(write_metrics(tmp_path, steps=3)) == tmp_path / "curves.png"
    corners = [Image.open(tmp_path / name).convert("L").getpixel((0, 0)) for name in ("curves.png", "curves-dark.png")]
    assert corners[0] == 255
    assert corners[1] < 60
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("looks", [LIGHT, DARK])
def test_lines_and_texts_stand_out_from_the_page(looks: Looks) -> None:
    assert contrast(looks.ink, looks.page) >= 7
    assert [line for line in looks.lines if contrast(line, looks.page) < 3] == []
    assert all(one != other for one, other in combinations(looks.lines, 2))


def test_what_is_seen_is_said_in_words(tmp_path: Path) -> None:
    assert describe_curves(tmp_path) == ""
    assert describe_curves(write_metrics(tmp_path, steps=4)) == (
        "loss from 1.000 at step 1 to 0.000 at step 4; share of pairs in order from 0.250 at step 1 to 1.000 at step 4"
    )
