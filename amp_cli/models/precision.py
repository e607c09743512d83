"""Chooses device, number format and quantisation; refuses what does not fit the format or the device's memory."""

import logging
from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from amp_cli import ui
from amp_cli.downloads.places import size_text
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import StoredTensor
from amp_cli.models.machine import free_memory
from amp_cli.models.spec import ModelSpec

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of optional kernels and of every cast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_SINCE = 8
"""NVIDIA's compute capability (major) from which on bfloat16 is not emulated: Ampere. AMD's GPUs all say 9 or more."""
QUANTIZATIONS = ("nf4", "int8")
NOT_QUANTIZED = ("lm_head", "multi_modal_projector", "vision_tower", "vision_model", "visual", "connector")
"""What families call the parts outside the language model; only the language model's projections are quantised."""

_PACKED = {"nf4": 0.5, "int8": 1.0}
"""Bytes of a packed weight, without its scales."""
_NEAR = 0.9
"""Share of the free memory that weights may take before a warning: activations come on top."""


def choose_device(device: str) -> torch.device:
    """Return the torch device that `device` means; `auto` prefers CUDA, then Apple's MPS.

    Raises:
        AmpError: the machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise AmpError(f"There is no device '{device:.40}'", hint="Use cpu, cuda, cuda:1, mps or auto") from error
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and not gpus:
        raise AmpError("No CUDA GPU is visible to PyTorch", hint="Use --device cpu, or see `amp doctor`")
    if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
        raise AmpError(
            f"There is no device '{device}': PyTorch sees {gpus} CUDA GPUs, from cuda:0", hint="See `amp doctor`"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise AmpError("PyTorch sees no Apple GPU (mps) here", hint="Use --device cpu, or see `amp doctor`")
    return chosen


def dtype_in(config: dict[str, Any]) -> str:
    """Return the precision that a model's configuration says its weights are stored in (float32 when it says none)."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def choose_dtype(dtype: str, device: torch.device, config: dict[str, Any]) -> tuple[str, torch.dtype]:
    """Return name and torch dtype; `stored` is what is on disk.

    `auto` is float32 on a CPU and bfloat16 on a GPU, or float16 on one that only emulates bfloat16.
    """
    if dtype == "auto":
        on_gpu = "float16" if why_float16(dtype, device) else "bfloat16"
        dtype = "float32" if device.type == "cpu" else on_gpu
    if dtype == "stored":
        dtype = dtype_in(config)
    if dtype not in DTYPES:
        raise AmpError(f"'{dtype}' is not a known dtype", hint=f"Use auto, {', '.join(DTYPES)}")
    return dtype, DTYPES[dtype]


def why_float16(dtype: str, device: torch.device) -> str | None:
    """Return why `auto` means float16 on this device, in a line; None where it does not."""
    if dtype != "auto" or device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if major >= BFLOAT16_SINCE:
        return None
    return (
        f"float16 is used: {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has no bfloat16 "
        f"of its own, as GPUs have from {BFLOAT16_SINCE}.0 on"
    )


def quantization_config(
    quantization: str | None, compute: torch.dtype, *, to_share: bool = False
) -> BitsAndBytesConfig | None:
    """Return how bitsandbytes packs the language model's weights; None for not at all.

    Args:
        to_share: keep 4-bit weights as numbers of the type computed in: FSDP cuts no others.
    """
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS:
        raise AmpError(f"'{quantization}' is not a known quantisation", hint=f"Use {' or '.join(QUANTIZATIONS)}")
    skip = [rf"(.*\.)?{part}" for part in NOT_QUANTIZED]
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute if to_share else None,
        llm_int8_skip_modules=skip,
    )


def refuse_overflow(network: torch.nn.Module, model: str, dtype: torch.dtype) -> None:
    """Refuse weights that became infinite in 16-bit floats, whose largest number is 65504.

    Raises:
        AmpError: naming the first such weight.
    """
    if dtype != torch.float16:
        return
    for name, weight in network.named_parameters():
        if weight.dtype == torch.float16 and not bool(torch.isfinite(weight).all()):
            raise AmpError(
                f"'{model}' does not fit float16: the weight '{name}' overflows",
                hint="Use --dtype bfloat16 or float32",
            )


def refuse_not_finite(logits: torch.Tensor, model: str, precision: str) -> None:
    """Refuse logits that are no numbers; (..., vocabulary) of any shape. `precision` is what the model computes in.

    Raises:
        AmpError: naming the precision that overflowed.
    """
    if bool((torch.isnan(logits) | torch.isposinf(logits)).any()):
        raise AmpError(
            f"'{model}' no longer computes finite numbers in {precision}: its activations overflow",
            hint="Use --dtype float32" + (" or bfloat16" if precision == "float16" else ""),
        )


def most_used_precision(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """Return the floating-point format that most of the weights are stored in; float32 where none is."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.dtype in DTYPES.values():
            counts[tensor.dtype] += prod(tensor.shape)
    return counts.most_common(1)[0][0] if counts else torch.float32


def free_on(device: torch.device) -> int:
    """Return the bytes that this process may still take on a device; of a GPU also what PyTorch keeps for reuse.

    Apple's GPUs share the main memory, up to what Metal recommends.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        held = torch.mps.driver_allocated_memory()
        free = max(0, min(torch.mps.recommended_max_memory() - held, free_memory()))
        return int(free + held - torch.mps.current_allocated_memory())
    return free_memory()


def give_back_memory() -> None:
    """Give back the memory of a GPU that PyTorch keeps for reuse."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def bytes_in(tensors: Iterable[StoredTensor], dtype: torch.dtype, *, quantization: str | None = None) -> int:
    """Return the bytes of weights in a format, never too many: as if all matrices were packed, where any are.

    What is stored in other formats than `DTYPES` is packed already, and stays so.
    """

    def size(one: StoredTensor) -> float:
        if one.dtype not in DTYPES.values():
            return one.dtype.itemsize
        return _PACKED.get(quantization or "", dtype.itemsize) if len(one.shape) > 1 else dtype.itemsize

    return round(sum(prod(one.shape) * size(one) for one in tensors))


def refuse_too_large(spec: ModelSpec, tensors: list[StoredTensor], device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model whose weights alone surely do not fit a device; say so where they come near.

    On a CPU, weights that are used in the precision they are stored in stay on the disk and take no memory of their
    own; memory on a disk (swap) counts as free.

    Raises:
        AmpError: with what is needed and what is free.
    """
    if device.type not in ("cpu", "cuda"):
        return
    on_cpu = device.type == "cpu"
    copied = [one for one in tensors if not (on_cpu and spec.quantization is None and one.dtype == dtype)]
    needed, free = bytes_in(copied, dtype, quantization=spec.quantization), free_on(device)
    where = "of main memory" if on_cpu else f"on {device}"
    held = f"{str(dtype).removeprefix('torch.')}{f', packed as {spec.quantization}' if spec.quantization else ''}"
    if needed > free + (_free_swap() if on_cpu else 0):
        raise AmpError(
            f"The weights of '{spec.model}' take {size_text(needed)} in {held}, and {size_text(free)} {where} are free",
            hint=_smaller(tensors, dtype, spec.quantization, on_cpu=on_cpu),
        )
    if needed > _NEAR * free:
        ui.warn(
            f"The weights of '{spec.model}' take {size_text(needed)} in {held} of the {size_text(free)} {where} that "
            "are free; little is left to compute with"
        )


def _free_swap() -> int:
    import psutil

    return int(psutil.swap_memory().free)


def _smaller(tensors: list[StoredTensor], dtype: torch.dtype, quantization: str | None, *, on_cpu: bool) -> str:
    """Return what would take less memory, with its size."""
    ways = []
    if on_cpu and quantization is None:
        ways.append("--dtype stored reads the weights from the disk as they are needed")
    if dtype == torch.float32 and quantization is None:
        ways.append(f"--dtype bfloat16 takes {size_text(bytes_in(tensors, torch.bfloat16))}")
    if quantization != "nf4":
        ways.append(f"--quantization nf4 takes at least {size_text(bytes_in(tensors, dtype, quantization='nf4'))}")
    return "; ".join([*ways, "or free some memory, or take a smaller model"])
