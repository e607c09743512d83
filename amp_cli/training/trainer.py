"""MDPO as a transformers Trainer: K levels of an item in one pass, the reference is the policy with its adapter off."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType

from amp_cli.models.prompts import EncodedItem
from amp_cli.records import MOST_LEVELS
from amp_cli.training.config import TrainConfig
from amp_cli.training.loss import MDPOLoss, count_terms, mdpo_loss
from amp_cli.training.reference import ReferenceCache
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.layout import Batch, by_level, level_mask
from amp_cli.training.rows.logprobs import weigh_rounds
from amp_cli.training.sharding import InStep, Passes
from amp_cli.training.updates import FiniteTrainer


class MDPOTrainer(FiniteTrainer):
    """Trains a PeftModel whose base `teach_log_probabilities` has been given.

    A batch of the data loader is this process's share of one update, a list of items; it is cut into forward passes
    here, by tokens. What is in an update does not depend on how it is cut.

    Processes wait for one another at each collective, so each must make the same ones, whatever its items hold:

        DDP              each has a whole model: what needs no gradient goes past the wrapper, and makes none
        FSDP and ZeRO    a model is shared: every pass calls the tower equally often, with or without images of its own
        all              every process makes the same number of passes; an empty one reads `fill`, which has no weight
    """

    def __init__(
        self, *, config: TrainConfig, forward: ForwardPass, reference: ReferenceCache | None, **arguments: Any
    ) -> None:
        super().__init__(**arguments, data_collator=list)
        self.config = config
        self.forward = forward
        self.reference = reference
        self.pair_metrics = PairMetrics(self.args.device)
        self.in_step = InStep(forward=forward, fill=self.fill, shares_model=self.shares_model, device=self.args.device)

    def builder(self) -> Callable[[list[EncodedItem]], Any]:
        """Return what makes a batch of items: a list."""
        return list

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[EncodedItem]], num_batches: int, device: torch.device
    ) -> tuple[list[Passes], int]:
        """Return the forward passes of one update, and what its summed loss is divided by, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        levels = [len(item.responses) for items in batches for item in items]
        count = torch.tensor(count_terms(levels, self.config.pairs, self.config.reduction), device=device)
        total = int(self.accelerator.reduce(count, reduction="sum"))
        return [self.in_step.passes(items, self.config.tokens_per_step) for items in batches], max(1, total)

    def training_step(
        self, model: Any, inputs: Passes, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Go forward and backward through every pass, gradients meeting in the last; return this process's loss."""
        model.train()
        losses = []
        for number, items in enumerate(inputs.items, start=1):
            is_last = number == len(inputs.items)
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self._loss(model, items, inputs.tower_calls, num_items_in_batch)
                unscaled = self.accelerator.distributed_type == DistributedType.DEEPSPEED
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if unscaled else {}))
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _loss(
        self, model: Any, items: Sequence[EncodedItem], calls: int, count: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Return this forward pass's share of the update's loss, which is divided by `count`."""
        read, idle = self.in_step.filled(items, calls)
        batch = self.forward.lay_out(read).to(self.args.device)
        frozen = model if self.shares_model else self.accelerator.unwrap_model(model)
        shown = self.forward.show_images(frozen, batch, idle=idle)
        reference = self._reference_logps(frozen, items, batch, shown)
        policy = self.forward.round_logps(model, batch, shown)
        if not items:
            return policy.sum().float() * 0.0  # the processes' gradients meet all the same
        mask = level_mask(batch.levels[: len(items)])
        responses = sum(len(item.responses) for item in items)
        result = mdpo_loss(
            by_level(weigh_rounds(policy[:responses], self.config.round_weight), mask),
            by_level(weigh_rounds(reference[:responses], self.config.round_weight), mask),
            mask=mask,
            beta=self.config.beta,
            penalty=self.config.penalty,
            pairs=self.config.pairs,
            reduction=self.config.reduction,
        )
        self.pair_metrics.add(result)
        # DDP averages over the processes what should be summed, since each divides by the count of all
        share: torch.Tensor = result.total * self.accelerator.num_processes / (count or result.count)
        return share.float()

    @torch.no_grad()
    def _reference_logps(
        self, model: Any, items: Sequence[EncodedItem], batch: Batch, shown: dict[str, Any]
    ) -> torch.Tensor:
        if self.reference is not None and items:
            return self.reference.round_logps(items).to(self.args.device)
        if self.reference is not None:
            return torch.empty(0, 1, device=self.args.device)
        with self.accelerator.unwrap_model(model).disable_adapter():
            return self.forward.round_logps(model, batch, shown)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the pairs and levels did since the last line."""
        if "loss" in logs:
            logs = {**logs, **self.pair_metrics.drain(lambda sums: self.accelerator.reduce(sums, reduction="sum"))}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Passes) -> int:
        """Not counted: the estimate knows nothing of a frozen tower and a head at few places."""
        return 0


class PairMetrics:
    """Sums over the steps between two log lines."""

    def __init__(self, device: torch.device) -> None:
        # by distance of the pair: count, margin, in order; by level: count, reward
        self._pairs = torch.zeros(MOST_LEVELS, 3, dtype=torch.float64, device=device)
        self._rewards = torch.zeros(MOST_LEVELS, 2, dtype=torch.float64, device=device)

    def add(self, result: MDPOLoss) -> None:
        """Take in one forward pass."""
        distance = torch.tensor([worse - better for better, worse in result.pairs], device=result.margins.device)
        margin, place = _present(result.margins, distance)
        order, _ = _present(result.order, distance)
        self._pairs.index_add_(0, place, torch.stack((torch.ones_like(margin), margin, order), dim=1))
        reward, place = _present(result.rewards, torch.arange(result.rewards.shape[1], device=result.rewards.device))
        self._rewards.index_add_(0, place, torch.stack((torch.ones_like(reward), reward), dim=1))

    def drain(self, over_all_processes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means since the last call, over all processes, and start again.

        Keys: `margin`, `accuracy`, `margin_distance_D`, `accuracy_distance_D` (1 = adjacent levels), `reward_level_L`.
        An accuracy is the share of pairs in order; a margin within rounding of zero is a tie and counts one half.
        """
        pairs, rewards = over_all_processes(self._pairs).tolist(), over_all_processes(self._rewards).tolist()
        self._pairs.zero_()
        self._rewards.zero_()
        values: dict[str, float] = {}
        count, margin, in_order = (sum(column) for column in zip(*pairs, strict=True))
        if count:
            values |= {"margin": margin / count, "accuracy": in_order / count}
        for distance, (count, margin, in_order) in enumerate(pairs):
            if count:
                values[f"margin_distance_{distance}"] = margin / count
                values[f"accuracy_distance_{distance}"] = in_order / count
        for level, (count, reward) in enumerate(rewards):
            if count:
                values[f"reward_level_{level}"] = reward / count
        return values


def _present(values: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values that are there (NaN marks absent levels) and the column number of each, both flat."""
    there = ~values.isnan()
    return values[there].double(), columns.expand_as(values)[there]
