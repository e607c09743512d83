"""The multi-level preference loss (MDPO): every pair of levels, and a penalty that holds the best response up.

What the field has added since is off unless asked for; `r` is a level's reward, `|y|` its tokens:

    pair           -log sigmoid(beta (r_i - r_j))
    pair_weights   w_ij * pair                                           see `pair_weights.py`
    length_alpha   -log sigmoid(beta (r_i - r_j) + alpha (|y_i| - |y_j|))           R-DPO, arXiv 2403.19159
    ranking        -log prod_k exp(beta r_k) / sum_{j >= k} exp(beta r_j)           DPO, arXiv 2305.18290, A.3
    image pair     -log sigmoid(beta (r_0 - r_0 beside other images))               mDPO, arXiv 2406.11839
    sft            -log pi(y_0) / |y_0|                                  RPO, arXiv 2404.19733; MPO, 2411.10442
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from amp_cli.records import pairs_of
from amp_cli.training.exact import exact, exact_device

REDUCTIONS = ("sum", "mean")
SIGMOID, PLACKETT_LUCE = LOSS_TYPES = ("sigmoid", "plackett-luce")
"""What compares levels: each pair by itself, or the whole ranking as one choice of the best after the other."""
TIE = 4 * torch.finfo(torch.float32).eps
"""How far a margin may be from zero and still be a tie, as a share of the four sums that it comes from.

Models compute in float32 or coarser, whatever type the sums arrive in. The same row in another layout, or on another
processor, moves a sum by about 4e-7 of its size (3e-4 of 700 nats); four sums make a margin.
"""


@dataclass(frozen=True, kw_only=True)
class ImagePairs:
    """The best response of each item beside other images: the worse side of a pair whose answers are the same.

    Attributes:
        policy_logps, reference_logps: (batch,) summed log-probabilities, nats.
        mask: (batch,) bool, False where an item has no such pair. weight: of the pair, in the loss.
    """

    policy_logps: torch.Tensor
    reference_logps: torch.Tensor
    mask: torch.Tensor
    weight: float


@dataclass(frozen=True, kw_only=True)
class MDPOLoss:
    """The loss of a batch and what one wants to watch. Only `loss` and `total` carry gradients.

    `total` is the sum over all pairs and items and `count` what it is divided by to give `loss`, so that a batch may be
    cut into pieces without changing the update. Where an item lacks a level, margins, order and rewards are NaN.
    """

    loss: torch.Tensor  # scalar
    total: torch.Tensor  # scalar
    count: int
    pairs: tuple[tuple[int, int], ...]  # (better, worse) levels, in the order of the columns of `margins`
    margins: torch.Tensor  # (batch, pairs): reward of the better minus reward of the worse level, nats
    order: torch.Tensor  # (batch, pairs) float64, `exact_device`: 1 in order, 0 not, 0.5 a tie; NaN where absent
    accuracy: float  # mean of `order`: the share of pairs in order, a tie counts one half; NaN without pairs
    rewards: torch.Tensor  # (batch, levels): policy minus reference log-probability, nats
    image_margins: torch.Tensor | None = None  # (batch,): reward beside the own minus beside other images; NaN: no pair
    image_order: torch.Tensor | None = None  # (batch,): as `order`
    best_nll: torch.Tensor | None = None  # (batch,): of a token of the best response, nats; where lengths are given


def count_terms(levels: list[int], pairs: str, reduction: str, loss_type: str = SIGMOID) -> int:
    """Return what a batch's summed loss is divided by: its items ("sum"), or its pairs or choices ("mean").

    `levels` holds the number of levels of each item.
    """
    return len(levels) if reduction == "sum" else sum(_terms_of(count, pairs, loss_type) for count in levels)


def _terms_of(levels: int, pairs: str, loss_type: str) -> int:
    return levels - 1 if loss_type == PLACKETT_LUCE else len(pairs_of(levels, pairs))


def mdpo_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    beta: float = 0.1,
    penalty: float = 1.0,
    pairs: str = "all",
    reduction: str = "sum",
    loss_type: str = SIGMOID,
    pair_weights: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    length_alpha: float = 0.0,
    sft_weight: float = 0.0,
    images: ImagePairs | None = None,
) -> MDPOLoss:
    """Return -log sigmoid(beta * (r_better - r_worse)) of every pair, and -penalty * r_0 for each pair with level 0.

    Terms of an item that are of no pair (`sft_weight`, `images`) count once with "sum"; with "mean", as often as the
    item has pairs, so that their share is that of the weights.

    Args:
        policy_logps: (batch, levels) summed log-probabilities of the responses under the policy, nats; the best first.
        reference_logps: (batch, levels) the same under the frozen reference.
        mask: (batch, levels) bool, False where an item has fewer levels; an item has its first K >= 2 levels.
        reduction: "sum" (paper): sum over an item's pairs, mean over items; "mean" (released code): mean over all pairs
            of the batch.
        loss_type: "sigmoid" compares pairs; "plackett-luce" takes the ranking as K - 1 choices of the best of what is
            left, each with -penalty * r_0, and looks at no pair set.
        pair_weights: (batch, pairs) of the comparisons, in the order of `pairs_of`; penalties are not weighed.
        lengths: (batch, levels) tokens of the responses; wanted for `length_alpha` and `sft_weight`.
        length_alpha: added to beta * reward for each token, so that a positive one teaches shorter answers.
        sft_weight: of the negative log-probability of a token of the best response. Relative to the reference it would
            have the same gradient.
    """
    _refuse_unfit(reduction, loss_type, pair_weights, lengths, needs_lengths=bool(length_alpha or sft_weight))
    mask = _checked_mask(policy_logps, reference_logps, mask)
    # where() before the arithmetic, and not after: a NaN in an absent level would reach the gradients of the others
    policy = torch.where(mask, policy_logps, 0.0)
    reference = torch.where(mask, reference_logps.detach(), 0.0)
    reward = policy - reference  # (batch, levels)
    columns = pairs_of(mask.shape[1], pairs)
    better = [pair[0] for pair in columns]
    worse = [pair[1] for pair in columns]
    present = mask[:, worse]  # (batch, pairs); the worse level is the later one, so the better one is there too
    margin = reward[:, better] - reward[:, worse]  # (batch, pairs)
    if loss_type == PLACKETT_LUCE:
        strength = beta * reward if lengths is None else beta * reward + length_alpha * lengths
        total = torch.where(mask[:, 1:], _choices(strength, mask) - penalty * reward[:, :1], 0.0).sum()
    else:
        holds_best = torch.tensor([pair[0] == 0 for pair in columns], device=mask.device)
        lean = 0.0 if lengths is None else length_alpha * (lengths[:, better] - lengths[:, worse])  # (batch, pairs)
        compared = -logsigmoid(beta * margin + lean)  # (batch, pairs)
        compared = compared if pair_weights is None else pair_weights * compared
        term = compared - penalty * torch.where(holds_best, reward[:, :1], 0.0)  # (batch, pairs)
        total = torch.where(present, term, 0.0).sum()
    levels = mask.sum(dim=1).tolist()
    count = count_terms(levels, pairs, reduction, loss_type)
    often = [1 if reduction == "sum" else _terms_of(one, pairs, loss_type) for one in levels]
    beside = _beside_pairs(reward[:, 0], policy[:, 0], lengths, sft_weight, images, beta)  # (batch,), None where off
    if beside is not None:
        total = total + (beside * beside.new_tensor(often)).sum()
    margins = torch.where(present, margin, torch.nan).detach()
    size = (policy.abs() + reference.abs()).detach()  # (batch, levels)
    order = _order(margins, size[:, better] + size[:, worse])
    return MDPOLoss(
        loss=total / count,
        total=total,
        count=count,
        pairs=columns,
        margins=margins,
        order=order,
        accuracy=float(order[present.to(order.device)].mean()),
        rewards=torch.where(mask, reward, torch.nan).detach(),
        **_told_of_images(reward[:, 0], size[:, 0], images),
        best_nll=None if lengths is None else (-policy[:, 0] / lengths[:, 0]).detach(),
    )


def _choices(strength: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return (batch, levels - 1): minus the log-probability that level k is chosen among k, k + 1, ...; DPO's eq. 18.

    An absent level is so weak that nobody would choose it; minus infinity would make NaN of its gradient.
    """
    strength = strength.masked_fill(~mask, torch.finfo(strength.dtype).min / 4)
    left = strength.flip(1).logcumsumexp(1).flip(1)  # (batch, levels): of all from level k on
    return (left - strength)[:, :-1]


def _beside_pairs(
    reward: torch.Tensor,
    policy: torch.Tensor,
    lengths: torch.Tensor | None,
    sft_weight: float,
    images: ImagePairs | None,
    beta: float,
) -> torch.Tensor | None:
    """Return (batch,) what an item's loss has beside its pairs, None where that is off.

    Args:
        reward, policy: (batch,) of the best responses.
    """
    found: torch.Tensor | None = None
    if sft_weight and lengths is not None:
        found = -sft_weight * policy / lengths[:, 0]
    if images is not None:
        margin = reward - _image_rewards(images)  # (batch,)
        pair = images.weight * torch.where(images.mask, -logsigmoid(beta * margin), 0.0)
        found = pair if found is None else found + pair
    return found


def _image_rewards(images: ImagePairs) -> torch.Tensor:
    policy = torch.where(images.mask, images.policy_logps, 0.0)
    reference = torch.where(images.mask, images.reference_logps.detach(), 0.0)
    return policy - reference  # (batch,)


def _told_of_images(
    reward: torch.Tensor, size: torch.Tensor, images: ImagePairs | None
) -> dict[str, torch.Tensor | None]:
    if images is None:
        return {}
    margins = torch.where(images.mask, reward - _image_rewards(images), torch.nan).detach()  # (batch,)
    sizes = size + torch.where(images.mask, images.policy_logps.abs() + images.reference_logps.abs(), 0.0).detach()
    return {"image_margins": margins, "image_order": _order(margins, sizes)}


def _refuse_unfit(
    reduction: str,
    loss_type: str,
    pair_weights: torch.Tensor | None,
    lengths: torch.Tensor | None,
    *,
    needs_lengths: bool,
) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, not {loss_type!r}")
    if loss_type == PLACKETT_LUCE and pair_weights is not None:
        raise ValueError("a ranking has no pairs to weigh")
    if needs_lengths and lengths is None:
        raise ValueError("length_alpha and sft_weight need the responses' lengths")


def _order(margins: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return 1 where the better level is ahead, 0 where it is behind, 0.5 within rounding of zero; NaN stays NaN.

    Without the tie the sign of rounding noise would count: at the first step policy and reference are the same.
    """
    place = exact_device(margins.device)
    order = exact(margins > 0)
    order[(margins.abs() <= TIE * sizes).to(place)] = 0.5
    return order.masked_fill(margins.isnan().to(place), torch.nan)


def _checked_mask(policy: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if policy.dim() != 2 or policy.shape != reference.shape or policy.shape[1] < 2 or not len(policy):
        raise ValueError(f"expected two (batch, levels >= 2) tensors, not {policy.shape} and {reference.shape}")
    if mask is None:
        return torch.ones_like(policy, dtype=torch.bool)
    if mask.shape != policy.shape or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool of shape {policy.shape}, not {mask.dtype} of {mask.shape}")
    if not bool(mask[:, :2].all()) or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("mask must be True for the first K >= 2 levels of every item and False after them")
    return mask
