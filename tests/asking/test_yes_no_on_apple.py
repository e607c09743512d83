"""Probabilities of a yes are computed where float64 is to be had: Apple's GPUs have none."""

import math

import torch

from amp_cli.asking.generation import _rounded


class OnApple:
    """Log-probabilities on a device that refuses float64, as PyTorch says it of MPS."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def double(self) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    def cpu(self) -> torch.Tensor:
        return self._values


def test_a_yes_is_rounded_off_the_device() -> None:
    (said,) = _rounded(OnApple(torch.tensor([[math.log(0.75), math.log(0.125)]])))  # type: ignore[arg-type]
    assert (said.yes, said.no) == (0.75, 0.125)
