"""Measures this machine: Python, packages, cores, memory, disk, GPUs, and what is reachable. Changes nothing."""

import logging
import os
import shutil
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from amp_cli.disk.templates import PACKAGE
from amp_cli.downloads.zoo import SIZES, cached_bytes
from amp_cli.launching import visible_gpus
from amp_cli.models.packages import VISION
from amp_cli.models.resolve import TINY

GB = 1e9
NEEDED_PYTHON = (3, 11)
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_LOOK_EVERY = 0.02
"""Seconds between two looks at this process's memory."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that is needed. `installed` is None when it is missing; `wanted` are the versions that will do."""

    name: str
    wanted: str
    installed: str | None
    is_fine: bool


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that PyTorch calls "cuda", NVIDIA's or AMD's; memory in GB, and what `auto` computes in on it."""

    name: str
    memory_gb: float
    free_gb: float
    precision: str


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What this machine can do with a size, as estimated: "yes", "4 bit", "cpu", "cpu 16 bit" or "no"."""

    size: str
    run: str
    train: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What `amp doctor` found. `problems` are broken requirements, `warnings` what some commands will miss.

    `vision` are the packages of that extra, which some families need, and the versions that are installed.
    """

    python: str
    packages: tuple[Package, ...]
    cores: int
    memory_gb: float
    memory_free_gb: float
    disk_free_gb: float
    cache: str
    gpus: tuple[Gpu, ...]
    apple_gpu: bool
    torch: str | None
    bitsandbytes: bool
    is_offline: bool
    hub_reachable: bool | None
    cached_models: tuple[str, ...]
    keys: dict[str, bool]
    vision: dict[str, str | None]
    fits: tuple[Fit, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_machine(*, ask_network: bool = False) -> Machine:
    """Measure everything. Only `ask_network` makes a request: one to the hub's address."""
    import psutil
    from huggingface_hub import constants, get_token

    packages = needed_packages()
    problems = [
        f"{one.name} {one.installed or 'is missing'}; {one.wanted} is needed" for one in packages if not one.is_fine
    ]
    if sys.version_info < NEEDED_PYTHON:
        problems.append(f"Python {sys.version.split()[0]} is too old; 3.11 is needed")
    torch_version, gpus = _torch_and_gpus(problems)
    if not (TINY / "config.json").is_file():
        problems.append("the built-in model is missing: the installation is damaged")
    usable_bitsandbytes, fault = _try_bitsandbytes(on_gpu=bool(gpus))
    memory = psutil.virtual_memory()
    memory_gb = min([memory.total, *(limit for limit, _ in _limits())]) / GB
    memory_free = min(memory.available / GB, memory_gb)
    cache = Path(constants.HF_HUB_CACHE)
    return Machine(
        python=sys.version.split()[0],
        packages=packages,
        cores=_cores(),
        memory_gb=round(memory_gb, 1),
        memory_free_gb=round(memory_free, 1),
        disk_free_gb=round(shutil.disk_usage(_existing(cache)).free / GB, 1),
        cache=str(cache),
        gpus=gpus,
        apple_gpu=_has_apple_gpu(torch_version),
        torch=torch_version,
        bitsandbytes=usable_bitsandbytes,
        is_offline=bool(constants.HF_HUB_OFFLINE),
        hub_reachable=_reaches(constants.ENDPOINT) if ask_network else None,
        cached_models=tuple(sorted(cached_bytes())),
        keys={name: bool(os.environ.get(name)) for name in KEYS} | {"HF_TOKEN": get_token() is not None},
        vision={name: _version(name) for name in VISION},
        fits=what_fits(max((gpu.memory_gb for gpu in gpus), default=_apple_memory_gb(torch_version)), memory_gb),
        problems=tuple(problems),
        warnings=(
            *(() if usable_bitsandbytes else (f"4-bit and 8-bit models do not work: {fault}",)),
            *_unusable_gpus(torch_version, len(gpus)),
        ),
    )


def _cores() -> int:
    """Return how many cores this process may use."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return cores


def _has_apple_gpu(torch_version: str | None) -> bool:
    if torch_version is None:
        return False
    import torch

    return bool(torch.backends.mps.is_available())


def _apple_memory_gb(torch_version: str | None) -> float:
    """Return what of the main memory Apple's GPU may take, as Metal recommends; 0 without one."""
    if not _has_apple_gpu(torch_version):
        return 0.0
    import torch

    return float(torch.mps.recommended_max_memory() / GB)


def _unusable_gpus(torch_version: str | None, usable: int) -> tuple[str, ...]:
    """Say that this machine's GPUs are not all that PyTorch sees."""
    found = len(visible_gpus()) if torch_version is not None else 0
    if found <= usable:
        return ()
    return (
        f"The machine shows {found} GPUs; PyTorch {torch_version} can use {usable}: see pytorch.org for its builds",
    )


def held_memory() -> int:
    """Return the bytes of main memory that only this process's end or its own doing sets free.

    On Linux without the pages of files that are mapped, which the system drops when it needs room; elsewhere that
    cannot be told, and all resident pages count (`HELD_MEMORY` says which of the two it is).
    """
    import psutil

    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared if HELD_MEMORY == "anonymous" else memory.rss)


HELD_MEMORY = "anonymous" if sys.platform == "linux" else "resident"
"""Which memory `held_memory` counts."""


class MemoryPeak:
    """The most main memory that this process has held since it was made, by looking often; ends with `stop`."""

    def __init__(self) -> None:
        self._most = held_memory()
        self._ended = threading.Event()
        threading.Thread(target=self._look, name="memory peak", daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            self._most = max(self._most, held_memory())

    def megabytes(self) -> float:
        """Return the peak so far, MiB."""
        self._most = max(self._most, held_memory())
        return self._most / 2**20

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()


@contextmanager
def memory_peak() -> Iterator[MemoryPeak]:
    """Watch this process's memory for a block."""
    peak = MemoryPeak()
    try:
        yield peak
    finally:
        peak.stop()


def free_memory() -> int:
    """Return the bytes of main memory that this process may still take, within its container's limits."""
    import psutil

    within = [limit - used for limit, used in _limits()]
    return max(0, min([int(psutil.virtual_memory().available), *within]))


def needed_packages() -> tuple[Package, ...]:
    """Compare what is installed with what this program declares to need (extras left aside)."""
    from packaging.requirements import Requirement

    packages = []
    for line in _declared_requirements():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        packages.append(
            Package(
                name=requirement.name,
                wanted=str(requirement.specifier) or "any version",
                installed=installed,
                is_fine=installed is not None and requirement.specifier.contains(installed, prereleases=True),
            )
        )
    return tuple(packages)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def what_fits(gpu_gb: float, memory_gb: float) -> tuple[Fit, ...]:
    """Return what each size's estimates allow on the largest GPU, or else in main memory."""
    fits = []
    for model in SIZES:
        if model.run_gb <= gpu_gb:
            run = "yes"
        elif model.run_4bit_gb <= gpu_gb:
            run = "4 bit"
        elif model.run_cpu_gb <= memory_gb:
            run = "cpu"
        else:
            run = "cpu 16 bit" if model.run_gb <= memory_gb else "no"
        if model.train_gb <= gpu_gb:
            train = "yes"
        else:  # on a CPU only the embedded model is trained in a sensible time
            train = "cpu" if model.hub_id is None and model.train_gb <= memory_gb else "no"
        fits.append(Fit(size=model.name, run=run, train=train))
    return tuple(fits)


def _declared_requirements() -> list[str]:
    """Return the installed package's requirements, in a checkout those of `pyproject.toml`."""
    try:
        return metadata.requires("amp-cli") or []
    except metadata.PackageNotFoundError:
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return list(project["project"]["dependencies"])


def _torch_and_gpus(problems: list[str]) -> tuple[str | None, tuple[Gpu, ...]]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken build shows here as either
        problems.append(f"PyTorch cannot be imported: {error}")
        return None, ()
    from amp_cli.models.precision import choose_dtype

    gpus = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        gpus.append(
            Gpu(
                name=torch.cuda.get_device_name(number),
                memory_gb=round(total / GB, 1),
                free_gb=round(free / GB, 1),
                precision=choose_dtype("auto", torch.device("cuda", number), {})[0],
            )
        )
    return str(torch.__version__), tuple(gpus)


def _try_bitsandbytes(*, on_gpu: bool) -> tuple[bool, str]:
    """Quantise a few numbers to 4 bit and back."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of optional kernels
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        values = torch.linspace(-1, 1, 4096, device="cuda" if on_gpu else "cpu").reshape(64, 64)
        packed, state = quantize_4bit(values, quant_type="nf4")
        error = float((dequantize_4bit(packed, state) - values).abs().mean())
    except (ImportError, OSError, RuntimeError, NotImplementedError) as fault:
        return False, f"bitsandbytes fails ({fault})"
    return error < 0.1, "bitsandbytes gives wrong numbers"


def _limits() -> list[tuple[int, int]]:
    """Return the memory limits of this process's control groups and those above them, with what is used; in bytes.

    Used is what the system cannot drop: files that were read stay in memory only as long as there is room. (Kernel:
    Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst; a container may see its own group as the root.)
    """
    found = []
    lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines() if _OWN_CGROUPS.is_file() else []
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers == "":
            mount, file, counted = _CGROUPS, "memory.max", ("anon", "shmem")
        elif "memory" in controllers.split(","):
            mount, file, counted = _CGROUPS / "memory", "memory.limit_in_bytes", ("total_rss", "total_shmem")
        else:
            continue
        group = mount / own.lstrip("/")
        groups = [one for one in (group, *group.parents) if one.is_relative_to(mount)]
        found += [limit for one in groups if (limit := _limit_of(one, file, counted)) is not None]
    return found


def _limit_of(group: Path, file: str, counted: tuple[str, ...]) -> tuple[int, int] | None:
    """Return a control group's limit and what of it is used; None where it has no limit, or is not to be seen."""
    try:
        limit = (group / file).read_text(encoding="utf-8").strip()
        statistics = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = dict(line.split(maxsplit=1) for line in statistics)
    return (int(limit), sum(int(values.get(name, 0)) for name in counted)) if limit.isdigit() else None


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _reaches(address: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
