"""Chooses how `accelerate launch` starts the training on this machine, without importing torch for it."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from amp_cli.core.launching import Launch, own_config, refuse_too_many, worker_environment
from amp_cli.core.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.training.config import TrainConfig

WORKER = "amp_cli.training.worker"


def plan_launch(
    config: TrainConfig, gpus: Sequence[str], *, config_file: str | None = None, processes: int | None = None
) -> Launch:
    """Return how to start the training: by the user's accelerate file, or one of ours by what the machine has.

    Args:
        config_file: a path, or the name of a file in `templates/accelerate`.
        processes: how many processes; else one per GPU, one without.

    Raises:
        AmpError: no such file, more processes than GPUs, or a batch that cannot be cut so.
    """
    if config_file is None:
        wanted = processes or max(1, len(gpus))
        refuse_too_many(gpus, wanted, "Give fewer --num-processes, or an --accelerate-config of your own")
        file = own_config(gpus, wanted)
    else:
        file = _accelerate_file(config_file)
        wanted = processes or _processes_of(file)
    uses_cpu = _settings_of(file).get("use_cpu") is True
    config.items_per_batch(wanted)  # refuses a batch that cannot be cut so
    environment = worker_environment()
    if config.threads is not None:
        environment["OMP_NUM_THREADS"] = str(config.threads)
    if uses_cpu:  # accelerate tells only a lone process
        environment["ACCELERATE_USE_CPU"] = "true"
    if wanted == 1 and len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[0]  # a lone process would spread over all of them by DataParallel
    return Launch(module=WORKER, config_file=file, processes=wanted, environment=environment)


def check_packages(config: TrainConfig) -> None:
    """Refuse settings whose package is not installed.

    Raises:
        AmpError: naming the package.
    """
    if config.quantization is not None and find_spec("bitsandbytes") is None:
        raise AmpError(
            f"Quantization {config.quantization} needs bitsandbytes, which is not installed",
            hint="pip install bitsandbytes, or --set quantization=none",
        )
    if config.report_to != "none" and find_spec(config.report_to) is None:
        raise AmpError(
            f"report_to={config.report_to} needs a package that is not installed",
            hint=f"pip install 'amp-cli[{config.report_to}]', or --set report_to=none",
        )


def _accelerate_file(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    known = sorted(file.stem for file in template_path("accelerate").glob("*.yaml"))
    if name not in known:
        raise AmpError(f"There is no accelerate config '{name}'", hint=f"Give a file, or one of: {', '.join(known)}")
    return template_path("accelerate", f"{name}.yaml")


def _settings_of(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AmpError(f"Cannot read the accelerate config '{file}': {error}") from error
    if not isinstance(values, dict) or "distributed_type" not in values:
        raise AmpError(f"'{file}' is no accelerate config", hint="Make one with `accelerate config`")
    return values


def _processes_of(file: Path) -> int:
    processes = _settings_of(file).get("num_processes", 1)
    if not isinstance(processes, int) or processes < 1:
        raise AmpError(f"num_processes in '{file}' must be a whole number above 0, not {processes!r}")
    return processes
