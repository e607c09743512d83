"""Starts a training run: checks all that can be checked, launches the worker, reads the results back."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.core.hub import check_model
from amp_cli.core.launching import visible_gpus
from amp_cli.core.run import Run
from amp_cli.core.store import Rejections, content_hash, read_json
from amp_cli.errors import AmpError
from amp_cli.training.card import ADAPTER
from amp_cli.training.config import TrainConfig
from amp_cli.training.curves import draw_curves
from amp_cli.training.data import REJECTED, prepare_items
from amp_cli.training.follow import run_worker
from amp_cli.training.machine import check_packages, plan_launch
from amp_cli.training.worker import RESULT

FREE = (
    "prefs", "per_device_batch_size", "tokens_per_step", "reference", "gradient_checkpointing", "torch_compile",
    "data_workers", "threads", "report_to", "keep_checkpoints",
)  # fmt: skip
"""Settings that change speed, memory and disk, not results; the preferences are known by their content."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training run ended."""

    steps: int
    loss: float | None  # mean over the steps of the last log line
    accuracy: float | None  # share of pairs in order there; None for sft
    adapter: Path
    resumed_from: str | None  # the checkpoint that this call went on from
    seconds: float
    items_per_second: float
    items: int
    rejected: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "adapter": str(self.adapter)}


def train_model(
    config: TrainConfig,
    *,
    prefs: Path,
    out: Path,
    image_root: Path | None = None,
    accelerate_config: str | None = None,
    num_processes: int | None = None,
    overwrite: bool = False,
) -> TrainResult:
    """Train a LoRA adapter in `out`; the same call goes on where a killed one stopped.

    Args:
        prefs: preference file; for `sft` also items that have only the standard answers.
        accelerate_config: file or template name; by default chosen by the machine's GPUs.

    Raises:
        AmpError: anything the user can mend, most of it before the model loads.
    """
    check_packages(config)
    prefs_hash = _hash(prefs)
    launch = plan_launch(config, gpus := visible_gpus(), config_file=accelerate_config, processes=num_processes)
    if config.quantization is not None and not gpus:
        ui.warn(f"There is no GPU: {config.quantization} works on a CPU, but slowly")
    run = Run.start(
        out,
        command="train",
        settings={**config.to_json(), "prefs": str(prefs.resolve()), "image_root": _absolute(image_root)},
        identity={
            **check_model(config.base, adapter=config.adapter, vision_tower=config.vision_tower),
            "prefs_hash": prefs_hash,
        },
        seed=config.seed,
        overwrite=overwrite,
        free=FREE,
    )
    try:
        if not (out / RESULT).exists():
            prepare_items(prefs, out, image_root=image_root, method=config.method)
            run.record(accelerate_config=str(launch.config_file), processes=launch.processes)
            run_worker(launch, out)
            draw_curves(out)
        result = read_json(out / RESULT)
    except AmpError:
        run.finish("failed")
        raise
    except KeyboardInterrupt:
        run.finish("interrupted")
        raise
    run.finish("done", result=result)
    return TrainResult(
        **{name: result[name] for name in ("steps", "loss", "accuracy", "resumed_from", "seconds")},
        items_per_second=result["items_per_second"],
        items=result["items"],
        adapter=out / ADAPTER,
        rejected=Rejections(out / REJECTED).count,
    )


def _hash(prefs: Path) -> str:
    if not prefs.is_file():
        raise AmpError(f"There is no preference file '{prefs}'", hint="Make one with `amp generate-prefs`")
    try:
        return content_hash(prefs)
    except OSError as error:
        raise AmpError(f"Cannot read '{prefs}': {error.strerror}") from error


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
