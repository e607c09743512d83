"""What model families need beside the token ids, and which of them cannot have the levels of an item in one row."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.attention import layer_window, plain_attention
from amp_cli.training.rows.layout import Positions

WHOLE_IMAGES = ("gemma3",)
"""Model types in which the tokens of one image all see one another."""

WHOLE_PROMPTS = ("paligemma",)
"""Model types in which all that stands before the first answer sees all of itself."""

MARKED_OTHERWISE = ("molmo2",)
"""Model types that mark more tokens as images' than those that stand for them, and read the prompt by these marks."""

SCALED_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions that depend on the longest sequence read together, beyond an original length."""


def takes(network: Any, name: str) -> bool:
    """Whether the model under the head has an input of this name."""
    return name in inspect.signature(network.model.forward).parameters


def first_answers(responses: Sequence[EncodedResponse]) -> torch.Tensor:
    """Return the (responses,) place of each response's first answer token."""
    return torch.stack([response.supervised.long().argmax() for response in responses])


def token_types(network: Any, input_ids: torch.Tensor, answers: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the input that says what kind of token each of (rows, length) is, where the model wants one.

    Args:
        answers: (rows,) place of each row's first answer token.

    Raises:
        ValueError: we do not know how this family marks tokens.
    """
    name = next((name for name in ("mm_token_type_ids", "token_type_ids") if takes(network, name)), None)
    if name is None:
        return {}
    if network.config.model_type in MARKED_OTHERWISE:
        raise ValueError(f"models of type '{network.config.model_type}' mark image tokens in their own way")
    if network.config.model_type in WHOLE_PROMPTS:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        # 0 for what stands before the first answer and sees all of itself, 1 for what comes after and sees only back
        return {name: (places >= answers[:, None].to(input_ids.device)).int()}
    return {name: stands_for_images(network, input_ids).int()}


def positions_of(network: Any) -> Positions | None:
    """Return what gives the positions of a response's tokens where they have several axes (M-RoPE), else None."""
    if not hasattr(network.model, "get_rope_index"):
        return None

    def positions(item: EncodedItem, response: EncodedResponse) -> torch.Tensor:
        ids = response.input_ids[None]
        grids = {name: grid for name, grid in item.image_inputs.items() if name.endswith("grid_thw")}
        found, _ = network.model.get_rope_index(ids, **token_types(network, ids, first_answers([response])), **grids)
        axes: torch.Tensor = found[:, 0]  # (axes, length)
        return axes

    return positions


def image_blocks(network: Any, input_ids: torch.Tensor) -> torch.Tensor | None:
    """Return each token's image, numbered along the row (length,), -1 for text; None where only order counts."""
    if network.config.model_type not in WHOLE_IMAGES:
        return None
    # tokens   <i> <i> is <i> .     An image begins where a run of image tokens does: families that want this write a
    # inside    1   1   0  1   0    token before and after each image, so that two runs never touch.
    # begins    1   0   0  1   0
    # blocks    0   0  -1  1  -1
    inside = stands_for_images(network, input_ids).long()
    begins = (inside.diff(prepend=inside.new_zeros(1)) == 1).long()
    return torch.where(inside == 1, begins.cumsum(0) - 1, -1)


def why_not_shared(network: Any, *, max_length: int, dense_mask: bool) -> str | None:
    """Return why an item's levels cannot share a row of this model, None where nothing is known against it.

    These are the ways to be wrong on a long item only, or with an image only, which a test on a few items may miss.

    Args:
        max_length: tokens of the longest item. dense_mask: whether one mask is to tell all layers who sees whom.
    """
    text = network.config.get_text_config()
    types = set(getattr(text, "layer_types", None) or ())  # families without have attention in every layer
    other = sorted(types - {"full_attention", "sliding_attention"})
    if network.config.model_type in WHOLE_PROMPTS:
        return "it reads prompts in both directions"
    if getattr(text, "use_bidirectional_attention", None) and network.config.model_type not in WHOLE_IMAGES:
        return "the tokens of an image see one another in some of its layers"
    if other:
        return f"its layers of type '{other[0]}' cannot be told which tokens see one another"
    if (limit := _original_length(text)) is not None and max_length > limit:
        return (
            f"beyond {limit} tokens, its positions depend on the longest item in the batch; max_length is {max_length}"
        )
    if not dense_mask:
        return None
    if plain_attention(network) != "sdpa":
        return "it does not accept a boolean mask"
    # One mask serves all layers, so a window must not bite in any of them.
    windows = [layer_window(text, number) for number in range(text.num_hidden_layers)]
    window = min((window for window in windows if window is not None), default=max_length)
    if window < max_length:
        return (
            f"a single mask for all layers would lose its sliding window of {window} tokens; max_length is {max_length}"
        )
    return None


def _original_length(text: Any) -> int | None:
    """Return the length beyond which rotary positions depend on what is read together; None where they never do."""
    # {"rope_type": ...} for all layers, or one such for each type of layer: {"full_attention": {...}, ...}
    given = getattr(text, "rope_parameters", None) or {}
    sets = [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]
    scaled = [one for one in sets if one["rope_type"] in SCALED_BY_LENGTH]
    lengths = [int(one.get("original_max_position_embeddings") or text.max_position_embeddings) for one in scaled]
    return min(lengths, default=None)


def stands_for_images(network: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Return the bool mask of the tokens that stand for images; none where the configuration names no such token."""
    named = vars(network.config)
    token = named.get("image_token_id", named.get("image_token_index"))
    return torch.zeros_like(input_ids, dtype=torch.bool) if token is None else input_ids == token
