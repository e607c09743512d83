"""An imitation of Apple's GPU, for machines that have none: PyTorch's back end "mps" as amp's training meets it.

    torch.ones(2, device="mps")      an AppleTensor, which says `mps:0` and is computed on the CPU by the tensor within
    .double(), dtype=torch.float64   refused in MPS's own words
    .to("cpu", torch.float64)        refused: MPS cannot convert on the way (.cpu().double() is right)
    .to("mps", non_blocking=True)    refused: it may read memory that is free again (pytorch/pytorch#189690)
    beside a tensor on the CPU       refused, but for a number alone, as an index, or to be copied
    random numbers                   drawn from a state of its own, which `torch.manual_seed` sets
    torch.autocast("mps")            the CPU's, which has much the same lists of operations

What it cannot tell: whether Metal has an operation, whether its kernels are right, what is fast, and how memory ends.
C++ takes the tensors for the CPU's: autograd runs in the thread that asks for it, and what is computed is bit for bit
the CPU's. Functions are caught in the thread alone that has entered `AppleGpu`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps", 0)
NO_FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 "
    "instead."
)
MIXED = "Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu!"
TAKES_CPU = {
    torch.ops.aten.copy_.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
}
"""Operations that take tensors of the CPU beside MPS's."""
MAIN_MEMORY = 16 * 2**30


class AppleTensor(torch.Tensor):
    """A tensor that says it is on MPS; `inner`, on the CPU, holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "AppleTensor":
        if inner.dtype == torch.float64:
            raise TypeError(NO_FLOAT64)
        made: AppleTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    device = property(lambda self: MPS)  # type: ignore[assignment]
    is_mps = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{self.inner!r} on {MPS}"

    def get_device(self) -> int:
        return 0

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __reduce_ex__(self, protocol: Any) -> Any:  # in a file it is like any other
        return self.inner.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AppleTensor":
        copied = AppleTensor(self.inner.detach().clone()).requires_grad_(self.requires_grad)
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied  # type: ignore[return-value]

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # tells `Module.to` to put another tensor in its place
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], *_: object) -> "AppleTensor":
        return AppleTensor(parts["inner"])

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = named or {}
        leaves = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, torch.Tensor)]
        for leaf in leaves:
            if isinstance(leaf, AppleTensor) or function in TAKES_CPU:
                continue
            if leaf.dim():
                raise RuntimeError(f"{MIXED} ({function})")
            if leaf.dtype == torch.float64:
                raise TypeError(NO_FLOAT64)
        if named.get("dtype") == torch.float64:
            raise TypeError(NO_FLOAT64)
        known = {id(leaf.inner): leaf for leaf in leaves if isinstance(leaf, AppleTensor)}
        with _own_random_numbers(function):
            found = function(*tree_map(_inner, arguments), **tree_map(_inner, named))
        into_cpu = function is torch.ops.aten.copy_.default and not isinstance(arguments[0], AppleTensor)
        return arguments[0] if into_cpu else tree_map(lambda leaf: _outer(leaf, known), found)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, AppleTensor) else leaf


def _outer(leaf: Any, known: dict[int, AppleTensor]) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else AppleTensor(leaf)


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: AppleTensor) -> torch.Tensor:
        return value.inner.detach().clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return AppleTensor(gradients[0])


class _ToApple(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> AppleTensor:
        return AppleTensor(value.detach().clone())

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return _inner(gradients[0])


def is_apple(device: Any) -> bool:
    """Whether a device, as functions take it, is MPS."""
    return isinstance(device, str | torch.device) and torch.device(device).type == "mps"


class AppleGpu(TorchFunctionMode):
    """Catches what is made on MPS or goes there and back."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = dict(named or {})
        if function is torch.Tensor.to:
            return _moved(*arguments, **named)
        if function is torch.Tensor.cpu:
            return _moved(arguments[0], "cpu")
        if function is torch.Tensor.new_tensor and isinstance(arguments[0], AppleTensor):
            named.setdefault("device", MPS)
        if not is_apple(named.get("device")):
            return function(*arguments, **named)
        named["device"] = "cpu"
        with _own_random_numbers(torch.ops.aten.rand.default if "rand" in function.__name__ else None):
            made = function(*tree_map(_inner, arguments), **named)
        return AppleTensor(made.detach()).requires_grad_(made.requires_grad)


def _moved(value: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
    """Do what `value.to(...)` does."""
    copies = named.pop("copy", False)
    if arguments and isinstance(arguments[0], torch.Tensor):
        arguments = (arguments[0].device, arguments[0].dtype, *arguments[1:])
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*arguments, **named)
    told = {"copy": copies} | ({} if memory_format is None else {"memory_format": memory_format})
    is_there, goes_there = isinstance(value, AppleTensor), is_apple(device)
    if goes_there and (dtype or value.dtype) == torch.float64:
        raise TypeError(NO_FLOAT64)
    if device is None or is_there == goes_there:  # it stays
        if goes_there or is_there:
            device = None
        place = {} if device is None else {"device": device}
        return value.to(**place, dtype=dtype or value.dtype, non_blocking=non_blocking, **told)
    if goes_there:
        if non_blocking:
            raise AssertionError("a copy to MPS that is not waited for may read memory that is free again")
        return _ToApple.apply(value.to(dtype or value.dtype))  # type: ignore[no-untyped-call, no-any-return]
    if dtype == torch.float64:
        raise TypeError(NO_FLOAT64)
    return _ToCpu.apply(value).to(device, dtype or value.dtype)  # type: ignore[no-untyped-call, no-any-return]


class _Random:
    """The random numbers of MPS, which have a state of their own."""

    state = torch.Generator().manual_seed(0).get_state()

    @classmethod
    def seed(cls, seed: int) -> None:
        cls.state = torch.Generator().manual_seed(seed).get_state()


@contextlib.contextmanager
def _own_random_numbers(function: Any) -> Iterator[None]:
    if function is None or torch.Tag.nondeterministic_seeded not in function.tags:
        yield
        return
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(_Random.state)
    yield
    _Random.state = torch.default_generator.get_state()
    torch.default_generator.set_state(before)


def patches() -> dict[tuple[Any, str], Any]:
    """Return what PyTorch must say of itself on such a machine: (where, name) -> value."""
    autocast, is_on = torch.amp.autocast_mode.autocast.__init__, torch.is_autocast_enabled

    def starts_autocast(self: Self, device_type: str, *arguments: Any, **named: Any) -> None:
        autocast(self, "cpu" if device_type == "mps" else device_type, *arguments, **named)

    def autocast_is_on(device_type: str | None = None) -> bool:
        return is_on("cpu" if device_type == "mps" else device_type) if device_type else is_on()

    go_backward = torch.autograd._engine_run_backward

    def goes_backward(*arguments: Any, **named: Any) -> Any:
        with AppleGpu():  # what asks for it has been caught, and nothing is while it runs
            return go_backward(*arguments, **named)

    def set_state(state: torch.Tensor, device: object = "mps") -> None:
        _Random.state = state

    return {
        (torch.backends.mps, "is_available"): lambda: True,
        (torch.backends.mps, "is_built"): lambda: True,
        (torch.backends.mps, "is_macos_or_newer"): lambda major, minor: True,
        (torch.mps, "manual_seed"): _Random.seed,
        (torch.mps, "get_rng_state"): lambda device="mps": _Random.state.clone(),
        (torch.mps, "set_rng_state"): set_state,
        (torch.mps, "empty_cache"): lambda: None,
        (torch.mps, "synchronize"): lambda: None,
        (torch.mps, "device_count"): lambda: 1,
        (torch.mps, "recommended_max_memory"): lambda: MAIN_MEMORY * 3 // 4,
        (torch.mps, "current_allocated_memory"): lambda: 2**20,
        (torch.mps, "driver_allocated_memory"): lambda: 2**22,
        (torch.amp.autocast_mode.autocast, "__init__"): starts_autocast,
        (torch, "is_autocast_enabled"): autocast_is_on,
        (torch.autograd, "_engine_run_backward"): goes_backward,
        (torch, "inference_mode"): lambda mode=True: torch.no_grad(),  # which refuses tensors of our own kind
    }


@contextlib.contextmanager
def apple_gpu() -> Iterator[None]:
    """Let this thread have an Apple GPU within the block."""
    changes = patches()
    before = {place: getattr(*place) for place in changes}
    for (where, name), value in changes.items():
        setattr(where, name, value)
    try:
        with AppleGpu():
            yield
    finally:
        for (where, name), value in before.items():
            setattr(where, name, value)
