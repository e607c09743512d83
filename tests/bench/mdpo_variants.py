"""One training step on one item, forward and backward, through the product's own code."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.loss import mdpo_loss
from amp_cli.training.reference import compute_reference
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.layout import Batch, by_level, level_mask
from amp_cli.training.rows.logprobs import weigh_rounds

BETA, PENALTY = 0.1, 1.0


def mixed_precision(model: Any, is_mixed: bool) -> torch.autocast:
    """Return a context with matrix products in bfloat16 on the model's device, or one that does nothing."""
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=is_mixed)


class Variant(Protocol):
    """A way to make the step."""

    key: str
    what: str  # for people

    def networks(self) -> list[Any]:
        """Return the models that the step goes through."""

    def trained(self) -> Any:
        """Return the model whose adapter gets the gradients."""

    def prepare(self) -> None:
        """Set up what is not part of a step."""

    def step(self) -> float:
        """Go forward and backward once, and return the loss."""


@dataclass(kw_only=True)
class Ours:
    """The trainer's step: what `MDPOTrainer` does with one item, on the model's device.

    Attributes:
        policy: a PeftModel whose base `teach_log_probabilities` was given. forward: how items are read.
        reference: the (levels, rounds) log-probabilities computed before, None to compute them in every step.
        is_mixed: matrix products in bfloat16, as our trainer has them on a GPU.
    """

    key: str
    what: str
    policy: Any
    item: EncodedItem
    forward: ForwardPass
    is_cached: bool
    penalty: float = PENALTY
    reference: torch.Tensor | None = None
    is_mixed: bool = False

    def networks(self) -> list[Any]:
        return [self.forward.network]

    def trained(self) -> Any:
        return self.policy

    def prepare(self) -> None:
        """Set the attention, and compute the reference if it is to be cached."""
        self.forward.use()
        self.policy.train()
        if self.is_cached and self.reference is None:
            with mixed_precision(self.policy, self.is_mixed):
                (self.reference,) = compute_reference(
                    self.policy, self.forward, [self.item], tokens_per_step=self.forward.tokens([self.item])
                )

    def step(self) -> float:
        batch = self.forward.lay_out([self.item]).to(next(self.policy.parameters()).device)
        with mixed_precision(self.policy, self.is_mixed):
            shown = self.forward.show_images(self.policy, batch)
            reference = self._reference(batch, shown)
            policy = self.forward.round_logps(self.policy, batch, shown)
        mask = level_mask(batch.levels)
        found = mdpo_loss(
            by_level(weigh_rounds(policy, 0.0), mask),
            by_level(weigh_rounds(reference, 0.0), mask),
            mask=mask,
            beta=BETA,
            penalty=self.penalty,
            reduction="mean",
        )
        found.loss.backward()
        return float(found.loss.detach())

    @torch.no_grad()
    def _reference(self, batch: Batch, shown: dict[str, Any]) -> torch.Tensor:
        if self.reference is not None:
            return self.reference
        with self.policy.disable_adapter():
            return self.forward.round_logps(self.policy, batch, shown)
