"""Reports steps and metrics to the parent, writes metrics.jsonl, and marks checkpoints whole."""

import math
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from amp_cli.core.events import report
from amp_cli.core.store import RecordLog, read_json_records, write_text
from amp_cli.errors import AmpError
from amp_cli.training.checkpoints import FOLDER, mark_complete

METRICS = "metrics.jsonl"
NOT_KEPT = ("num_tokens", "epoch")
"""`num_tokens` starts again with a resumed process; `epoch` we write ourselves."""


class RunReport(TrainerCallback):
    """One for each process; only the main one writes."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
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

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if "loss" not in logs:  # the summary at the end
            return
        if not math.isfinite(logs["loss"]):
            raise AmpError(
                f"The loss is {logs['loss']} at step {state.global_step}",
                hint="Lower learning_rate or max_grad_norm with --set; the last checkpoint is from before",
            )
        kept = {name: value for name, value in logs.items() if name not in NOT_KEPT}
        self.last = {"step": state.global_step, "epoch": state.epoch, **kept}
        if state.is_world_process_zero:
            self._metrics.append(self.last)
            report(metrics=self.last)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # the other processes write their random states
        if state.is_world_process_zero:
            checkpoint = self._folder / FOLDER / f"checkpoint-{state.global_step}"
            mark_complete(checkpoint, step=state.global_step, of=state.max_steps)


def cut_metrics(run_folder: Path, *, after_step: int) -> None:
    """Drop what was logged after the checkpoint that the run goes on from; it will be logged again."""
    path = run_folder / METRICS
    if not path.exists():
        return
    log = RecordLog(path)  # mends a torn last line
    lines = [line for line in log.path.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
    records = [record for _, record, _ in read_json_records(path)] if lines else []
    kept = [
        line for line, record in zip(lines, records, strict=True) if record is not None and record["step"] <= after_step
    ]
    write_text(path, "".join(kept))
