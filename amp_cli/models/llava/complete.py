"""Holds the weights of a checkpoint against what its configuration asks for, before a conversion writes any."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from amp_cli.errors import AmpError
from amp_cli.models.llava.files import stored_tensors
from amp_cli.models.llava.names import NETWORK, is_buffer, projector_names, respell
from amp_cli.models.llava.original import EMBEDDING, HEAD, TOWER, OriginalCheckpoint


def refuse_gaps(folder: Path, config: LlavaConfig, stored: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse weights (name in any spelling, shape) that are not exactly those of the model, built without memory.

    Raises:
        AmpError: naming the first that is missing, too many, or of another shape.
    """
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {respell(name, NETWORK) or name: shape for name, shape in stored if not is_buffer(name)}
    if config.tie_word_embeddings:
        wanted.pop(f"{NETWORK.head}weight")
        found.pop(f"{NETWORK.head}weight", None)
    missing, surplus = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shaped = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for what, names in (
        ("lacks {} of the weights its configuration asks for", missing),
        ("has {} weights that its configuration has no place for", surplus),
        ("has {} weights whose shapes differ from its configuration", shaped),
    ):
        if names:
            raise AmpError(
                f"'{folder}' {what.format(len(names))}, first {_quoted(names)}",
                hint="The folder is incomplete or its files do not belong together. Download it again",
            )


def shapes_in(checkpoint: OriginalCheckpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every weight that a conversion of an original checkpoint will hold."""
    for name, place in checkpoint.stored.items():
        rows = checkpoint.rows if name in (EMBEDDING, HEAD) else place.shape[0]
        if not name.startswith(TOWER):
            yield name, (rows, *place.shape[1:])
    for name, place in stored_tensors(checkpoint.projector).items():
        yield projector_names(name, NETWORK) or name, place.shape
    outside = stored_tensors({file for file, _ in checkpoint.tower.tensors.values()})
    for name, (_, key) in checkpoint.tower.tensors.items():
        yield name, outside[key].shape


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3])
