"""The MDPO loss against values worked out by hand and against the released code's numbers."""

import json
import math
from pathlib import Path

import pytest
import torch

from amp_cli.records import PAIR_SETS, pairs_of
from amp_cli.training.loss import MDPOLoss, mdpo_loss

PREFERENCE = Path(__file__).parents[1] / "golden" / "llava" / "preference"
GOLDEN = [
    {"set": name, **batch}
    for name in ("k2", "k3", "k4", "k5")
    for batch in json.loads((PREFERENCE / f"{name}.expected.json").read_text(encoding="utf-8"))["batches"]
]


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def minus_log_sigmoid(x: float) -> float:
    return math.log(1 + math.exp(-x))


def of_rewards(*rows: list[float], **settings: object) -> MDPOLoss:
    rewards = tensor(*rows)
    return mdpo_loss(rewards - 50, torch.full_like(rewards, -50.0), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['set']}-{len(case['logps_policy'][0])}")
def test_the_released_codes_losses_are_reproduced(case: dict[str, list[list[float]]]) -> None:
    policy = torch.tensor(case["logps_policy"], dtype=torch.float64).T  # (items, levels)
    reference = torch.tensor(case["logps_reference"], dtype=torch.float64).T
    result = mdpo_loss(policy, reference, beta=0.1, penalty=1.0, reduction="mean")
    assert float(result.loss) == pytest.approx(case["loss"], abs=1e-4)
    assert result.pairs == tuple((pair["better"] - 1, pair["worse"] - 1) for pair in case["pairs"])  # type: ignore[call-overload]
    of_pairs = sum(sum(pair["losses"]) for pair in case["pairs"])  # type: ignore[call-overload]
    assert float(result.total) == pytest.approx(of_pairs, abs=1e-3)


def test_at_the_start_an_item_of_k_levels_costs_k_times_k_minus_1_halves_log_2() -> None:
    for levels in range(2, 9):
        same = torch.full((3, levels), -123.0)
        loss = mdpo_loss(same, same).loss
        assert float(loss) == pytest.approx(levels * (levels - 1) / 2 * math.log(2), rel=1e-6)


def test_three_levels_by_hand() -> None:
    rewards = [2.0, -1.0, -4.0]
    pairs = minus_log_sigmoid(0.3) + minus_log_sigmoid(0.6) + minus_log_sigmoid(0.3)
    result = of_rewards(rewards, beta=0.1, penalty=0.5)
    assert float(result.loss) == pytest.approx(pairs + 0.5 * 2 * -2.0)  # the best response stands in two pairs
    assert result.margins.tolist() == [[3.0, 6.0, 3.0]]
    assert result.rewards.tolist() == [rewards]
    assert result.accuracy == 1.0


def test_the_penalty_counts_once_for_each_pair_that_holds_the_best_response() -> None:
    rewards = [-3.0, -3.0, -3.0, -3.0]
    for pairs, terms, times in (("all", 6, 3), ("best-vs-rest", 3, 3), ("adjacent", 3, 1)):
        loss = float(of_rewards(rewards, pairs=pairs, penalty=1.0).loss)
        assert loss == pytest.approx(terms * math.log(2) + times * 3.0), pairs


def test_the_pair_sets_are_the_papers_and_its_ablations() -> None:
    assert pairs_of(3, "all") == ((0, 1), (0, 2), (1, 2))
    assert pairs_of(4, "adjacent") == ((0, 1), (1, 2), (2, 3))
    assert pairs_of(4, "best-vs-rest") == ((0, 1), (0, 2), (0, 3))
    assert PAIR_SETS == ("all", "adjacent", "best-vs-rest")


def test_sum_is_over_an_items_pairs_then_mean_over_items_and_mean_over_all_pairs() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards = ([1.0, 0.0, -1.0], [2.0, 0.0, 777.0])
    first = minus_log_sigmoid(0.1) * 2 + minus_log_sigmoid(0.2) - 2.0
    second = minus_log_sigmoid(0.2) - 2.0
    assert float(of_rewards(*rewards, mask=mask).loss) == pytest.approx((first + second) / 2)
    assert float(of_rewards(*rewards, mask=mask, reduction="mean").loss) == pytest.approx((first + second) / 4)


def test_an_absent_level_changes_neither_loss_nor_gradient_even_when_it_is_nan() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    policy = torch.tensor([[-10.0, -11.0, math.nan], [-9.0, -10.0, -12.0]], requires_grad=True)
    reference = torch.tensor([[-10.0, -10.0, -math.inf], [-10.0, -10.0, -10.0]])
    result = mdpo_loss(policy, reference, mask=mask)
    result.loss.backward()
    assert policy.grad is not None
    assert policy.grad.isfinite().all()
    assert float(policy.grad[0, 2]) == 0.0
    alone = mdpo_loss(policy[:1, :2], reference[:1, :2]).total + mdpo_loss(policy[1:], reference[1:]).total
    assert float(result.total.detach()) == pytest.approx(float(alone.detach()))


def test_margins_and_rewards_of_absent_levels_are_nan_not_zero() -> None:
    result = of_rewards([1.0, 0.0, 5.0], mask=torch.tensor([[True, True, False]]))
    assert result.margins.isnan().tolist() == [[False, True, True]]
    assert result.rewards.isnan().tolist() == [[False, False, True]]
    assert result.accuracy == 1.0


def test_a_tie_counts_one_half() -> None:
    assert of_rewards([1.0, 1.0]).accuracy == 0.5
    assert of_rewards([1.0, 1.0, 0.0], [0.0, 1.0, 2.0]).accuracy == 2.5 / 6  # a tie and two in order, then none
    assert of_rewards([1.0, 1.0, 0.0]).order.tolist() == [[0.5, 1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("margin", "accuracy"), [(1e-3, 0.5), (-1e-3, 0.5), (5e-3, 1.0), (-5e-3, 0.0)])
def test_a_margin_within_rounding_of_sums_of_700_nats_is_a_tie(
    margin: float, accuracy: float, dtype: torch.dtype
) -> None:
    reference = torch.tensor([[-700.0, -700.0]], dtype=dtype)
    policy = reference + torch.tensor([[margin, 0.0]], dtype=dtype)
    assert mdpo_loss(policy, reference).accuracy == accuracy  # the bound: 4 x 1.2e-7 x 2,800 nats = 1.3e-3


def test_short_responses_are_told_apart_by_less() -> None:
    reference = torch.tensor([[-7.0, -7.0]])
    assert mdpo_loss(reference + torch.tensor([[1e-3, 0.0]]), reference).accuracy == 1.0


def test_an_absent_level_is_no_tie() -> None:
    result = of_rewards([1.0, 1.0, 0.0], mask=torch.tensor([[True, True, False]]))
    assert result.order.isnan().tolist() == [[False, True, True]]
    assert result.accuracy == 0.5


def test_the_gradient_is_that_of_the_formula() -> None:
    policy = tensor([-3.0, -4.0], [-1.0, -7.0]).requires_grad_()
    reference = tensor([-3.5, -3.0], [-2.0, -6.0])
    assert torch.autograd.gradcheck(lambda logps: mdpo_loss(logps, reference, penalty=0.3).loss, (policy,))


def test_the_reference_gets_no_gradient() -> None:
    policy, reference = tensor([-3.0, -4.0]).requires_grad_(), tensor([-3.0, -4.0]).requires_grad_()
    mdpo_loss(policy, reference).loss.backward()
    assert reference.grad is None


@pytest.mark.parametrize(
    "mask",
    [[[True, False, False]], [[True, False, True]], [[True, True]], [[1, 1, 1]]],
    ids=["one level", "a gap", "wrong shape", "no bool"],
)
def test_a_mask_that_is_no_first_k_levels_is_refused(mask: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match="mask must be"):
        mdpo_loss(torch.zeros(1, 3), torch.zeros(1, 3), mask=torch.tensor(mask))


def test_unknown_pair_sets_and_reductions_are_refused() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="pairs must be one of"):
        mdpo_loss(zeros, zeros, pairs="some")
    with pytest.raises(ValueError, match="reduction must be one of"):
        mdpo_loss(zeros, zeros, reduction="median")
    with pytest.raises(ValueError, match="levels >= 2"):
        mdpo_loss(torch.zeros(1, 1), torch.zeros(1, 1))
