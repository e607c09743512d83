"""One training session: load, check, go on from the last checkpoint, train, write the adapter."""

import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from peft import get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from amp_cli.disk.jsonl import RecordLog, write_records
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.errors import AmpError
from amp_cli.launching import report
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.machine import peak_memory_mb
from amp_cli.models.precision import DTYPES
from amp_cli.training.arguments import (
    FOLDER,
    last_complete,
    lora_config,
    mark_complete,
    remove_incomplete,
    trainer_arguments,
)
from amp_cli.training.card import ADAPTER, finish_adapter
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import REJECTED, EncodedItems, load_items
from amp_cli.training.feeding import ShareLoader, unpacked
from amp_cli.training.looking import LateBar, usable_items
from amp_cli.training.memory import choose_checkpointing, estimate_memory, room_on, spread_sample
from amp_cli.training.reference import ReferenceCache, cache_identity, check_cache, choose_reference, fill_cache
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.logprobs import teach_log_probabilities
from amp_cli.training.rows.selftest import SelfTest, choose_forward, describe, plain_passes, shorten
from amp_cli.training.trainer import MDPOTrainer
from amp_cli.training.updates import TRY_LESS, FiniteTrainer


def compile_mlps(network: Any, device: torch.device) -> None:
    """Have torch compile each layer's MLP, adapter included, on first use; attention is ours and stays as it is.

    Raises:
        AmpError: there is no compiler, or the layers have no part of that name.
    """
    if device.type == "cpu":
        _refuse_without_compiler()
    layers = network.get_decoder().layers
    lacking = next((type(layer).__name__ for layer in layers if not hasattr(layer, "mlp")), None)
    if lacking is not None:
        raise AmpError(
            f"torch_compile needs layers with an 'mlp'; '{lacking}' has none", hint="Leave out --torch-compile"
        )
    for layer in layers:
        layer.mlp.compile(dynamic=True)  # rows have other lengths in every step


def _refuse_without_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise AmpError(
            "torch_compile needs a C++ compiler, and none was found",
            hint="Install one (Debian: apt install g++), or leave out --torch-compile",
        ) from error


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
        if state.global_step >= state.max_steps:
            control.should_log = True  # the first step and the last one always have a line

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
                f"Training failed at step {state.global_step}: the loss is {logs['loss']}",
                hint=TRY_LESS,
            )
        # the norm of an update that float16's loss scale skipped is infinite
        kept = {name: value for name, value in logs.items() if name not in NOT_KEPT and math.isfinite(value)}
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
    write_records(path, [record for record in RecordLog(path).read() if record["step"] <= after_step])


WINDOW = 16
"""Items whose reference is computed together."""
SAMPLED = 32
"""Items from which the longest is taken for the estimate of memory."""


def load_policy(config: TrainConfig, device: str) -> LoadedModel:
    """Load the base once, with a LoRA adapter on its language model; switched off, it is the reference.

    The adapter is fresh, or the one to go on with.
    """
    loaded = load_model(replace(config.spec, device=device), trainable=True)
    if config.pad_to_square is False:
        loaded.crop_images()
    if config.method == "mdpo":
        teach_log_probabilities(loaded.model if config.adapter is None else loaded.model.get_base_model())
    set_seed(config.seed)
    if config.adapter is None:
        loaded.model = get_peft_model(loaded.model, lora_config(config, loaded.model))
    if config.torch_compile:
        compile_mlps(loaded.model, loaded.device)
    return loaded


class Session:
    """What a worker process does between reading `run.json` and writing `result.json`."""

    def __init__(self, config: TrainConfig, run_folder: Path) -> None:
        self.config = config
        self.run_folder = run_folder
        self.state = PartialState()
        self.self_test: SelfTest | None = None
        self.facts: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Train to the end and return what `result.json` holds."""
        start = time.monotonic()
        device = self.state.device  # of several processes on CPUs, accelerate says "cpu:0"
        loaded = load_policy(self.config, "cpu" if device.type == "cpu" else str(device))
        # FSDP shards by layer; the classes that models name for it include some that these models do not have
        layer = type(loaded.model.get_decoder().layers[0]).__name__
        os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", layer)
        for note in loaded.notes:
            self._note(note)
        items = load_items(self.run_folder, self.config.method)
        encoded = EncodedItems(loaded, items, method=self.config.method, max_length=self.config.max_length)
        data = usable_items(encoded, self.run_folder)
        resumed_from = self._tidy()
        callback = RunReport(self.run_folder)
        trainer = self._trainer(loaded, data, callback)
        ready = time.monotonic()
        steps_before = resumed_from[1] if resumed_from else 0
        self._train(trainer, resumed_from)
        seconds = time.monotonic() - ready
        steps = max(trainer.state.global_step, steps_before)
        facts = self._last_metrics(callback) | {"items": self._used(data), "steps": steps}
        adapter = self._save(trainer, facts)
        return {
            **facts,
            "adapter": str(adapter),
            "resumed_from": resumed_from[0].name if resumed_from else None,
            "seconds": round(time.monotonic() - start, 3),
            "start_seconds": round(ready - start, 3),
            "items_per_second": trainer.items_of_all_processes() / seconds,
            "peak_memory_mb": _peak_memory_mb(self.state.device),
            "model": loaded.identity,
            "self_test": self.self_test and self.self_test.to_json(),
            **self.facts,
        }

    def _tidy(self) -> tuple[Path, int, int] | None:
        """Return the checkpoint to go on from, after half-written ones and what was logged after it are gone."""
        found = None
        if self.state.is_main_process:
            found = last_complete(self.run_folder)
            remove_incomplete(self.run_folder)
            cut_metrics(self.run_folder, after_step=found[1] if found else 0)
        resumed_from: tuple[Path, int, int] | None = broadcast_object_list([found])[0]
        return resumed_from

    def _trainer(self, loaded: LoadedModel, data: EncodedItems, callback: RunReport) -> FiniteTrainer:
        pad_id = loaded.tokenizer.pad_token_id or 0
        trainer = (
            self._sft_trainer(loaded, data, callback, pad_id)
            if self.config.method == "sft"
            else self._mdpo_trainer(loaded, data, callback, pad_id)
        )
        if trainer.args.world_size != self.state.num_processes:  # the batch was cut for the latter
            raise RuntimeError(
                f"{trainer.args.world_size} processes are training, but {self.state.num_processes} were counted"
            )
        refuse_coarse(trainer.model)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _sft_trainer(self, loaded: LoadedModel, data: EncodedItems, callback: RunReport, pad_id: int) -> FiniteTrainer:
        from amp_cli.training.sft import FiniteSFTTrainer, sft_config

        wanted = self.config.gradient_checkpointing
        arguments = self._arguments(loaded, self.state.device.type == "cuda" if wanted is None else wanted)
        trainer: FiniteTrainer = FiniteSFTTrainer(
            model=loaded.model,
            pad_id=pad_id,
            args=sft_config(arguments),
            processing_class=data.loaded.tokenizer,
            callbacks=[callback],
            **self._feeding(data),
        )
        return trainer

    def _mdpo_trainer(self, loaded: LoadedModel, data: EncodedItems, callback: RunReport, pad_id: int) -> FiniteTrainer:
        forward = self._forward(loaded, data, pad_id)
        arguments = self._arguments(loaded, self._checkpointing(loaded, data, forward))
        return MDPOTrainer(
            config=self.config,
            forward=forward,
            reference=self._reference(loaded, data, forward),
            model=loaded.model,
            args=TrainingArguments(**arguments),
            callbacks=[callback],
            **self._feeding(data),
        )

    def _feeding(self, data: EncodedItems) -> dict[str, Any]:
        return {"data": data, "fill": data.first_usable(_with_images_first(data), 1)[0], "leave_out": self._leave_out}

    def _used(self, data: EncodedItems) -> int:
        """Return how many items were not left out."""
        reasons = LeftOutLog.open(self.run_folder / REJECTED).reasons()
        return sum(item.id not in reasons for item in data.items)

    def _leave_out(self, one: LeftOut) -> None:
        if LeftOutLog.open(self.run_folder / REJECTED).add(one):
            self._note(f"Item '{one.id}' is left out: {one.reason}")

    def _checkpointing(self, loaded: LoadedModel, data: EncodedItems, forward: ForwardPass) -> bool:
        """Return whether to checkpoint gradients: where the process with the least memory would not do without."""
        wanted, processes = self.config.gradient_checkpointing, self.state.num_processes
        if wanted is not None:
            self.facts["gradient_checkpointing"] = wanted
            return wanted
        estimate = estimate_memory(
            forward.network,
            self.config,
            data.first_usable(spread_sample(len(data), SAMPLED), SAMPLED),
            precision=loaded.identity["dtype"],
            on_gpu=self.state.device.type == "cuda",
            processes=processes,
            layout=forward.layout,
        )
        held = estimate.weights + estimate.adapter // 4
        room = min(gather_object([room_on(self.state.device, held=held, processes=processes)]))
        is_on, why = choose_checkpointing(None, estimate, room)
        self._say(why)
        self.facts |= {"gradient_checkpointing": is_on, "estimate": estimate.to_json()}
        return is_on

    def _arguments(self, loaded: LoadedModel, checkpointing: bool) -> dict[str, Any]:
        precision = loaded.identity["dtype"]
        return trainer_arguments(self.config, self.run_folder, precision=precision, checkpointing=checkpointing)

    def _forward(self, loaded: LoadedModel, data: EncodedItems, pad_id: int) -> ForwardPass:
        """Test our log-probabilities on real items before hours are spent on them, and take the fastest right way."""
        items = shorten(data.first_usable(_with_images_first(data), 2))
        bar = LateBar("Self-test", total=plain_passes(items), unit="passes") if self.state.is_main_process else None
        loaded.model.train()
        try:
            with self._precision(loaded):
                forward, self.self_test = choose_forward(
                    loaded.model,
                    items,
                    pad_id=pad_id,
                    max_length=self.config.max_length,
                    agree=_first_failure,
                    advance=bar.advance if bar is not None else lambda: None,
                )
        except ValueError as error:
            raise AmpError(
                f"'{self.config.base}' cannot be trained with mdpo: {error}",
                hint="Give a model of a family in docs/training.md",
            ) from error
        if (slower := describe(self.self_test)) is not None:
            self._note(slower)
        return forward

    def _reference(self, loaded: LoadedModel, data: EncodedItems, forward: ForwardPass) -> ReferenceCache | None:
        """Return the reference's log-probabilities of all items, where they are to come from disk."""
        items = len(data)
        is_cached, why = choose_reference(self.config.reference, items=items, visits=self.config.visits(items))
        self.facts["reference"] = "cache" if is_cached else "online"
        self._say(why)
        if not is_cached:
            return None
        cache = ReferenceCache(cache_identity(loaded.identity))
        own = range(self.state.process_index, len(data), self.state.num_processes)
        if self.state.is_main_process:
            report(total=len(own), done=0, label="Reference", unit="items")
        windows = [list(own[start : start + WINDOW]) for start in range(0, len(own), WINDOW)]
        loader = ShareLoader(data, windows, list, at_once=WINDOW, workers=self.config.data_workers)
        budget = self.config.tokens_per_step
        tolerance = self.self_test.limits.mean if self.self_test is not None else None
        with self._precision(loaded):
            for share in map(unpacked, loader):
                if tolerance is not None and (known := next((one for one in share.batch if one in cache), None)):
                    check_cache(cache, loaded.model, forward, known, tolerance=tolerance)
                    tolerance = None  # one of the kept numbers stands for all
                fill_cache(cache, loaded.model, forward, share.batch, tokens_per_step=budget)
                self._advance(share.items + len(share.left_out))
        cache.flush()
        for found in gather_object([cache.used]):  # told, not read from the disk: machines need not share one
            cache.learn(found)
        return cache

    def _precision(self, loaded: LoadedModel) -> torch.autocast:
        """Return a context with matrix products in the precision that the trainer will have them in."""
        kind, dtype = self.state.device.type, DTYPES[loaded.identity["dtype"]]
        return torch.autocast(kind, dtype, enabled=kind == "cuda" and dtype != torch.float32)

    def _advance(self, items: int) -> None:
        for _ in range(items if self.state.is_main_process else 0):
            report(step=1)

    def _note(self, text: str) -> None:
        if self.state.is_main_process:
            report(note=text)

    def _say(self, text: str) -> None:
        if self.state.is_main_process:
            report(said=text)

    def _train(self, trainer: FiniteTrainer, resumed_from: tuple[Path, int, int] | None) -> None:
        if resumed_from is None:
            trainer.train()
            return
        checkpoint, step, of = resumed_from
        if step < of:
            trainer.train(resume_from_checkpoint=str(checkpoint))
            return
        # killed between the last checkpoint and the adapter: transformers would train one step more
        set_peft_model_state_dict(trainer.model, load_peft_weights(str(checkpoint), device=str(self.state.device)))

    def _last_metrics(self, callback: RunReport) -> dict[str, Any]:
        records = RecordLog(self.run_folder / METRICS).read()
        last = callback.last or (records[-1] if records else {})
        return {"loss": last.get("loss"), "accuracy": last.get("accuracy")}

    def _save(self, trainer: FiniteTrainer, facts: dict[str, Any]) -> Path:
        written = self.run_folder / f"{ADAPTER}.part"
        if self.state.is_main_process and written.exists():
            shutil.rmtree(written)
        self.state.wait_for_everyone()
        trainer.save_model(str(written))
        self.state.wait_for_everyone()
        if not self.state.is_main_process:
            return self.run_folder / ADAPTER
        return finish_adapter(written, self.run_folder, config=self.config, facts=facts)


def _first_failure(failure: str | None) -> str | None:
    """Return what was wrong in the first of the processes in which something was, None where nothing was in any."""
    return next((one for one in gather_object([failure]) if one is not None), None)


def _with_images_first(data: EncodedItems) -> list[int]:
    """Return the items' numbers, those with images before those without."""
    return sorted(range(len(data)), key=lambda number: not data.items[number].images)


def refuse_coarse(model: Any) -> None:
    """See that what is trained is float32: in 16 bits most of an adapter's small updates are lost.

    Raises:
        RuntimeError: a library has made it coarser.
    """
    coarse = [name for name, one in model.named_parameters() if one.requires_grad and one.dtype != torch.float32]
    if coarse:
        raise RuntimeError(f"{len(coarse)} weights to train are not float32, first '{coarse[0]}'")


def _peak_memory_mb(device: torch.device) -> float:
    """Return the most memory this process has held: of the GPU where there is one, else of the machine."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory_mb()
