"""MDPO as a transformers Trainer: K levels of an item in one pass, the reference is the policy with its adapter off."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType

from amp_cli.models.prompts import EncodedItem
from amp_cli.records import MOST_LEVELS
from amp_cli.training.config import TrainConfig
from amp_cli.training.exact import exact_device
from amp_cli.training.loss import ImagePairs, MDPOLoss, count_terms, mdpo_loss
from amp_cli.training.reference import ReferenceCache
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.layout import Batch, by_level, level_mask, weights_by_pair
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
        self,
        *,
        config: TrainConfig,
        forward: ForwardPass,
        reference: ReferenceCache | None,
        held_out_reference: ReferenceCache | None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments, data_collator=list)
        self.config = config
        self.forward = forward
        self.reference = reference
        self.held_out_reference = held_out_reference
        sums_on = exact_device(self.args.device)
        self.pair_metrics = PairMetrics(sums_on)
        self.in_step = InStep(forward=forward, fill=self.fill, shares_model=self.shares_model, device=self.args.device)
        self.held_out_metrics = PairMetrics(sums_on)
        # of the held-out items: summed loss, best answers' rewards; what the loss is divided by, their tokens, items
        self._held_out_sums = torch.zeros(5, dtype=torch.float64, device=sums_on)

    def builder(self) -> Callable[[list[EncodedItem]], Any]:
        """Return what makes a batch of items: a list."""
        return list

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[EncodedItem]], num_batches: int, device: torch.device
    ) -> tuple[list[Passes], int]:
        """Return the forward passes of one update, and what its summed loss is divided by, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        levels = [len(item.responses) for items in batches for item in items]
        config = self.config
        terms = count_terms(levels, config.pairs, config.reduction, config.loss_type)
        count = torch.tensor(terms, device=device)
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
        policy, reference = self._logps(model, items, calls, self.reference)
        if not items:
            return policy.sum().float().to(self.args.device) * 0.0  # the processes' gradients meet all the same
        result = self._compared(items, policy, reference)
        self.pair_metrics.add(result)
        # DDP averages over the processes what should be summed, since each divides by the count of all
        share: torch.Tensor = result.total * self.accelerator.num_processes / (count or result.count)
        return share.float().to(self.args.device)

    def _logps(
        self, model: Any, items: Sequence[EncodedItem], calls: int, cache: ReferenceCache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (responses, rounds) sums under policy and reference; those of items without weight at the end."""
        read, idle = self.in_step.filled(items, calls)
        batch = self.forward.lay_out(read).to(self.args.device)
        frozen = model if self.shares_model else self.accelerator.unwrap_model(model)
        shown = self.forward.show_images(frozen, batch, idle=idle)
        reference = self._reference_logps(frozen, items, batch, shown, cache)
        return self.forward.round_logps(model, batch, shown), reference

    def _compared(self, items: Sequence[EncodedItem], policy: torch.Tensor, reference: torch.Tensor) -> MDPOLoss:
        config = self.config
        mask = level_mask(torch.tensor([len(item.responses) for item in items], device=policy.device))
        # (responses of all parts,) True for an item's levels, False for its best response beside other images
        is_level = torch.tensor(
            [part is item for item in items for part in item.parts for _ in part.responses], device=policy.device
        )
        sums = [weigh_rounds(one[: len(is_level)], config.round_weight) for one in (policy, reference)]
        return mdpo_loss(
            *(by_level(one[is_level], mask) for one in sums),
            mask=mask,
            beta=config.beta,
            penalty=config.penalty,
            pairs=config.pairs,
            reduction=config.reduction,
            loss_type=config.loss_type,
            pair_weights=weights_by_pair(items, config.pairs, mask),
            lengths=by_level(self._lengths(items, policy), mask) if config.length_alpha or config.sft_weight else None,
            length_alpha=config.length_alpha,
            sft_weight=config.sft_weight,
            images=_image_pairs(items, *(one[~is_level] for one in sums), weight=config.image_weight),
        )

    def _lengths(self, items: Sequence[EncodedItem], like: torch.Tensor) -> torch.Tensor:
        """Return the (levels of all items,) answer tokens, those of later rounds weighed as their log-probabilities."""
        rounds = [response.round[response.supervised] for item in items for response in item.responses]
        return like.new_tensor([float((1 + self.config.round_weight * one).sum()) for one in rounds])

    def measure(self, batch: list[EncodedItem]) -> None:
        """Compare held-out items as a step does, in as many passes as every other process makes.

        The model stays in training mode, in which the self-test has seen that its numbers are right.
        """
        passes = self.in_step.passes(batch, self.config.tokens_per_step)
        model = self.model_wrapped if self.shares_model else self.accelerator.unwrap_model(self.model_wrapped)
        for items in passes.items:
            with self.compute_loss_context_manager():
                policy, reference = self._logps(model, items, passes.tower_calls, self.held_out_reference)
            if not items:
                continue
            result = self._compared(items, policy, reference)
            self.held_out_metrics.add(result)
            rows = torch.tensor([0, *(len(item.all_responses) for item in items[:-1])], device=policy.device)
            best = rows.cumsum(0)  # (items,) the row of each item's best response
            reward = policy.sum(dim=1)[best].sum() - reference.sum(dim=1)[best].sum()
            tokens = sum(int(item.responses[0].supervised.sum()) for item in items)
            counts = reward.new_tensor([result.count, tokens, len(items)])
            self._held_out_sums += torch.cat([torch.stack([result.total.double(), reward]), counts])

    def measured(self) -> dict[str, float]:
        """Return loss, pairs, what `PairMetrics` tells, and `best_per_token`, of the held-out items."""
        pairs = self.held_out_metrics.drain(self._over_all_processes)
        total, reward, count, tokens, items = self._over_all_processes(self._held_out_sums).tolist()
        self._held_out_sums.zero_()
        if not items:
            return {}
        counts = {"items": items, "pairs": pairs.pop("pairs")}
        return {"loss": total / count, **pairs, "best_per_token": reward / tokens, **counts}

    def _over_all_processes(self, sums: torch.Tensor) -> torch.Tensor:
        reduced: torch.Tensor = self.accelerator.reduce(sums, reduction="sum")
        return reduced

    @torch.no_grad()
    def _reference_logps(
        self,
        model: Any,
        items: Sequence[EncodedItem],
        batch: Batch,
        shown: dict[str, Any],
        cache: ReferenceCache | None,
    ) -> torch.Tensor:
        if cache is not None and items:
            return cache.round_logps(items).to(exact_device(self.args.device))
        if cache is not None:
            return torch.empty(0, 1, device=exact_device(self.args.device))
        with self.accelerator.unwrap_model(model).disable_adapter():
            return self.forward.round_logps(model, batch, shown)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the pairs and levels did since the last line."""
        if "loss" in logs:
            pairs = self.pair_metrics.drain(self._over_all_processes)
            logs |= {name: value for name, value in pairs.items() if name != "pairs"}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Passes) -> int:
        """Not counted: the estimate knows nothing of a frozen tower and a head at few places."""
        return 0


def _image_pairs(
    items: Sequence[EncodedItem], policy: torch.Tensor, reference: torch.Tensor, *, weight: float
) -> ImagePairs | None:
    """Return the best responses beside other images; `policy`, `reference`: (items that have them,) sums."""
    if not len(policy):
        return None
    mask = torch.tensor([item.beside_other_images is not None for item in items], device=policy.device)
    logps = [by_level(one, mask) for one in (policy, reference)]
    return ImagePairs(policy_logps=logps[0], reference_logps=logps[1], mask=mask, weight=weight)


class PairMetrics:
    """Sums over the steps between two log lines."""

    def __init__(self, device: torch.device) -> None:
        # by distance of the pair: count, margin, in order; by level: count, reward
        # of image pairs: count, margin, in order; of best responses: count, loss of a token
        self._pairs = torch.zeros(MOST_LEVELS, 3, dtype=torch.float64, device=device)
        self._rewards = torch.zeros(MOST_LEVELS, 2, dtype=torch.float64, device=device)
        self._images = torch.zeros(3, dtype=torch.float64, device=device)
        self._best = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, result: MDPOLoss) -> None:
        """Take in one forward pass."""
        distance = torch.tensor([worse - better for better, worse in result.pairs], device=result.margins.device)
        margin, place = _present(result.margins, distance)
        order, _ = _present(result.order, distance)
        self._pairs.index_add_(0, place, torch.stack((torch.ones_like(margin), margin, order), dim=1))
        reward, place = _present(result.rewards, torch.arange(result.rewards.shape[1], device=result.rewards.device))
        self._rewards.index_add_(0, place, torch.stack((torch.ones_like(reward), reward), dim=1))
        if result.image_margins is not None and result.image_order is not None:
            there = ~result.image_margins.isnan()
            margin, order = result.image_margins[there].double(), result.image_order[there]
            self._images += torch.stack((torch.ones_like(margin), margin, order)).sum(dim=1)
        if result.best_nll is not None:
            self._best += torch.stack((torch.ones_like(result.best_nll), result.best_nll)).double().sum(dim=1)

    def drain(self, over_all_processes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means since the last call, over all processes, and start again.

        Keys: `pairs` (how many), `margin`, `accuracy`, `margin_distance_D`, `accuracy_distance_D` (1 = adjacent
        levels), `reward_level_L`; `margin_images` and `accuracy_images` of image pairs, which are not in the others,
        and `best_nll`, the loss of a token of the best response in nats, where the settings ask for them.
        An accuracy is the share of pairs in order; a margin within rounding of zero is a tie and counts one half.
        """
        pairs, rewards = over_all_processes(self._pairs).tolist(), over_all_processes(self._rewards).tolist()
        images, best = over_all_processes(self._images).tolist(), over_all_processes(self._best).tolist()
        for sums in (self._pairs, self._rewards, self._images, self._best):
            sums.zero_()
        values: dict[str, float] = {}
        count, margin, in_order = (sum(column) for column in zip(*pairs, strict=True))
        if count:
            values |= {"pairs": count, "margin": margin / count, "accuracy": in_order / count}
        for distance, (count, margin, in_order) in enumerate(pairs):
            if count:
                values[f"margin_distance_{distance}"] = margin / count
                values[f"accuracy_distance_{distance}"] = in_order / count
        for level, (count, reward) in enumerate(rewards):
            if count:
                values[f"reward_level_{level}"] = reward / count
        if images[0]:
            values |= {"margin_images": images[1] / images[0], "accuracy_images": images[2] / images[0]}
        if best[0]:
            values["best_nll"] = best[1] / best[0]
        return values


def _present(values: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values that are there (NaN marks absent levels) and the column number of each, both flat."""
    there = ~values.isnan()
    return values[there].double(), columns.expand_as(values)[there]
