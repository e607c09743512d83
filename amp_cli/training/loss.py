"""The multi-level preference loss (MDPO): every pair of levels, and a penalty that holds the best response up."""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from amp_cli.records import pairs_of

REDUCTIONS = ("sum", "mean")
TIE = 4 * torch.finfo(torch.float32).eps
"""How far a margin may be from zero and still be a tie, as a share of the four sums that it comes from.

Models compute in float32 or coarser, whatever type the sums arrive in. The same row in another layout, or on another
processor, moves a sum by about 4e-7 of its size (3e-4 of 700 nats); four sums make a margin.
"""


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
    order: torch.Tensor  # (batch, pairs) float64: 1 in order, 0 not, 0.5 a tie; NaN where absent
    accuracy: float  # mean of `order`: the share of pairs in order, a tie counts one half; NaN without pairs
    rewards: torch.Tensor  # (batch, levels): policy minus reference log-probability, nats


def count_terms(levels: list[int], pairs: str, reduction: str) -> int:
    """Return what a batch's summed loss is divided by: its items ("sum") or its pairs ("mean").

    `levels` holds the number of levels of each item.
    """
    if reduction == "sum":
        return len(levels)
    return sum(len(pairs_of(count, pairs)) for count in levels)


def mdpo_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    beta: float = 0.1,
    penalty: float = 1.0,
    pairs: str = "all",
    reduction: str = "sum",
) -> MDPOLoss:
    """Return -log sigmoid(beta * (r_better - r_worse)) of every pair, and -penalty * r_0 for each pair with level 0.

    Args:
        policy_logps: (batch, levels) summed log-probabilities of the responses under the policy, nats; the best first.
        reference_logps: (batch, levels) the same under the frozen reference.
        mask: (batch, levels) bool, False where an item has fewer levels; an item has its first K >= 2 levels.
        reduction: "sum" (paper): sum over an item's pairs, mean over items; "mean" (released code): mean over all pairs
            of the batch.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
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
    holds_best = torch.tensor([pair[0] == 0 for pair in columns], device=mask.device)
    term = -logsigmoid(beta * margin) - penalty * torch.where(holds_best, reward[:, :1], 0.0)  # (batch, pairs)
    total = torch.where(present, term, 0.0).sum()
    count = count_terms(mask.sum(dim=1).tolist(), pairs, reduction)
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
        accuracy=float(order[present].mean()),
        rewards=torch.where(mask, reward, torch.nan).detach(),
    )


def _order(margins: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return 1 where the better level is ahead, 0 where it is behind, 0.5 within rounding of zero; NaN stays NaN.

    Without the tie the sign of rounding noise would count: at the first step policy and reference are the same.
    """
    order = (margins > 0).double()
    order[margins.abs() <= TIE * sizes] = 0.5
    return order.masked_fill(margins.isnan(), torch.nan)


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
