"""`amp doctor`: what this machine has, and what it can run."""

from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli.commands.options import JsonOption

if TYPE_CHECKING:
    from amp_cli.models.machine import Machine

MEANING = {
    "yes": "yes",
    "4 bit": "in 4 bit (--quantization nf4)",
    "cpu": "on the CPU",
    "cpu 16 bit": "on the CPU, slowly (--dtype bfloat16)",
    "no": "no",
}

APPLE = "Apple's (mps), which shares the main memory"

NOT_HERE = "not installed (amp-cli[vision])"


def doctor(
    network: Annotated[bool, typer.Option("--network", help="Also ask whether the model hub can be reached.")] = False,
    json: JsonOption = False,
) -> None:
    """Look at Python, packages, memory, disk, GPUs and keys, and say which model sizes fit. Changes nothing.

    Example: amp doctor
    """
    from amp_cli import ui
    from amp_cli.errors import AmpError
    from amp_cli.models.machine import measure_machine

    machine = measure_machine(ask_network=network)
    if json:
        ui.data(machine.to_json())
    else:
        _show(machine)
    for warning in machine.warnings:
        ui.warn(warning)
    if machine.problems:
        raise AmpError(
            "; ".join(machine.problems),
            hint="pip install --upgrade amp-cli puts the packages right; then amp doctor again",
        )
    ui.hint("amp quickstart")


def _show(machine: "Machine") -> None:
    from amp_cli import ui

    wrong = [one for one in machine.packages if not one.is_fine]
    memory = f"{machine.memory_gb:.0f} GB, {machine.memory_free_gb:.0f} GB free"
    gpus = "; ".join(
        f"{gpu.name}, {gpu.memory_gb:.0f} GB ({gpu.free_gb:.0f} GB free), {gpu.precision}" for gpu in machine.gpus
    )
    reach = {None: "not asked (--network asks)", True: "reachable", False: "not reachable"}[machine.hub_reachable]
    rows = [
        ("Python", machine.python),
        ("packages", f"{len(machine.packages) - len(wrong)} of {len(machine.packages)} as needed"),
        ("PyTorch", machine.torch),
        ("CPU cores", machine.cores),
        ("memory", memory),
        ("disk", f"{machine.disk_free_gb:.0f} GB free at '{machine.cache}'"),
        ("GPUs", gpus or (APPLE if machine.apple_gpu else "none that PyTorch can use")),
        ("4 bit and 8 bit", "bitsandbytes works" if machine.bitsandbytes else "not usable"),
        ("for some families", ", ".join(f"{name} {found or NOT_HERE}" for name, found in machine.vision.items())),
        ("hub", f"offline by HF_HUB_OFFLINE; {reach}" if machine.is_offline else reach),
        ("models in the cache", ", ".join(machine.cached_models) or "none"),
        *((name, "present" if present else "not set") for name, present in machine.keys.items()),
    ]
    ui.table("This machine", ["", ""], rows)
    if wrong:
        ui.table("Wrong packages", ["package", "needed", "installed"], [(p.name, p.wanted, p.installed) for p in wrong])
    fits = [(fit.size, MEANING[fit.run], MEANING[fit.train]) for fit in machine.fits]
    ui.table("What fits (estimated)", ["size", "answer and evaluate", "train"], fits)
