"""Lays the levels of a batch of items out as padded rows, with the places where answer tokens are predicted."""

from collections.abc import Sequence
from typing import TypedDict

import torch

from amp_cli.core.prompts import EncodedItem, EncodedResponse


class Batch(TypedDict):
    """Items as rows, one row per level, the rows of an item together and best first.

    N counts the supervised tokens of all rows.
    """

    input_ids: torch.Tensor  # (rows, length), padded on the right
    attention_mask: torch.Tensor  # (rows, length)
    predictors: torch.Tensor  # (N,) place, in the flattened (rows * length), of the hidden state that predicts a token
    targets: torch.Tensor  # (N,) the token
    weights: torch.Tensor  # (N,) float64, the token's weight in its response's sum
    rows: torch.Tensor  # (N,) its row
    levels: torch.Tensor  # (items,) how many rows each item has
    image_inputs: list[dict[str, torch.Tensor]]  # one per item, its pictures once


def lay_out(items: Sequence[EncodedItem], *, round_weight: float = 0.0, pad_id: int = 0) -> Batch:
    """Lay items out for the model; a token of round n (from 0) weighs 1 + round_weight * n."""
    responses = [response for item in items for response in item.responses]
    length = max(len(response.input_ids) for response in responses)
    input_ids = torch.full((len(responses), length), pad_id)
    attention_mask = torch.zeros((len(responses), length), dtype=torch.long)
    for row, response in enumerate(responses):
        input_ids[row, : len(response.input_ids)] = response.input_ids
        attention_mask[row, : len(response.input_ids)] = 1
    places = [response.supervised.nonzero()[:, 0] for response in responses]  # each (supervised tokens of the row,)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        predictors=torch.cat([row * length + place - 1 for row, place in enumerate(places)]),
        targets=torch.cat([response.input_ids[place] for response, place in zip(responses, places, strict=True)]),
        weights=torch.cat(
            [_weights(response, place, round_weight) for response, place in zip(responses, places, strict=True)]
        ),
        rows=torch.cat([torch.full_like(place, row) for row, place in enumerate(places)]),
        levels=torch.tensor([len(item.responses) for item in items]),
        image_inputs=[item.image_inputs for item in items],
    )


def _weights(response: EncodedResponse, places: torch.Tensor, round_weight: float) -> torch.Tensor:
    return 1.0 + round_weight * response.round[places].double()


def level_mask(levels: torch.Tensor) -> torch.Tensor:
    """Return the (items, most levels) bool mask of the levels that each item has."""
    return torch.arange(int(levels.max()), device=levels.device)[None, :] < levels[:, None]


def by_level(sums: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Put the (rows,) sums of a batch into (items, most levels), zero where an item lacks a level."""
    return torch.zeros(mask.shape, dtype=sums.dtype, device=sums.device).masked_scatter(mask, sums)
