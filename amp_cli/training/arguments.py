"""Our settings as the arguments of a transformers or TRL trainer."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.disk.jsonl import write_json
from amp_cli.disk.modes import share_weights
from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError
from amp_cli.training.config import TrainConfig
from amp_cli.training.trackers import PROJECT, run_name

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

FOLDER = "checkpoints"
WINDOW = 16
"""Items that mdpo takes at once where it needs no gradient, to be cut into passes by tokens."""
MARKER = "complete.json"


def mark_complete(checkpoint: Path, *, step: int, of: int) -> None:
    """Say that everything of a checkpoint is on disk.

    PEFT's card is removed: it is read and written anew by each process, so a resumed run would have another one.
    """
    (checkpoint / "README.md").unlink(missing_ok=True)
    share_weights(checkpoint)
    sizes = ((file, file.stat().st_size) for file in checkpoint.rglob("*") if file.is_file())
    files = {file.relative_to(checkpoint).as_posix(): size for file, size in sizes}
    write_json(checkpoint / MARKER, {"step": step, "of": of, "files": files})


def last_complete(run_folder: Path) -> tuple[Path, int, int] | None:
    """Return the newest whole checkpoint, its step and the steps in all; None when there is none."""
    found = [(int(folder.name.rpartition("-")[2]), folder) for folder in _folders(run_folder) if _is_complete(folder)]
    if not found:
        return None
    step, folder = max(found)
    return folder, step, int(read_plain_object(folder / MARKER, of=int)["of"])


def remove_incomplete(run_folder: Path) -> None:
    """Delete what a kill left half-written."""
    for folder in _folders(run_folder):
        if not _is_complete(folder):
            shutil.rmtree(folder)


def _folders(run_folder: Path) -> list[Path]:
    return [folder for folder in (run_folder / FOLDER).glob("checkpoint-*") if folder.is_dir()]


def _is_complete(checkpoint: Path) -> bool:
    if not (checkpoint / MARKER).is_file():
        return False
    files = read_plain_object(checkpoint / MARKER, files=dict)["files"]
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in files.items()
    )


SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""transformers' own "constant" would skip the warm-up."""


def lora_config(config: TrainConfig, network: Any) -> "LoraConfig":
    """Return the fresh adapter: LoRA on the language model's projections, and the projector as a whole where asked for.

    The projector is trained whole, as LLaVA's own training does it: it is small, and some families' (Gemma 3) is no
    linear layer that LoRA could change.

    Raises:
        AmpError: the family has no projector of its own.
    """
    from peft import LoraConfig

    from amp_cli.models.adapters import language_lora_targets, projector_modules

    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=language_lora_targets(network),
        modules_to_save=projector_modules(network) if config.train_projector else None,
    )


def with_fresh_adapter(network: Any, config: TrainConfig) -> Any:
    """Return the network with an adapter to train, of float32 weights whatever the base's are."""
    from peft import get_peft_model

    from amp_cli.models.adapters import train_whole_in_float32

    model = get_peft_model(network, lora_config(config, network))
    train_whole_in_float32(model)
    return model


def trainer_arguments(config: TrainConfig, run_folder: Path, *, precision: str, checkpointing: bool) -> dict[str, Any]:
    """Return the keyword arguments for TrainingArguments or SFTConfig; `precision` is the loaded model's dtype."""
    from accelerate import PartialState

    state = PartialState()
    on_gpu = state.device.type != "cpu"
    at_once, often = config.items_per_batch(state.num_processes)
    return {
        "output_dir": str(run_folder / FOLDER),
        "per_device_train_batch_size": at_once,
        "per_device_eval_batch_size": WINDOW if config.method == "mdpo" else at_once,
        "gradient_accumulation_steps": often,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": SCHEDULES[config.lr_scheduler_type],
        "warmup_steps": config.warmup_steps if config.warmup_steps < 1 else int(config.warmup_steps),
        "num_train_epochs": config.epochs or 1.0,
        "max_steps": config.max_steps or -1,
        "max_grad_norm": config.max_grad_norm,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        # adapter weights stay float32, matrix products run in the base's precision
        "bf16": on_gpu and precision == "bfloat16",
        "fp16": on_gpu and precision == "float16",
        "use_cpu": state.device.type == "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_num_workers": config.data_workers,
        "dataloader_pin_memory": False,  # what a data worker sends is bytes
        "remove_unused_columns": False,
        "label_names": [],
        "logging_strategy": "steps",
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": config.keep_checkpoints,
        "report_to": config.report_to,
        "project": PROJECT,
        "run_name": None if config.report_to == "none" else run_name(run_folder),
        "disable_tqdm": True,
        "ddp_find_unused_parameters": config.train_projector,  # a process may be given texts alone
    }


def compile_mlps(network: Any, device: "torch.device") -> None:
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
