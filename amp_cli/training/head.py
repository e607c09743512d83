"""Log-probabilities of answer tokens from hidden states, the vocabulary in chunks that fit in a small buffer."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

MOST_LOGITS = 2**24
"""Logits held at once: 64 MiB in float32, and about three times that while their gradient is taken."""


def token_logps(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the (N,) log-probabilities, nats, of `targets` (N,) under softmax(head(hidden)), hidden being (N, width).

    With a frozen head the slope of each log-probability in its hidden state is taken at once and kept, N x width
    numbers, so that no logits wait for the backward pass and none are computed again: two matrix products in all.
    """
    if any(parameter.requires_grad for parameter in head.parameters()):
        return _logps(head, hidden, targets)
    rows = max(1, MOST_LOGITS // head.weight.shape[0])
    apply: Any = _FrozenHead.apply  # torch gives it no types
    result: torch.Tensor = apply(hidden, head, targets, rows)
    return result


def _logps(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = head(hidden)  # (N, vocabulary)
    return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, head: Any, targets: torch.Tensor, rows: int) -> torch.Tensor:
        wants_slope = context.needs_input_grad[0]
        logps: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for part, target in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            with torch.set_grad_enabled(wants_slope):
                leaf = part.detach().requires_grad_(wants_slope)
                tokens = _logps(head, leaf.view_as(leaf), target)  # hooks on a head's inputs (FSDP's) refuse a leaf
                if wants_slope:
                    slopes += torch.autograd.grad(tokens.sum(), leaf)
            logps.append(tokens.detach())
        if wants_slope:
            context.save_for_backward(torch.cat(slopes))
        return torch.cat(logps)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        (slopes,) = context.saved_tensors  # (N, width)
        return (gradients[0][:, None] * slopes).to(slopes.dtype), None, None, None
