"""What the field has added to the loss, against values worked out by hand; left out, nothing is another."""

import math
from itertools import permutations

import pytest
import torch

from amp_cli.errors import AmpError
from amp_cli.records import Level, PreferenceItem
from amp_cli.training.config import TrainConfig
from amp_cli.training.loss import ImagePairs, MDPOLoss, count_terms, mdpo_loss
from amp_cli.training.pair_weights import PairWeights


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def softplus(x: float) -> float:
    """Return -log sigmoid(-x)."""
    return math.log(1 + math.exp(x))


def of_rewards(*rows: list[float], **settings: object) -> MDPOLoss:
    rewards = tensor(*rows)
    return mdpo_loss(rewards - 50, torch.full_like(rewards, -50.0), **settings)  # type: ignore[arg-type]


def test_a_ranking_is_a_choice_of_the_best_after_the_other() -> None:
    e = math.exp
    first = e(0.2) / (e(0.2) + e(-0.1) + e(-0.4))
    second = e(-0.1) / (e(-0.1) + e(-0.4))
    result = of_rewards([2.0, -1.0, -4.0], loss_type="plackett-luce", penalty=0.5)
    assert float(result.loss) == pytest.approx(-math.log(first * second) - 0.5 * 2 * 2.0)
    assert result.margins.tolist() == [[3.0, 6.0, 3.0]]  # told of pairs as ever
    assert result.accuracy == 1.0


def test_the_probabilities_of_all_rankings_sum_to_one() -> None:
    rewards = [1.5, -3.0, 0.4, 7.0]
    losses = [
        float(of_rewards(list(one), loss_type="plackett-luce", penalty=0.0).loss) for one in permutations(rewards)
    ]
    assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1.0)


def test_two_levels_make_a_ranking_what_a_pair_is() -> None:
    for reduction in ("sum", "mean"):
        ranking, pair = (
            of_rewards([0.7, -0.2], [-1.0, 3.0], loss_type=one, reduction=reduction)
            for one in ("plackett-luce", "sigmoid")
        )
        assert float(ranking.loss) == pytest.approx(float(pair.loss), rel=1e-12)


def test_in_a_ranking_an_absent_level_takes_no_part_and_breaks_no_gradient() -> None:
    policy = tensor([1.0, 0.0, math.nan], [0.5, 0.2, -3.0]).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    result = mdpo_loss(policy, torch.zeros(2, 3, dtype=torch.float64), mask=mask, loss_type="plackett-luce")
    alone = [
        mdpo_loss(policy[:1, :2], torch.zeros(1, 2), loss_type="plackett-luce"),
        mdpo_loss(policy[1:], torch.zeros(1, 3), loss_type="plackett-luce"),
    ]
    assert result.total.item() == pytest.approx(sum(one.total.item() for one in alone), rel=1e-12)
    result.loss.backward()
    assert policy.grad is not None
    assert policy.grad[0, 2] == 0.0
    assert policy.grad.isfinite().all()


def test_a_mean_over_rankings_is_over_their_choices() -> None:
    assert count_terms([2, 3, 5], "all", "mean", "plackett-luce") == 1 + 2 + 4
    assert count_terms([2, 3, 5], "all", "sum", "plackett-luce") == 3


def test_a_weight_is_of_the_comparison_and_not_of_the_penalty() -> None:
    result = of_rewards([2.0, -1.0, -4.0], penalty=0.5, pair_weights=tensor([2.0, 0.0, 0.25]))
    assert float(result.loss) == pytest.approx(2 * softplus(-0.3) + 0.25 * softplus(-0.3) - 0.5 * 2 * 2.0)
    assert result.margins.tolist() == [[3.0, 6.0, 3.0]]


def test_length_alpha_is_a_reward_for_each_token() -> None:
    settings = {"lengths": tensor([4.0, 9.0]), "length_alpha": -0.05, "penalty": 0.0}
    assert float(of_rewards([1.0, 3.0], **settings).loss) == pytest.approx(softplus(0.1 * 2.0 - 0.05 * 5))
    ranking = of_rewards([1.0, 3.0], loss_type="plackett-luce", **settings)
    assert float(ranking.loss) == pytest.approx(softplus(0.1 * 2.0 - 0.05 * 5))


def test_the_sft_term_is_the_loss_of_a_token_of_the_best_response() -> None:
    plain = of_rewards([1.0, 3.0])
    result = of_rewards([1.0, 3.0], lengths=tensor([7.0, 9.0]), sft_weight=0.5)
    assert float(result.loss - plain.loss) == pytest.approx(0.5 * 49 / 7)  # its log-probability is 1 - 50
    assert result.best_nll is not None
    assert result.best_nll.tolist() == pytest.approx([7.0])


def image_pairs(*rewards: float, weight: float = 1.0) -> ImagePairs:
    """NaN stands for an item without a pair."""
    policy = torch.tensor(rewards, dtype=torch.float64) - 60
    return ImagePairs(
        policy_logps=policy, reference_logps=torch.full_like(policy, -60.0), mask=~policy.isnan(), weight=weight
    )


def test_an_image_pair_compares_one_answer_beside_two_images() -> None:
    rewards = ([2.0, -1.0], [1.0, 0.5])
    images = image_pairs(-3.0, math.nan, weight=0.25)
    plain, result = of_rewards(*rewards), of_rewards(*rewards, images=images)
    assert float(result.total - plain.total) == pytest.approx(0.25 * softplus(-0.5))
    assert result.image_margins is not None
    assert result.image_margins[0] == pytest.approx(5.0)
    assert result.image_margins[1].isnan()
    assert result.accuracy == plain.accuracy  # of pairs of levels alone


def test_an_item_without_an_image_pair_breaks_no_gradient() -> None:
    policy = tensor([1.0, 0.0], [1.0, 0.0]).requires_grad_()
    mdpo_loss(policy, torch.zeros(2, 2, dtype=torch.float64), images=image_pairs(0.5, math.nan)).loss.backward()
    assert policy.grad is not None
    assert policy.grad.isfinite().all()


def test_with_a_mean_over_pairs_what_an_item_has_beside_them_counts_as_often_as_they_do() -> None:
    rewards, images = [2.0, -1.0, -4.0], image_pairs(-3.0)
    plain = of_rewards(rewards, reduction="mean")
    result = of_rewards(rewards, reduction="mean", images=images)
    assert float(result.loss - plain.loss) == pytest.approx(softplus(-0.5))  # 3 times, over 3 pairs


def test_what_does_not_go_together_is_refused() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="lengths"):
        mdpo_loss(zeros, zeros, sft_weight=1.0)
    with pytest.raises(ValueError, match="ranking"):
        mdpo_loss(zeros, zeros, loss_type="plackett-luce", pair_weights=torch.ones(1, 1))
    with pytest.raises(ValueError, match="loss_type"):
        mdpo_loss(zeros, zeros, loss_type="ipo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sft", "sft_weight": 0.5}, "sft_weight is for mdpo"),
        ({"method": "sft", "image_pairs": "crop"}, "image_pairs is for mdpo"),
        ({"loss_type": "plackett-luce", "pairs": "adjacent"}, "takes the whole ranking"),
        ({"loss_type": "plackett-luce", "gap_weight": 1.0}, "gap_weight weighs pairs"),
        ({"loss_type": "plackett-luce", "length_balance": 1.0}, "length_balance weighs pairs"),
        ({"image_pairs": "blur"}, "image_pairs must be one of None, crop, other, not 'blur'"),
        ({"gap_weight": 1.5}, "gap_weight must be at most 1"),
    ],
)
def test_settings_without_effect_or_sense_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(AmpError, match=message):
        TrainConfig(base="tiny", max_steps=1, **settings)  # type: ignore[arg-type]


class Words:
    """Counts words."""

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * len(text.split()) for text in texts]}


def item(*levels: tuple[int, float | None, float | None]) -> PreferenceItem:
    """Levels of (words, accuracy, score)."""
    made = [Level(answers=("a " * words,), source="test", accuracy=one, score=other) for words, one, other in levels]
    return PreferenceItem(id="1", images=(), questions=("?",), levels=tuple(made))


def weights(items: list[PreferenceItem], **settings: float) -> PairWeights:
    given = {"gap": 0.0, "balance": 0.0, **settings}
    found = PairWeights.measured(items, pairs="all", tokenizer=Words(), **given)
    assert found is not None
    return found


def test_weights_follow_the_gap_that_auto_check_found() -> None:
    ranked = item((3, None, None), (3, 0.8, 0.9), (3, 0.4, 0.7))  # qualities 1, .85, .55: gaps .15, .45, .3
    assert weights([ranked], gap=1.0).of(ranked) == pytest.approx([0.5, 1.5, 1.0])
    assert weights([ranked], gap=0.5).of(ranked) == pytest.approx([0.75, 1.25, 1.0])


def test_a_worse_side_that_auto_check_likes_better_weighs_nothing() -> None:
    ranked = item((3, None, None), (3, 0.5, None), (3, 0.75, None))  # gaps .5, .25, 0 (-.25)
    assert weights([ranked], gap=1.0).of(ranked) == pytest.approx([2.0, 1.0, 0.0])


def test_an_item_without_scores_weighs_as_the_mean_and_data_without_any_are_refused() -> None:
    ranked, plain = item((3, None, None), (3, 0.5, 0.5)), item((3, None, None), (3, None, None))
    both = weights([ranked, plain], gap=1.0)
    assert both.of(plain) == (1.0,)
    assert "1 items without scores weigh as the mean" in both.told()[0]
    with pytest.raises(AmpError, match="no item has them"):
        weights([plain], gap=1.0)


def test_balanced_pairs_prefer_no_length() -> None:
    first, second = item((2, None, None), (8, None, None)), item((5, None, None), (2, None, None))  # -6, +3
    found = weights([first, second], balance=1.0)
    assert (found.of(first), found.of(second)) == (pytest.approx((0.5,)), (1.0,))
    half = weights([first, second], balance=0.5)
    assert (half.of(first), half.of(second)) == (pytest.approx((0.75,)), (1.0,))
    with pytest.raises(AmpError, match="in no pair is the better side shorter"):
        weights([second], balance=1.0)


def test_without_a_weight_nothing_is_measured() -> None:
    assert PairWeights.measured([], pairs="all", gap=0.0, balance=0.0, tokenizer=None) is None
