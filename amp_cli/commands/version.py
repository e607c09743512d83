"""`amp version`: what is installed, for a report of a fault."""

from importlib import metadata
from platform import python_version

from amp_cli import __version__
from amp_cli.commands.options import JsonOption

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate")


def version(json: JsonOption = False) -> None:
    """Say which versions of amp, Python and the packages below it are installed, and the device that `auto` means.

    Example: amp version
    """
    from amp_cli import ui

    versions = {"amp": __version__, "python": python_version(), **{name: _installed(name) for name in PACKAGES}}
    with ui.busy("Asking PyTorch for the device"):
        found = {**versions, "device": _device() if versions["torch"] is not None else None}
    if json:
        ui.data(found)
    else:
        ui.table("", ["", ""], [(name, "not installed" if value is None else value) for name, value in found.items()])


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"
