"""Where sums are taken: in float64, on the CPU where a device has none."""

import torch


def exact_device(device: torch.device) -> torch.device:
    """Return where float64 numbers of what a device computes are kept: there, but for Apple's GPUs on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def exact(values: torch.Tensor) -> torch.Tensor:
    """Return values in float64 on their `exact_device`; gradients find the way back."""
    # in two steps: MPS cannot convert to float64 on the way to the CPU either
    return values.to(exact_device(values.device)).double()
