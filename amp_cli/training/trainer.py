"""MDPO as a transformers Trainer: K levels of an item in one pass, the reference is the policy with its adapter off."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer

from amp_cli.training.config import TrainConfig
from amp_cli.training.layout import Batch, by_level, level_mask
from amp_cli.training.logprobs import picture_inputs, response_logps
from amp_cli.training.loss import count_terms, mdpo_loss
from amp_cli.training.metrics import PairMetrics


class MDPOTrainer(Trainer):
    """Trains a PeftModel whose base `teach_log_probabilities` has been given; batches come from `lay_out`."""

    # the loss is divided by the count of the whole update, so a batch may be cut into forward passes at will
    loss_is_scaled_for_ga = True

    def __init__(self, *, config: TrainConfig, image_once: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.config = config
        self.image_once = image_once
        self.pair_metrics = PairMetrics(self.args.device)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], int]:
        """Return the forward passes of one update, and what its summed loss is divided by, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        levels = [count for batch in batches for count in batch["levels"].tolist()]
        count = torch.tensor(count_terms(levels, self.config.pairs, self.config.reduction), device=device)
        return batches, int(self.accelerator.reduce(count, reduction="sum"))

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        """Return this forward pass's share of the update's loss."""
        shown = picture_inputs(model, inputs, image_once=self.image_once)
        mask = level_mask(inputs["levels"])
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            reference = response_logps(model, inputs, shown)
        policy = response_logps(model, inputs, shown)
        result = mdpo_loss(
            by_level(policy, mask),
            by_level(reference, mask),
            mask=mask,
            beta=self.config.beta,
            penalty=self.config.penalty,
            pairs=self.config.pairs,
            reduction=self.config.reduction,
        )
        self.pair_metrics.add(result)
        # DDP averages over the processes what should be summed, since each divides by the count of all
        share = result.total * self.accelerator.num_processes / (num_items_in_batch or result.count)
        scalar: torch.Tensor = share.float()
        return scalar

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the pairs and levels did since the last line."""
        if "loss" in logs:
            logs = {**logs, **self.pair_metrics.drain(lambda sums: self.accelerator.reduce(sums, reduction="sum"))}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the estimate knows nothing of a frozen tower and a head at few places."""
        return 0
