"""Measures one call: CPU seconds, floating-point operations, peak memory, tokens that enter the decoder."""

import ctypes
import gc
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401  # it registers its operations
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
BY_KERNEL, BY_TENSORS = "the kernel (VmHWM, reset before each step)", "the sizes of living tensors"
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
"""Environment in which glibc gives tensors pages of their own from the start, and takes them back at once.

Else what a step adds to the process depends on the holes that earlier steps left: 840 to 970 MB for the same one.
"""


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(slope: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(slope, query, key, value))


def _packed_product(rows: Any, _: Any, shape: Any, *__: Any, **___: Any) -> int:
    return int(2 * rows.numel() * shape[0])  # (..., in) by (out, in)


FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.bitsandbytes.gemm_4bit: _packed_product,
}
"""What torch's counter does not know: fused attention on a CPU (by its formulas, masks or not) and 4-bit layers."""


def cpu_seconds(step: Callable[[], Any]) -> float:
    """Return the CPU seconds, all threads together, that a call takes."""
    start = time.process_time()
    step()
    return time.process_time() - start


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a call does: 1e9 operations in matrix products, those in fused attention (whole squares), decoder tokens."""

    gflop: float
    attention_gflop: float
    tokens: int


def counted(step: Callable[[], Any], networks: Sequence[torch.nn.Module]) -> Counted:
    """Run a call and count; `networks` hold the decoders whose tokens are counted, padding and all."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter, counting_tokens(networks) as tokens:
        step()
    operations = counter.get_flop_counts().get("Global", {})
    attention = sum(count for name, count in operations.items() if "attention" in str(name))
    total = sum(operations.values())
    return Counted(gflop=(total - attention) / 1e9, attention_gflop=attention / 1e9, tokens=sum(tokens))


@contextmanager
def counting_tokens(networks: Sequence[torch.nn.Module]) -> Iterator[list[int]]:
    """Collect how many tokens enter the first decoder layer, each time that one does."""
    seen: list[int] = []

    def count(_module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = given[0] if given else named["hidden_states"]  # (rows, length, width)
        seen.append(hidden.shape[0] * hidden.shape[1])

    hooks = [network.get_decoder().layers[0].register_forward_pre_hook(count, with_kwargs=True) for network in networks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def memory_source() -> str:
    """Return what `peak_mb` goes by on this machine."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return BY_TENSORS
    return BY_KERNEL


def peak_mb(step: Callable[[], Any], source: str) -> float:
    """Return how many MiB a call needs at its peak above what is held before it."""
    gc.collect()
    if source == BY_TENSORS:
        with LivingTensors() as living:
            step()
        return living.peak / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    CLEAR_REFS.write_text("5")  # the high-water mark becomes what is resident now
    before = _status_mb("VmRSS")
    step()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


class LivingTensors(TorchDispatchMode):
    """Adds up the storages that are made inside it; what an operation uses within itself goes unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._living: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._living or not size:
            return
        self._living[key] = (size, weakref.ref(storage, lambda _: self._remove(key)))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int) -> None:
        self.now -= self._living.pop(key)[0]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A straight line through points, by least squares; `r2` is the share of the variance that it explains."""

    slope: float
    intercept: float
    r2: float


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Return the line through at least two points with different x."""
    slope, intercept = statistics.linear_regression(x, y)
    r2 = statistics.correlation(x, y) ** 2 if len(set(y)) > 1 else 1.0
    return Line(slope=slope, intercept=intercept, r2=r2)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return |found - expected| / |expected|, Euclidean, summed in float64."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())
