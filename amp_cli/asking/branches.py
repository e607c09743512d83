"""Keys and values of prompts that share prefixes, and attention over them that reads a prefix once for all its rows.

Two questions about one image, two beams each. Rows hold their own tokens only, questions q r s and t u filled up at
the left, then what each beam writes; the image's b I I I stand once:

    prefix           own
    b I I I          q r s x      first question, first beam
                     q r s y      first question, second beam
                     . t u z      second question, first beam
                     . t u x      second question, second beam
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

BRANCHED = "amp_branched"
"""Its name in transformers. No mask is registered for it, so that models build none."""

GROWTH = 32
"""Tokens that a row's own place in memory has beyond its prompt at first; it doubles when they are written."""


class NotAttended(Exception):
    """The model's attention does something that `branched_attention` does not do."""


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """One layer's prefixes, each shared by as many rows that stand together.

    Attributes:
        keys, values: (prefixes, key heads, length, width), filled up at the left.
    """

    keys: torch.Tensor
    values: torch.Tensor


class BranchedLayer(DynamicLayer):
    """Keys and values of prompts and of what their branches write; a prompt's are the same in all of its branches.

    So beams that take each other's place exchange only what they wrote, and nothing moves as an answer grows.
    """

    is_croppable = False

    def __init__(
        self,
        own: tuple[torch.Tensor, torch.Tensor],
        length: int,
        *,
        prefixes: Prefixes | None = None,
        before: int = 0,
    ) -> None:
        """Take over buffers of keys and values whose first `length` places are the prompts' own.

        Args:
            own: (rows, key heads, room, width) each.
            prefixes: what stands before them; None where the buffers hold all. before: tokens it counts as.
        """
        super().__init__()
        self.dtype, self.device, self.is_initialized = own[0].dtype, own[0].device, True
        self.prefixes = prefixes
        self._buffers = list(own)
        self._before, self._prompt, self._length = before, length, length
        self._show()

    @classmethod
    def empty(cls, prefixes: Prefixes, rows: int, *, before: int) -> Self:
        """Return a layer of rows that have nothing of their own yet."""

        def room(like: torch.Tensor) -> torch.Tensor:
            return like.new_empty(rows, like.shape[1], GROWTH, like.shape[3])

        return cls((room(prefixes.keys), room(prefixes.values)), 0, prefixes=prefixes, before=before)

    def get_seq_length(self) -> int:
        """Return how many tokens each row has, prefix and padding included."""
        return self._before + self._length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (rows, key heads, new, width) of each and return the rows' own."""
        end = self._length + key_states.shape[-2]
        for number, new in enumerate((key_states, value_states)):
            if end > self._buffers[number].shape[-2]:
                self._buffers[number] = self._grown(self._buffers[number], end)
            self._buffers[number][:, :, self._length : end] = new
        self._length = end
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Give each row what the row `beam_idx` (rows,) has written; that one is a branch of the same prompt."""
        for buffer in self._buffers:
            written = buffer[:, :, self._prompt : self._length]
            written.copy_(written.index_select(0, beam_idx.to(buffer.device)))

    def _grown(self, buffer: torch.Tensor, end: int) -> torch.Tensor:
        room = max(end, self._prompt + 2 * (buffer.shape[-2] - self._prompt))
        larger = buffer.new_empty(*buffer.shape[:2], room, buffer.shape[3])
        larger[:, :, : self._length] = buffer[:, :, : self._length]
        return larger

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


class BranchedCache(DynamicCache):
    """A cache of `BranchedLayer`s. `seen`: (rows, prefix + own at first) bool, False for padding; None where all is."""

    def __init__(self, layers: Sequence[BranchedLayer], seen: torch.Tensor | None = None) -> None:
        super().__init__()
        self.layers = list(layers)
        self.seen = None if seen is None or bool(seen.all()) else seen


def stack(prefixes: Sequence[DynamicCache]) -> tuple[list[Prefixes], torch.Tensor]:
    """Return each layer's prefixes, and where they are seen: (prefixes, length) bool, padding at the left is not."""
    lengths = [prefix.get_seq_length() for prefix in prefixes]
    longest = max(lengths)

    def stacked(number: int, name: str) -> torch.Tensor:
        each = [getattr(prefix.layers[number], name) for prefix in prefixes]  # (1, key heads, length, width)
        padded = [torch.nn.functional.pad(one, (0, 0, longest - one.shape[2], 0)) for one in each]
        return torch.cat(padded)

    layers = [
        Prefixes(keys=stacked(number, "keys"), values=stacked(number, "values"))
        for number in range(len(prefixes[0].layers))
    ]
    device = layers[0].keys.device
    seen = torch.arange(longest, device=device) >= longest - torch.tensor(lengths, device=device)[:, None]
    return layers, seen


def spread(
    layer: DynamicLayer, places: Sequence[slice], length: int, branches: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values that rows have at their places, as often as they have branches, in buffers with room.

    Args:
        layer: its keys and values are (rows, key heads, any length, width).
        length: of the longest place; the others are filled up to it at the left.
    """

    def spread_out(read: torch.Tensor) -> torch.Tensor:
        rows, kinds, _, width = read.shape
        buffer = read.new_empty(rows * branches, kinds, length + GROWTH, width)
        for row, place in enumerate(places):
            of_row = buffer[row * branches : (row + 1) * branches]
            start = length - (place.stop - place.start)
            of_row[:, :, :start] = 0
            of_row[:, :, start:length] = read[row, :, place]
        return buffer

    return spread_out(layer.keys), spread_out(layer.values)


_CACHE: ContextVar[BranchedCache] = ContextVar("cache")


@contextmanager
def attending_to(network: Any, cache: BranchedCache) -> Iterator[None]:
    """Let the language model attend to prefixes and own tokens of this cache within the block; else as it did.

    Raises:
        NotAttended: the model does not let its attention be switched.
    """
    text = network.config.get_text_config()
    before = text._attn_implementation
    network.set_attn_implementation({"text_config": BRANCHED})
    if text._attn_implementation != BRANCHED:
        raise NotAttended("its attention cannot be switched")
    token = _CACHE.set(cache)
    try:
        yield
    finally:
        _CACHE.reset(token)
        network.set_attn_implementation({"text_config": before})


def branched_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Let each row's newest tokens see its prefix, its own tokens, and one another in order.

    Computed in float32 at least, so that scores of 16-bit models are as exact as fused attention's.

    Args:
        query: (rows, heads, new, width). key, value: (rows, key heads, own, width), the new ones at their end.

    Returns:
        (rows, new, heads, width), and None for the weights.

    Raises:
        NotAttended: something is asked for that this attention does not do.
    """
    if attention_mask is not None or sliding_window is not None or softcap is not None or s_aux is not None:
        raise NotAttended("its attention has a mask, a window, a soft cap or sinks")
    cache = _CACHE.get()
    prefixes = cache.layers[module.layer_idx].prefixes
    rows, heads, new, width = query.shape
    kinds, length = key.shape[1], prefixes.keys.shape[2]
    exact = torch.promote_types(query.dtype, torch.float32)
    asked = query.reshape(rows, kinds, -1, width).to(exact)  # (rows, key heads, heads of one * new, width)
    together = _stand_together(asked, len(prefixes.keys))
    to_prefix = _stand_apart(together @ prefixes.keys.to(exact).transpose(2, 3), rows)
    to_own = asked @ key.to(exact).transpose(2, 3)
    scores = torch.cat((to_prefix, to_own), dim=3) * (width**-0.5 if scaling is None else scaling)
    hidden = _hidden(cache.seen, length, key.shape[2], new, query.device)
    if hidden is not None:
        by_query = scores.view(rows, kinds, -1, new, scores.shape[3])
        scores = by_query.masked_fill(hidden[:, None, None], -torch.inf).view_as(scores)
    weights = scores.softmax(dim=3)
    from_prefix = _stand_together(weights[..., :length], len(prefixes.keys)) @ prefixes.values.to(exact)
    attended = _stand_apart(from_prefix, rows) + weights[..., length:] @ value.to(exact)
    return attended.to(query.dtype).reshape(rows, heads, new, width).transpose(1, 2).contiguous(), None


def _stand_together(each: torch.Tensor, prefixes: int) -> torch.Tensor:
    """(rows, key heads, queries, ...) -> (prefixes, key heads, rows of one * queries, ...)."""
    rows, kinds, queries, size = each.shape
    apart = each.reshape(prefixes, rows // prefixes, kinds, queries, size)
    return apart.transpose(1, 2).reshape(prefixes, kinds, -1, size)


def _stand_apart(together: torch.Tensor, rows: int) -> torch.Tensor:
    """Undo `_stand_together`."""
    prefixes, kinds, _, size = together.shape
    apart = together.view(prefixes, kinds, rows // prefixes, -1, size)
    return apart.transpose(1, 2).reshape(rows, kinds, -1, size)


def _hidden(seen: torch.Tensor | None, length: int, own: int, new: int, device: torch.device) -> torch.Tensor | None:
    """Return (rows or 1, new, length + own) bool, True where a new token must not look; None where all may be seen."""
    hidden = None
    if seen is not None:
        hidden = ~torch.nn.functional.pad(seen, (0, length + own - seen.shape[1]), value=True)[:, None]
    if new > 1:
        later = torch.ones(new, length + own, dtype=torch.bool, device=device).triu(length + own - new + 1)[None]
        hidden = later if hidden is None else hidden | later
    return hidden


AttentionInterface.register(BRANCHED, branched_attention)
