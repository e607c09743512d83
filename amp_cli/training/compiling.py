"""Compiles the part of a language model that never changes its shape but in length: the MLP of each layer."""

from typing import Any

import torch

from amp_cli.errors import AmpError


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
            f"torch_compile needs layers with an 'mlp'; '{lacking}' has none", hint="Leave --torch-compile out"
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
            hint="Install one (Debian: apt install g++), or leave --torch-compile out",
        ) from error
