"""Lays items out for the model: one row in which the levels of an item share their prefix, or plain padded rows.

An item of two levels that both begin with a b c, of which D E F are answer tokens:

    plain rows     a b c D E      shared row   a b c | D E | F      6 tokens in place of 10
                   a b c F .      positions    0 1 2   3 4   3      F stands at 3, as in its plain row

    who sees whom        a b c D E F      segments    Segment(0, 3, 0, 0)   a b c, a prefix
                     a   x                            Segment(3, 2, 0, 3)   D E, after the 3 tokens from place 0
                     b   x x                          Segment(5, 1, 0, 3)   F, after the same
                     c   x x x
                     D   x x x x          keys, by segment    0 1 2 | 0 1 2 3 4 | 0 1 2 5
                     E   x x x x x        query_starts        0 3 5 6
                     F   x x x . . x      key_starts          0 3 8 12

    predictors     2 3 2  (D is predicted at c, E at D, F at c again)      targets   D E F      responses   0 0 1
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.records import pairs_of

Positions = Callable[[EncodedItem, EncodedResponse], torch.Tensor]
"""Gives the (axes, length) positions of a response's tokens; models with one axis count 0, 1, 2, ..."""


class Segment(NamedTuple):
    """A run of a row's tokens that sees itself, causally, and the prefix that it continues."""

    start: int
    length: int
    prefix_start: int
    prefix_length: int  # 0 for a prefix itself


@dataclass(frozen=True, kw_only=True)
class SharedRow:
    """Who sees whom in a row of prefixes and branches.

    Attributes:
        segments: an item's prefix, then its branches, one per level; then the next item's.
        keys: (gathered,) places of the keys of one segment after the other, each with its prefix's before its own.
        query_starts, key_starts: (segments + 1,) int32, where each segment begins in the row and in `keys`.
        blocks: (length,) number of the image that a token belongs to, -1 for text; given where the tokens of an
            image all see one another.
    """

    segments: tuple[Segment, ...]
    keys: torch.Tensor
    query_starts: torch.Tensor
    key_starts: torch.Tensor
    blocks: torch.Tensor | None = None

    @property
    def longest_query(self) -> int:
        return max(segment.length for segment in self.segments)

    @property
    def longest_key(self) -> int:
        return max(segment.prefix_length + segment.length for segment in self.segments)

    def mask(self) -> torch.Tensor:
        """Return the (1, 1, length, length) bool mask that says the same, True where a token sees another."""
        length = int(self.query_starts[-1])
        sees = torch.zeros(length, length, dtype=torch.bool, device=self.keys.device)
        for start, own, prefix_start, prefix in self.segments:
            sees[start : start + own, prefix_start : prefix_start + prefix] = True  # nothing for a prefix itself
            sees[start : start + own, start : start + own] = torch.ones_like(sees[:own, :own]).tril()
        if self.blocks is not None:
            sees |= (self.blocks[:, None] == self.blocks) & (self.blocks >= 0)
        return sees[None, None]

    def to(self, device: torch.device) -> Self:
        moved: Self = _moved(self, device)
        return moved


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Items ready for one forward pass. N counts the supervised tokens of all responses.

    Attributes:
        input_ids: (rows, length); one row where prefixes are shared, else a row per response, padded at the end.
        attention_mask: (rows, length), None where `sharing` says who sees whom.
        position_ids: (rows, length), or (axes, rows, length); None where the model counts by itself.
        predictors: (N,) place, in the flattened (rows * length), of the hidden state that predicts a token.
        targets: (N,) the token. responses: (N,) the response it belongs to. rounds: (N,) its 0-based round.
        levels: (parts,) how many responses each has of `parts_of` the items; they are together, best first.
        image_inputs: one per part, its images once.
        token_types: what some families want beside the ids, (rows, length) each.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    sharing: SharedRow | None
    predictors: torch.Tensor
    targets: torch.Tensor
    responses: torch.Tensor
    rounds: torch.Tensor
    levels: torch.Tensor
    image_inputs: tuple[dict[str, torch.Tensor], ...]
    token_types: dict[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Self:
        moved: Self = _moved(self, device)
        return moved


def lay_out_rows(items: Sequence[EncodedItem], *, pad_id: int = 0) -> Batch:
    """Lay items out with a padded row for every response."""
    items = parts_of(items)
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
        position_ids=None,
        sharing=None,
        predictors=torch.cat([row * length + place - 1 for row, place in enumerate(places)]),
        **_supervision(items, responses, places),
    )


def lay_out_shared(items: Sequence[EncodedItem], *, positions: Positions | None = None) -> Batch:
    """Lay items out in one row: of each item the prefix that all its responses begin with, then what follows in each.

    The prefix may reach into the answers. Positions start anew with every item; a branch goes on from its prefix's.
    """
    items = parts_of(items)
    positions = positions or _counted
    ids: list[torch.Tensor] = []
    axes: list[torch.Tensor] = []
    segments: list[Segment] = []
    predictors: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    end = 0

    def append(response: EncodedResponse, where: torch.Tensor, first: int, last: int) -> int:
        ids.append(response.input_ids[first:last])
        axes.append(where[:, first:last])
        return end + last - first

    for item in items:
        shared = common_prefix([response.input_ids for response in item.responses])
        prefix_start = end
        segments.append(Segment(end, shared, end, 0))
        end = append(item.responses[0], positions(item, item.responses[0]), 0, shared)
        for response in item.responses:
            place = response.supervised.nonzero()[:, 0]  # (supervised tokens of the response,)
            # A token is predicted one place before it. Of a response's own place p that is, in the row,
            # prefix_start + p within the prefix, and from there on end + p - shared: the branch begins at `end`.
            before = place - 1
            predictors.append(torch.where(before < shared, prefix_start, end - shared) + before)
            places.append(place)
            length = len(response.input_ids)
            segments.append(Segment(end, length - shared, prefix_start, shared))
            end = append(response, positions(item, response), shared, length)
    position_ids = torch.cat(axes, dim=1)  # (axes, length)
    return Batch(
        input_ids=torch.cat(ids)[None],
        attention_mask=None,
        position_ids=position_ids if len(position_ids) == 1 else position_ids[:, None],
        sharing=_shared_row(segments),
        predictors=torch.cat(predictors),
        **_supervision(items, [response for item in items for response in item.responses], places),
    )


def parts_of(items: Sequence[EncodedItem]) -> list[EncodedItem]:
    """Return the items and, behind each, its best response beside other images, which has a prefix of its own."""
    return [part for item in items for part in item.parts]


def common_prefix(responses: Sequence[torch.Tensor]) -> int:
    """Return how many leading tokens all sequences share; at least one token of each is left over."""
    # One less than the shortest: an empty branch would be an attention call without queries.
    shortest = min(len(response) for response in responses) - 1
    first = responses[0][:shortest]
    differs = torch.stack([response[:shortest] != first for response in responses]).any(dim=0)  # (shortest,)
    return int(differs.long().argmax()) if bool(differs.any()) else shortest


def unique_tokens(item: EncodedItem) -> int:
    """Return how many tokens the item has when the prefix of each of its parts counts once."""
    total = 0
    for part in item.parts:
        shared = common_prefix([response.input_ids for response in part.responses])
        total += shared + sum(len(response.input_ids) - shared for response in part.responses)
    return total


def level_mask(levels: torch.Tensor) -> torch.Tensor:
    """Return the (items, most levels) bool mask of the levels that each item has."""
    return torch.arange(int(levels.max()), device=levels.device)[None, :] < levels[:, None]


def by_level(sums: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Put the (responses,) sums of a batch into (items, most levels), zero where an item lacks a level."""
    return torch.zeros(mask.shape, dtype=sums.dtype, device=sums.device).masked_scatter(mask, sums)


def weights_by_pair(items: Sequence[EncodedItem], pairs: str, mask: torch.Tensor) -> torch.Tensor | None:
    """Put the items' pair weights into (items, pairs of the most levels); None where all pairs weigh the same."""
    if all(item.pair_weights is None for item in items):
        return None
    columns = {pair: place for place, pair in enumerate(pairs_of(mask.shape[1], pairs))}
    weights = torch.ones(len(items), len(columns), dtype=torch.float64, device=mask.device)
    for row, item in enumerate(items):
        places = [columns[pair] for pair in pairs_of(len(item.responses), pairs)]
        if item.pair_weights is not None:
            weights[row, places] = weights.new_tensor(item.pair_weights)
    return weights


def _counted(_item: EncodedItem, response: EncodedResponse) -> torch.Tensor:
    return torch.arange(len(response.input_ids))[None]  # (1, length)


def _supervision(
    items: Sequence[EncodedItem], responses: Sequence[EncodedResponse], places: Sequence[torch.Tensor]
) -> dict[str, Any]:
    return {
        "targets": torch.cat([one.input_ids[place] for one, place in zip(responses, places, strict=True)]),
        "responses": torch.cat([torch.full_like(place, number) for number, place in enumerate(places)]),
        "rounds": torch.cat([one.round[place] for one, place in zip(responses, places, strict=True)]),
        "levels": torch.tensor([len(item.responses) for item in items]),
        "image_inputs": tuple(item.image_inputs for item in items),
    }


def _shared_row(segments: Sequence[Segment]) -> SharedRow:
    keys: list[torch.Tensor] = []
    for start, length, prefix_start, prefix_length in segments:
        keys += [torch.arange(prefix_start, prefix_start + prefix_length), torch.arange(start, start + length)]
    queries = torch.tensor([0, *(segment.length for segment in segments)]).cumsum(0)
    seen = torch.tensor([0, *(segment.prefix_length + segment.length for segment in segments)]).cumsum(0)
    return SharedRow(segments=tuple(segments), keys=torch.cat(keys), query_starts=queries.int(), key_starts=seen.int())


def _moved(value: Any, device: torch.device) -> Any:
    """Return a dataclass, dict or tuple with every tensor in it on `device`."""
    if isinstance(value, torch.Tensor):
        # MPS may read what is not waited for when its memory is free again (pytorch/pytorch#189690)
        return value.to(device, non_blocking=device.type != "mps")
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    if isinstance(value, Batch | SharedRow):
        return replace(value, **{name: _moved(one, device) for name, one in vars(value).items()})
    if isinstance(value, tuple) and not isinstance(value, Segment):
        return tuple(_moved(one, device) for one in value)
    return value


def cut_by_tokens(
    lengths: Sequence[int], budget: int, *, together: Callable[[Sequence[int]], int] | None = None
) -> list[list[int]]:
    """Return the passes, each a list of item numbers: the longest items first, each into the first pass with room.

    An item longer than the budget gets a pass of its own. Lengths 5 4 3 2 in a budget of 7 make [5 2] [4 3].

    Args:
        lengths: tokens of each item alone.
        together: tokens that items of these numbers take in one pass; the sum of their lengths by default.
    """
    together = together or (lambda numbers: sum(lengths[number] for number in numbers))
    passes: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        home = next((one for one in passes if together([*one, number]) <= budget), None)
        if home is None:
            passes.append([number])
        else:
            home.append(number)
    return passes


def spread(passes: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Return the same items in exactly `count` passes, at least as many as there are; some may be empty.

    Processes that train together must make the same number of passes.
    """
    result = [list(one) for one in passes]
    while len(result) < count:
        fullest = max(result, key=len, default=[])
        result.append([fullest.pop()] if len(fullest) > 1 else [])
    return result
