"""What both trainers do at every update: take its items, count them, and refuse numbers that are not finite."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from peft.utils import load_peft_weights
from transformers import Trainer

from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.models.prompts import EncodedItem
from amp_cli.training.data import EncodedItems
from amp_cli.training.feeding import EpochShares, Share, ShareLoader, unpacked
from amp_cli.training.sharding import give_empty_shares_names, set_trained_weights, trained_weights

TRY_LESS = "Lower learning_rate or max_grad_norm with --set, and give another --out or --overwrite"
SKIPPED = "skipped_updates"
"""In a line of metrics: updates since the line before that float16's loss scale left out."""
MOST_SKIPPED = 50
"""Updates in a row that float16's loss scale may skip while it looks for a scale: it halves from 65536 each time."""


class FiniteTrainer(Trainer):
    """A Trainer that ends with a sentence before a number that is not finite reaches a weight or the disk.

    The gradients' norm is the same in every process, so all of them stop at the same step. To look at it waits for the
    device, once an update, where the Trainer has computed it anyway.
    """

    def __init__(
        self, *, data: EncodedItems, fill: EncodedItem, leave_out: Callable[[LeftOut], None], **arguments: Any
    ) -> None:
        """Train on `data`.

        Args:
            fill: an item, with images if any of them has some, that is read without weight where a process has no item
                and the others have.
            leave_out: told, in the main process, of each item that turned out to be unusable; also of one known.
        """
        super().__init__(**arguments)
        self.data = data
        self.fill = fill
        self.items_seen = 0
        self._leave_out = leave_out
        self._left_out: list[LeftOut] = []
        self._skipped = 0
        self._skipped_since_line = 0

    @property
    def shares_model(self) -> bool:
        """Whether the processes hold one model together, so that each must make every call that another makes."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def builder(self) -> Callable[[list[EncodedItem]], Any]:
        """Return what makes a batch of items, of which there may be none; data workers are sent it."""
        raise NotImplementedError

    def get_train_dataloader(self) -> ShareLoader:
        """Return the loader of this process's shares."""
        args = self.args
        at_once = args.per_device_train_batch_size
        shares = EpochShares(
            len(self.data),
            seed=args.data_seed,
            process=args.process_index,
            processes=args.world_size,
            at_once=at_once,
        )
        return ShareLoader(self.data, shares, self.builder(), at_once=at_once, workers=args.dataloader_num_workers)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Take this process's share of one update."""
        batches, count = super().get_batch_samples(map(self._taken, epoch_iterator), num_batches, device)
        return batches, count

    def _taken(self, arrived: Share | bytes) -> Any:
        share = unpacked(arrived)
        self.items_seen += share.items
        self._left_out += share.left_out
        return share.batch

    def create_optimizer(self, *arguments: Any, **named: Any) -> Any:
        """Make the optimizer, of weights that accelerate can tell apart."""
        if self.is_fsdp_enabled:
            give_empty_shares_names(self.model)
        return super().create_optimizer(*arguments, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell of the items that were left out in any process since the last line, and of skipped updates."""
        if "loss" in logs:
            if self._skipped_since_line:
                logs = {**logs, SKIPPED: self._skipped_since_line}
                self._skipped_since_line = 0
            for one in gather_object(self._left_out):
                if self.is_world_process_zero():
                    self._leave_out(one)
            self._left_out = []
        super().log(logs, start_time)

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
        if is_finite:
            return norm
        if self.args.fp16 and self._skipped < MOST_SKIPPED:  # the loss scale skips such an update
            self._skipped_since_line += 1
            return norm
        raise AmpError(
            f"Training failed at step {self.state.global_step + 1}: its gradients are not finite (norm {float(norm)})",
            hint=TRY_LESS,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:  # accelerate would look for the frozen weights too, which no checkpoint has
            set_trained_weights(self.model, load_peft_weights(resume_from_checkpoint, device="cpu"))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

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
        if self.is_fsdp_enabled:  # transformers would gather the whole base for it, or write no adapter at all
            self._save(output_dir, state_dict=trained_weights(self.model))
        else:
            super().save_model(output_dir, _internal_call)


def _is_broken(weight: torch.Tensor) -> bool:
    return not bool(torch.isfinite(weight.detach()).all())
