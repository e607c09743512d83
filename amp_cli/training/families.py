"""What model families need beside the token ids: positions on several axes, token types, pictures that see all of themselves."""

import inspect
from typing import Any

import torch

from amp_cli.core.prompts import EncodedItem, EncodedResponse
from amp_cli.training.layout import Positions

WHOLE_PICTURES = ("gemma3",)
"""Model types in which the tokens of one picture all see one another."""


def takes(network: Any, name: str) -> bool:
    """Whether the model under the head has an input of this name."""
    return name in inspect.signature(network.model.forward).parameters


def token_types(network: Any, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the input that says which tokens (rows, length) stand for pictures, where the model wants one."""
    for name in ("mm_token_type_ids", "token_type_ids"):
        if takes(network, name):
            return {name: (input_ids == network.config.image_token_id).int()}
    return {}


def positions_of(network: Any) -> Positions | None:
    """Return what gives the positions of a response's tokens where they have several axes (M-RoPE), else None."""
    if not hasattr(network.model, "get_rope_index"):
        return None

    def positions(item: EncodedItem, response: EncodedResponse) -> torch.Tensor:
        ids = response.input_ids[None]
        grids = {name: grid for name, grid in item.image_inputs.items() if name.endswith("grid_thw")}
        found, _ = network.model.get_rope_index(ids, **token_types(network, ids), **grids)
        axes: torch.Tensor = found[:, 0]  # (axes, length)
        return axes

    return positions


def picture_blocks(network: Any, input_ids: torch.Tensor) -> torch.Tensor | None:
    """Return each token's picture, numbered along the row (length,), -1 for text; None where order is all that counts."""
    if network.config.model_type not in WHOLE_PICTURES:
        return None
    inside = (input_ids == network.config.image_token_id).long()
    begins = (inside.diff(prepend=inside.new_zeros(1)) == 1).long()
    return torch.where(inside == 1, begins.cumsum(0) - 1, -1)
