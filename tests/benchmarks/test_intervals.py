"""Bootstrap intervals: known shapes, images as units, undefined scores."""

import numpy as np
import pytest

from amp_cli.benchmarks.comparing import RESAMPLES, interval, ratio, resampled_totals, score_intervals


def test_every_draw_takes_as_many_images_as_there_are() -> None:
    draws = resampled_totals(np.ones((7, 1)))
    assert draws.shape == (RESAMPLES, 1)
    assert (draws == 7).all()


def test_the_draws_are_ever_the_same() -> None:
    units = np.arange(20.0).reshape(10, 2)
    assert (resampled_totals(units) == resampled_totals(units)).all()


def test_the_interval_of_a_share_is_near_its_normal_approximation() -> None:
    units = np.array([[1.0, 1.0]] * 300 + [[0.0, 1.0]] * 100)  # 0.75, standard error sqrt(.75 * .25 / 400) = 0.02165
    bounds = score_intervals(units, lambda sums: {"share": ratio(sums[:, 0], sums[:, 1])})["share"]
    assert bounds is not None
    assert bounds[0] == pytest.approx(0.75 - 1.96 * 0.02165, abs=0.005)
    assert bounds[1] == pytest.approx(0.75 + 1.96 * 0.02165, abs=0.005)


def test_answers_that_go_together_on_a_image_widen_the_interval() -> None:
    def share(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"share": ratio(sums[:, 0], sums[:, 1])}

    alone = score_intervals(np.array([[1.0, 1.0]] * 200 + [[0.0, 1.0]] * 200), share)["share"]
    together = score_intervals(np.array([[10.0, 10.0]] * 20 + [[0.0, 10.0]] * 20), share)["share"]
    assert alone is not None
    assert together is not None
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])  # about sqrt(10) times


def test_draws_without_a_value_are_left_out_and_none_left_is_none() -> None:
    assert interval(np.array([np.nan, 0.5, np.nan])) == [0.5, 0.5]
    assert interval(np.array([np.nan])) is None
    assert score_intervals(np.zeros((0, 2)), lambda sums: {"a": sums[:, 0]}) == {}


def test_a_ratio_over_zero_is_undefined_and_no_warning() -> None:
    assert np.isnan(ratio(np.array([0.0, 1.0]), np.array([0.0, 0.0]))).all()
    assert float(ratio(1, 4)) == 0.25
