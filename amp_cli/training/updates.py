"""What both trainers do at every update: refuse numbers that are not finite, and count the items."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer

from amp_cli.errors import AmpError

TRY_LESS = "Lower learning_rate or max_grad_norm with --set, and give another --out or --overwrite"
MOST_SKIPPED = 50
"""Updates in a row that float16's loss scale may skip while it looks for a scale: it halves from 65536 each time."""


class FiniteTrainer(Trainer):
    """A Trainer that ends with a sentence before a number that is not finite reaches a weight or the disk.

    The gradients' norm is the same in every process, so all of them stop at the same step. To look at it waits for the
    device, once an update, where the Trainer has computed it anyway.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.items_seen = 0
        self._skipped = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Count the items of this process's share of one update."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.items_seen += sum(_items_in(batch) for batch in batches)
        return batches, count

    def items_of_all_processes(self) -> int:
        """Return how many items have gone through updates since the start of this process."""
        return int(self.accelerator.reduce(torch.tensor(self.items_seen, device=self.args.device), reduction="sum"))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of this update's gradients, over all processes, as transformers computes it.

        Raises:
            AmpError: it is not finite.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        is_finite = norm is None or bool(torch.isfinite(torch.as_tensor(norm)).all())
        self._skipped = 0 if is_finite else self._skipped + 1
        if is_finite or (self.args.fp16 and self._skipped < MOST_SKIPPED):  # the loss scale skips such an update
            return norm
        raise AmpError(
            f"Training failed at step {self.state.global_step + 1}: its gradients are not finite (norm {float(norm)})",
            hint=TRY_LESS,
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter, in a checkpoint or at the end.

        Raises:
            AmpError: a weight of it is not finite; nothing is written.
        """
        found = [name for name, weight in self.model.named_parameters() if weight.requires_grad and _is_broken(weight)]
        broken = self.accelerator.reduce(torch.tensor(float(len(found)), device=self.args.device), reduction="sum")
        if broken:
            first = f", first '{found[0]}'" if found else ""
            raise AmpError(
                f"Training failed at step {self.state.global_step}: weights of the adapter are not finite{first}",
                hint=TRY_LESS,
            )
        super().save_model(output_dir, _internal_call)


def _is_broken(weight: torch.Tensor) -> bool:
    return not bool(torch.isfinite(weight.detach()).all())


def _items_in(batch: Any) -> int:
    """Return how many items a batch has: a list of them, or rows of tensors."""
    return len(batch["input_ids"]) if isinstance(batch, dict) else len(batch)
