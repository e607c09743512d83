"""The projector that an adapter folder may bring beside its LoRA weights, as LLaVA's own training leaves it."""

from pathlib import Path
from typing import Any

import torch

from amp_cli.errors import AmpError
from amp_cli.models.llava.files import read_tensors, refuse_unfinished
from amp_cli.models.llava.names import NETWORK, Spelling, projector_names

NAMES = ("non_lora_trainables", "mm_projector")


def projector_files(folder: Path) -> tuple[Path, ...]:
    """Return the files beside an adapter that hold trained weights other than LoRA; safetensors win over pickles."""
    found = []
    for name in NAMES:
        present = [folder / f"{name}{suffix}" for suffix in (".safetensors", ".bin")]
        found += [file for file in present if file.is_file()][:1]
    for file in found:
        refuse_unfinished(file)
    return tuple(found)


def read_projector(files: tuple[Path, ...], spelling: Spelling = NETWORK) -> dict[str, torch.Tensor]:
    """Return the projector's weights, by their names in transformers' memory or in another spelling.

    Raises:
        AmpError: a file holds anything else.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        for key, tensor in read_tensors(file).items():
            name = projector_names(key, spelling)
            if name is None:
                raise AmpError(
                    f"'{file}' holds '{key}', which is not part of a projector",
                    hint="Adapters that also trained other parts than the projector are not supported",
                )
            weights[name] = tensor
    return weights


@torch.no_grad()
def load_projector(network: Any, files: tuple[Path, ...], name: str, *, as_stored: bool = False) -> None:
    """Put the projector of an adapter folder into the model.

    Args:
        as_stored: in its own precision, not in the model's.

    Raises:
        AmpError: the model has no such weights, or of other shapes.
    """
    places = dict(network.named_parameters())
    for key, tensor in read_projector(files).items():
        if key not in places or places[key].shape != tensor.shape:
            theirs = tuple(places[key].shape) if key in places else "none"
            raise AmpError(
                f"The adapter '{name}' does not fit this base model: its '{key}' has shape {tuple(tensor.shape)}, "
                f"the model's {theirs}",
                hint="Give the base it was trained on (see base_model_name_or_path in its adapter_config.json)",
            )
        if as_stored:
            places[key].data = tensor
        else:
            places[key].copy_(tensor)
