"""One training session: load, check, go on from the last checkpoint, train, write the adapter."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from peft.utils import load_peft_weights, set_peft_model_state_dict
from transformers import PrinterCallback, TrainingArguments, set_seed

from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.errors import AmpError
from amp_cli.launching import report
from amp_cli.models.adapters import train_whole_in_float32
from amp_cli.models.load import LoadedModel, load_model, loading_text
from amp_cli.models.machine import MemoryPeak
from amp_cli.models.precision import DTYPES, why_float16
from amp_cli.models.prompts import EncodedItem
from amp_cli.records import PreferenceItem
from amp_cli.training.arguments import (
    WINDOW,
    compile_mlps,
    last_complete,
    remove_incomplete,
    trainer_arguments,
    with_fresh_adapter,
)
from amp_cli.training.card import ADAPTER, BEST, finish_adapter
from amp_cli.training.config import ZERO_3, TrainConfig, checkpoints_sft
from amp_cli.training.data import HELD_OUT, REJECTED, EncodedItems, load_items
from amp_cli.training.feeding import ShareLoader, shares_in_turn, unpacked
from amp_cli.training.held_out import HeldOut, best_of, rows_of
from amp_cli.training.looking import LateBar, usable_items
from amp_cli.training.memory import choose_checkpointing, estimate_memory, room_on, spread_sample
from amp_cli.training.pair_weights import PairWeights
from amp_cli.training.reference import ReferenceCache, cache_identity, check_cache, choose_reference, fill_cache
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.logprobs import teach_log_probabilities
from amp_cli.training.rows.selftest import SelfTest, choose_forward, describe, plain_passes, shorten
from amp_cli.training.sharding import InStep, how_shared, set_trained_weights, shard, shards_by_fsdp
from amp_cli.training.trainer import MDPOTrainer
from amp_cli.training.updates import METRICS, SKIPPED, FiniteTrainer, RunReport, cut_metrics

SAMPLED = 32
"""Items from which the longest is taken for the estimate of memory."""


def load_policy(config: TrainConfig, device: str, *, shares: bool = False) -> LoadedModel:
    """Load the base once, with a LoRA adapter on its language model; switched off, it is the reference.

    The adapter is fresh, or the one to go on with.

    Args:
        shares: leave each process its share of the model alone; only the main one reads a base that is not quantised.
    """
    reads = not shares or PartialState().is_main_process
    loaded = load_model(replace(config.spec, device=device), trainable=True, to_share=shares, reads_weights=reads)
    loaded.prepare_images(pad_to_square=config.pad_to_square, max_pixels=config.max_pixels)
    if config.method == "mdpo":
        teach_log_probabilities(loaded.model if config.adapter is None else loaded.model.get_base_model())
    set_seed(config.seed)
    if config.adapter is None:
        loaded.model = with_fresh_adapter(loaded.model, config)
    else:
        train_whole_in_float32(loaded.model)
    if config.torch_compile:
        compile_mlps(loaded.model, torch.device(device))
    if shares:
        shard(loaded.model, DTYPES[loaded.identity["dtype"]], on_gpu=device != "cpu")
    return loaded


class Session:
    """What a worker process does between reading `run.json` and writing `result.json`."""

    def __init__(self, config: TrainConfig, run_folder: Path) -> None:
        self.config = config
        self.run_folder = run_folder
        self.state = PartialState()
        self.self_test: SelfTest | None = None
        self.held_out: HeldOut | None = None
        self.facts: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Train to the end and return what `result.json` holds."""
        start, memory = time.monotonic(), MemoryPeak()
        device = self.state.device  # of several processes on CPUs, accelerate says "cpu:0"
        config = replace(self.config, dtype=self._agreed_precision())
        self._doing(loading_text(config.spec))
        loaded = load_policy(config, "cpu" if device.type == "cpu" else str(device), shares=shards_by_fsdp())
        for note in loaded.notes:
            self._note(note)
        items = load_items(self.run_folder, self.config.method)
        data = self._weighed(usable_items(EncodedItems.for_training(loaded, items, self.config), self.run_folder))
        resumed_from = self._tidy()
        self.held_out = self._hold_out(data)
        callback = RunReport(self.run_folder, self.held_out)
        trainer = self._trainer(loaded, data, callback)
        ready = time.monotonic()
        steps_before = resumed_from[1] if resumed_from else 0
        self._train(trainer, resumed_from)
        seconds = time.monotonic() - ready
        steps = max(trainer.state.global_step, steps_before)
        facts = self._last_metrics(callback) | {"items": self._used(data), "steps": steps}
        adapter = self._save(trainer, facts)
        if self.held_out is not None:
            self.facts["held_out"] = self._finish_held_out(self.held_out, facts)
        return {
            **facts,
            "adapter": str(adapter),
            "resumed_from": resumed_from[0].name if resumed_from else None,
            "seconds": round(time.monotonic() - start, 3),
            "start_seconds": round(ready - start, 3),
            "items_per_second": trainer.items_of_all_processes() / seconds,
            "peak_memory_mb": _peak_memory_mb(self.state.device, memory),
            "model": loaded.identity,
            "self_test": self.self_test and self.self_test.to_json(),
            **self.facts,
        }

    def _agreed_precision(self) -> str:
        """Return what to load the model in: GPUs of several generations must all compute alike."""
        reasons = gather_object([why_float16(self.config.dtype, self.state.device)])
        why = next((reason for reason in reasons if reason is not None), None)
        if why is None:
            return self.config.dtype
        self._say(why)
        return "float16"

    def _tidy(self) -> tuple[Path, int, int] | None:
        """Return the checkpoint to go on from, after half-written ones and what was logged after it are gone."""
        found = None
        if self.state.is_main_process:
            found = last_complete(self.run_folder)
            remove_incomplete(self.run_folder)
            cut_metrics(self.run_folder, after_step=found[1] if found else 0)
        resumed_from: tuple[Path, int, int] | None = broadcast_object_list([found])[0]
        return resumed_from

    def _weighed(self, data: EncodedItems) -> EncodedItems:
        """Return the data with their pairs weighed, where the settings ask for that; every process finds the same."""
        config = self.config
        weights = PairWeights.measured(
            [item for item in data.items if isinstance(item, PreferenceItem)],
            pairs=config.pairs,
            gap=config.gap_weight,
            balance=config.length_balance,
            tokenizer=data.loaded.tokenizer,
        )
        for line in [] if weights is None else weights.told():
            self._say(line)
        return data.weighed(weights)

    def _hold_out(self, data: EncodedItems) -> HeldOut | None:
        """Return the items to evaluate, where there are any, and what was found up to the step that is gone on from.

        What is too long shows when its turn comes, and is left out then.
        """
        told: list[Any] = [None]
        if self.state.is_main_process and (self.run_folder / HELD_OUT).exists():
            told = [rows_of(RecordLog(self.run_folder / METRICS).read())]
        rows = broadcast_object_list(told)[0]  # the main process decides: another machine may see the file later
        if rows is None:
            return None
        config = self.config
        items = load_items(self.run_folder, config.method, HELD_OUT)
        return HeldOut(
            data=data.beside(items),
            run_folder=self.run_folder,
            every=config.eval_steps or config.save_steps,
            patience=config.patience,
            rows=rows,
        )

    def _finish_held_out(self, held_out: HeldOut, facts: dict[str, Any]) -> dict[str, Any]:
        """Put the best adapter beside the last, and return what was found."""
        best, last = best_of(held_out.rows) or {}, held_out.rows[-1]
        if self.state.is_main_process:
            held_out.tidy()
            if (kept := held_out.place(best["step"])).exists():
                of_best = {**facts, "steps": best["step"], "loss": None, "accuracy": None, "held_out": best}
                finish_adapter(kept, self.run_folder, config=self.config, facts=of_best, name=BEST)
        return {"items": len(held_out.data), "stopped_early": held_out.is_exhausted, "best": best, "last": last}

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

        is_on = checkpoints_sft(self.config, self.state.device.type)
        arguments = self._arguments(loaded, self._told(checkpointing=is_on))
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
        reference, held_out_reference = self._references(loaded, data, forward)
        return MDPOTrainer(
            config=self.config,
            forward=forward,
            reference=reference,
            held_out_reference=held_out_reference,
            model=loaded.model,
            args=TrainingArguments(**arguments),
            callbacks=[callback],
            **self._feeding(data),
        )

    def _feeding(self, data: EncodedItems) -> dict[str, Any]:
        fill = self._fill_item(data)
        return {"data": data, "fill": fill, "leave_out": self._leave_out, "held_out": self.held_out}

    def _fill_item(self, data: EncodedItems) -> EncodedItem:
        fill = data.first_usable(_with_images_first(data), 1)[0]
        if self.held_out is not None and not fill.image_inputs:
            other = self.held_out.data
            fill = other.first_usable(_with_images_first(other), 1)[0]
        return fill

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
            return self._told(checkpointing=wanted)
        self._doing("Estimating the memory of a step")
        estimate = estimate_memory(
            forward.network,
            self.config,
            data.first_usable(spread_sample(len(data), SAMPLED), SAMPLED),
            precision=loaded.identity["dtype"],
            on_gpu=self.state.device.type != "cpu",
            processes=processes,
            layout=forward.layout,
            sharing=how_shared(),
        )
        held = estimate.adapter // 4 + (estimate.loading if how_shared() == ZERO_3 else estimate.weights)
        estimate = replace(estimate, loading=0)  # that is over
        room = min(gather_object([room_on(self.state.device, held=held, processes=processes)]))
        is_on, why = choose_checkpointing(None, estimate, room)
        self._say(why)
        self.facts["estimate"] = estimate.to_json()
        return self._told(checkpointing=is_on)

    def _told(self, *, checkpointing: bool) -> bool:
        """Keep and tell the choice: whoever advises on memory must know it."""
        self.facts["gradient_checkpointing"] = checkpointing
        if self.state.is_main_process:
            report(checkpointing=checkpointing)
        return checkpointing

    def _arguments(self, loaded: LoadedModel, checkpointing: bool) -> dict[str, Any]:
        precision = loaded.identity["dtype"]
        return trainer_arguments(self.config, self.run_folder, precision=precision, checkpointing=checkpointing)

    def _forward(self, loaded: LoadedModel, data: EncodedItems, pad_id: int) -> ForwardPass:
        """Test our log-probabilities on real items before hours are spent on them, and take the fastest right way."""
        items = shorten(data.first_usable(_with_images_first(data), 2))
        self._doing("Testing the log-probabilities on items of yours")
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

    def _references(
        self, loaded: LoadedModel, data: EncodedItems, forward: ForwardPass
    ) -> tuple[ReferenceCache | None, ReferenceCache | None]:
        """Return the reference's log-probabilities of all items and of those held out, where they come from disk.

        Those held out are looked at again and again: only `online` computes theirs each time.
        """
        items = len(data)
        is_cached, why = choose_reference(self.config.reference, items=items, visits=self.config.visits(items))
        self.facts["reference"] = "cache" if is_cached else "online"
        self._say(why)
        is_wanted = self.held_out is not None and self.config.reference != "online"
        if not is_cached and not is_wanted:
            return None, None
        self._doing("Reading the reference that is on the disk")
        cache = ReferenceCache(cache_identity(loaded.identity))
        if is_cached:
            self._fill(cache, loaded, data, forward)
        if self.held_out is not None and is_wanted:
            self._fill(cache, loaded, self.held_out.data, forward)
        return (cache if is_cached else None), (cache if is_wanted else None)

    def _fill(self, cache: ReferenceCache, loaded: LoadedModel, data: EncodedItems, forward: ForwardPass) -> None:
        """Compute what the cache lacks of these items, each process a part of them."""
        windows = shares_in_turn(
            len(data), process=self.state.process_index, processes=self.state.num_processes, at_once=WINDOW
        )
        if self.state.is_main_process:
            report(total=sum(map(len, windows)), done=0, label="Reference", unit="items")
        in_step = None
        if shards_by_fsdp():
            in_step = InStep(forward=forward, fill=self._fill_item(data), shares_model=True, device=self.state.device)
        loader = ShareLoader(data, windows, list, at_once=WINDOW, workers=self.config.data_workers)
        budget = self.config.tokens_per_step
        tolerance = self.self_test.limits.mean if self.self_test is not None else None
        with self._precision(loaded):
            for share in map(unpacked, loader):
                how = (cache, loaded.model, forward, share.batch)
                if tolerance is not None and check_cache(*how, tolerance=tolerance, in_step=in_step):
                    tolerance = None
                fill_cache(*how, tokens_per_step=budget, in_step=in_step)
                self._advance(share.items + len(share.left_out))
        self._doing("Gathering the reference of all processes")
        cache.flush()
        for found in gather_object([cache.used]):  # told, not read from the disk: machines need not share one
            cache.learn(found)

    def _precision(self, loaded: LoadedModel) -> torch.autocast:
        """Return a context with matrix products in the precision that the trainer will have them in."""
        kind, dtype = self.state.device.type, DTYPES[loaded.identity["dtype"]]
        casts = kind != "cpu" and dtype != torch.float32 and not shards_by_fsdp()  # which casts by itself
        return torch.autocast(kind, dtype, enabled=casts)

    def _advance(self, items: int) -> None:
        for _ in range(items if self.state.is_main_process else 0):
            report(step=1)

    def _note(self, text: str) -> None:
        if self.state.is_main_process:
            report(note=text)

    def _doing(self, text: str) -> None:
        if self.state.is_main_process:
            report(doing=text)

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
        kept = load_peft_weights(str(checkpoint), device=str(self.state.device))
        if shards_by_fsdp():
            set_trained_weights(trainer.model, kept)
        else:
            set_peft_model_state_dict(trainer.model, kept)

    def _last_metrics(self, callback: RunReport) -> dict[str, Any]:
        records = [record for record in RecordLog(self.run_folder / METRICS).read() if "loss" in record]
        last = callback.last or (records[-1] if records else {})
        skipped = sum(record.get(SKIPPED, 0) for record in records)
        return {"loss": last.get("loss"), "accuracy": last.get("accuracy")} | ({SKIPPED: skipped} if skipped else {})

    def _save(self, trainer: FiniteTrainer, facts: dict[str, Any]) -> Path:
        self._doing("Writing the adapter")
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


def _peak_memory_mb(device: torch.device, memory: MemoryPeak) -> float:
    """Return the most memory this process has held: of the GPU where there is one, else of the machine.

    Of Apple's GPUs, which tell no peak, what PyTorch holds at the end, with what it keeps for reuse.
    """
    memory.stop()
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else memory.megabytes()
