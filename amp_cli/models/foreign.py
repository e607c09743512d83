"""Says in a sentence what is wrong with somebody's model folder, whatever a library raises as it reads it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from amp_cli.errors import AmpError
from amp_cli.models.spec import ModelSpec

Named = TypeVar("Named", ModelSpec, Path)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
FAULTS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers, PEFT and tokenizers raise where a configuration holds something else than they expect."""
_OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "out of memory",
    "not enough memory",
    "can't allocate memory",
)
"""What CUDA's libraries, PyTorch on a GPU and PyTorch on a CPU say when memory runs out."""


def fault_line(error: BaseException) -> str:
    """Return the first line of what an error says, with its kind where that says more than the text."""
    text = str(error).strip().partition("\n")[0][:300]
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, of a GPU or of the machine: no fault of any file."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return said or isinstance(error, torch.OutOfMemoryError)


@contextmanager
def folder_read(name: str, quantization: str | None = None) -> Iterator[None]:
    """Turn what goes wrong while a folder of the model or adapter `name` is read into an AmpError."""
    try:
        yield
    except FAULTS as error:
        if is_out_of_memory(error):
            smaller = "take a smaller model" if quantization == "nf4" else "load it in 4 bits (quantization nf4)"
            raise AmpError(
                f"'{name}' takes more memory than is free: {fault_line(error)}",
                hint=f"Use another device, or {smaller}",
            ) from error
        raise AmpError(
            f"'{name}' cannot be read: {fault_line(error)}",
            hint="One of its files is damaged or is not what its name says; copy or download it again",
        ) from error


def reads_folder(
    load: Callable[Concatenate[Named, Parameters], Result],
) -> Callable[Concatenate[Named, Parameters], Result]:
    """Let a function whose first argument names a model's folder say what goes wrong there in a sentence."""

    @wraps(load)
    def explained(named: Named, /, *args: Parameters.args, **options: Parameters.kwargs) -> Result:
        told = (named.model, named.quantization) if isinstance(named, ModelSpec) else (str(named), None)
        with folder_read(*told):
            return load(named, *args, **options)

    return explained
