"""What both trainers do at every update: take its items, refuse numbers that are not finite, tell, and evaluate."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from peft.utils import load_peft_weights
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from amp_cli.disk.jsonl import RecordLog, write_records
from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.launching import report
from amp_cli.models.prompts import EncodedItem
from amp_cli.training.arguments import FOLDER, mark_complete
from amp_cli.training.card import BEST
from amp_cli.training.curves import PREFIX
from amp_cli.training.data import REJECTED, EncodedItems
from amp_cli.training.feeding import EpochShares, Share, ShareLoader, shares_in_turn, unpacked
from amp_cli.training.held_out import LOSS, HeldOut, best_of, overtraining, told
from amp_cli.training.looking import LateBar
from amp_cli.training.sharding import give_empty_shares_names, set_trained_weights, trained_weights

TRY_LESS = "Lower learning_rate or max_grad_norm with --set, and give another --out or --overwrite"
SKIPPED = "skipped_updates"
"""In a line of metrics: updates since the line before that float16's loss scale left out."""
MOST_SKIPPED = 50
"""Updates in a row that float16's loss scale may skip while it looks for a scale: it halves from 65536 each time."""


MPS_RANDOM = "rng_state_mps.pth"
"""In a checkpoint: the state of the random numbers of Apple's GPU."""
METRICS = "metrics.jsonl"
NOT_KEPT = ("num_tokens", "epoch")
"""`num_tokens` starts again with a resumed process; `epoch` we write ourselves."""


class RunReport(TrainerCallback):
    """One for each process; only the main one writes."""

    def __init__(self, run_folder: Path, held_out: HeldOut | None) -> None:
        self._folder = run_folder
        self._held_out = held_out
        self._metrics = RecordLog(run_folder / METRICS)
        self.last: dict[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            report(total=state.max_steps, done=state.global_step, label="Training", unit="steps")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            report(step=state.global_step)
        is_last = state.global_step >= state.max_steps
        if self._held_out is not None and (is_last or state.global_step % self._held_out.every == 0):
            control.should_evaluate = control.should_log = True
        if is_last:
            control.should_log = True  # the first step and the last one always have a line

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if LOSS in logs and state.is_world_process_zero:
            self._tell_held_out({"step": state.global_step, "epoch": state.epoch, **logs})
        if "loss" not in logs:  # the summary at the end
            return
        if not math.isfinite(logs["loss"]):
            raise AmpError(
                f"Training failed at step {state.global_step}: the loss is {logs['loss']}",
                hint=TRY_LESS,
            )
        # the norm of an update that float16's loss scale skipped is infinite
        kept = {name: value for name, value in logs.items() if name not in NOT_KEPT and math.isfinite(value)}
        self.last = {"step": state.global_step, "epoch": state.epoch, **kept}
        if state.is_world_process_zero:
            self._metrics.append(self.last)
            report(metrics=self.last)
            if skipped := self.last.get(SKIPPED):
                many = f"{skipped} of the updates up to step {state.global_step} were skipped"
                report(said=f"{many}: float16's loss scale was too large, and has been halved")

    def _tell_held_out(self, row: dict[str, Any]) -> None:
        before = overtraining(self._metrics.read())
        self._metrics.append({name: value for name, value in row.items() if math.isfinite(value)})
        report(said=told(row))
        why = overtraining(self._metrics.read())
        if why is not None and before is None:
            report(note=f"Over-training at step {row['step']}: {why}. {BEST} holds the best step's adapter")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # the other processes write their random states
        if state.is_world_process_zero:
            checkpoint = self._folder / FOLDER / f"checkpoint-{state.global_step}"
            is_over = control.should_training_stop  # sooner than planned, where held-out items say so
            mark_complete(checkpoint, step=state.global_step, of=state.global_step if is_over else state.max_steps)
            if self._held_out is not None:
                self._held_out.tidy()


def cut_metrics(run_folder: Path, *, after_step: int) -> None:
    """Drop what was logged after the checkpoint that the run goes on from; it will be logged again."""
    path = run_folder / METRICS
    if not path.exists():
        return
    write_records(path, [record for record in RecordLog(path).read() if record["step"] <= after_step])


class FiniteTrainer(Trainer):
    """A Trainer that ends with a sentence before a number that is not finite reaches a weight or the disk.

    The gradients' norm is the same in every process, so all of them stop at the same step. To look at it waits for the
    device, once an update, where the Trainer has computed it anyway.
    """

    def __init__(
        self,
        *,
        data: EncodedItems,
        fill: EncodedItem,
        leave_out: Callable[[LeftOut], None],
        held_out: HeldOut | None,
        **arguments: Any,
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
        self.held_out = held_out
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

    def measure(self, batch: Any) -> None:
        """Take in a share of the held-out items, of which there may be none; every process is given as many shares."""
        raise NotImplementedError

    def measured(self) -> dict[str, float]:
        """Return what was taken in, over all processes, by name without `held_out_`, and start again."""
        raise NotImplementedError

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out items without gradients, keep the best adapter, and end the training where it is time.

        Nothing of it touches the training: what is random there goes on as if it had not been.
        """
        held_out = self.held_out
        if held_out is None:
            raise RuntimeError("nothing is held out")
        # devices draw nothing: mdpo has no dropout, and sft measures without it
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self._measure_all(held_out)
        found = {f"{PREFIX}{name}": value for name, value in self.measured().items()}
        if not found:
            raise AmpError(
                "None of the held-out items can be read",
                hint=f"The reasons are in '{held_out.run_folder / REJECTED}'; the same command goes on",
            )
        if not math.isfinite(found[LOSS]):
            raise AmpError(
                f"Training failed at step {self.state.global_step}: the loss of the held-out items is {found[LOSS]}",
                hint=TRY_LESS,
            )
        (row,) = broadcast_object_list([{"step": self.state.global_step, **found}])  # one decision for all
        held_out.rows.append(row)
        self.log(found)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        if best_of(held_out.rows) is row:
            self._keep_best(held_out.place(self.state.global_step))
        if held_out.is_exhausted:
            self.control.should_training_stop = self.control.should_save = True
        return found

    def _measure_all(self, held_out: HeldOut) -> None:
        args, at_once = self.args, self.args.per_device_eval_batch_size
        shares = shares_in_turn(
            len(held_out.data), process=args.process_index, processes=args.world_size, at_once=at_once
        )
        loader = ShareLoader(
            held_out.data, shares, self.builder(), at_once=at_once, workers=args.dataloader_num_workers
        )
        bar = LateBar("Held out", total=len(shares), unit=f"x {at_once * args.world_size} items")
        left_out: list[LeftOut] = []
        for share in map(unpacked, loader):
            self.measure(share.batch)
            left_out += share.left_out
            if self.is_world_process_zero():
                bar.advance()
        for one in gather_object(left_out):
            if self.is_world_process_zero():
                self._leave_out(one)
        if bar.is_shown:
            report(total=self.state.max_steps, done=self.state.global_step, label="Training", unit="steps")

    def _keep_best(self, place: Path) -> None:
        written = place.with_name(f"{place.name}.part")
        if self.is_world_process_zero():
            for folder in (place, written):
                shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(written))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            written.replace(place)

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

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.device.type == "mps":  # transformers keeps the states of other devices alone
            torch.save(torch.mps.get_rng_state(), Path(output_dir) / MPS_RANDOM)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self.args.device.type == "mps" and (Path(checkpoint) / MPS_RANDOM).is_file():
            torch.mps.set_rng_state(torch.load(Path(checkpoint) / MPS_RANDOM, weights_only=True))

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
