"""Attention over a row in which the levels of an item share their prefix, registered with transformers.

A row of segments (see `layout`) is one small attention after the other, each of a segment's queries over the keys of
its prefix and its own:

    row          a b c | D E | F
    queries      a b c   D E         F
    keys         a b c   a b c D E   a b c F

The n-th query from the end sees all keys but the last n: the causal triangle stands at the lower right.

    prefix a b, segment C D E        the same with a window of 3 tokens
          a b C D E                        a b C D E
      C   x x x . .                    C   x x x . .
      D   x x x x .                    D   . x x x .
      E   x x x x x                    E   . . x x x
"""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from amp_cli.training.rows.layout import SharedRow

SHARED_PREFIX = "amp_shared_prefix"
"""Its name in transformers. No mask is registered for it, so that models build none."""


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sharing: SharedRow | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Let each segment of the row see itself and its prefix.

    Args:
        query: (1, heads, length, width). key, value: the same with as many heads or fewer.
        sliding_window: how many tokens a token sees, itself included, as the layer has it.

    Returns:
        (1, length, heads, width), and None for the weights.

    Raises:
        ValueError: something is asked for that this attention does not do.
    """
    if sharing is None or attention_mask is not None or softcap is not None:
        raise ValueError("this attention needs a row with shared prefixes, and supports neither a mask nor a soft cap")
    # A layer that has a window but does not hand it on would have us let all tokens see all before them.
    if sliding_window is None and layer_window(module.config, module.layer_idx) is not None:
        raise ValueError("its layers use a sliding window but do not pass it to their attention")
    if _takes_one_call(query, sharing):
        return _in_one_call(query, key, value, scaling, sliding_window, sharing), None
    return _by_segment(query, key, value, scaling, sliding_window, sharing), None


def _takes_one_call(query: torch.Tensor, sharing: SharedRow) -> bool:
    # Flash attention knows 16-bit numbers and the causal triangle only; the whole images of `blocks` need a mask.
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and sharing.blocks is None


def _in_one_call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    sharing: SharedRow,
) -> torch.Tensor:
    """Gather each segment's keys and make one variable-length call (flash attention, aligned at the lower right)."""
    attended: Any = _variable_length_call()(
        query[0].transpose(0, 1),  # (length, heads, width)
        key[0].transpose(0, 1)[sharing.keys],  # (gathered, key heads, width)
        value[0].transpose(0, 1)[sharing.keys],
        sharing.query_starts,
        sharing.key_starts,
        sharing.longest_query,
        sharing.longest_key,
        scale=scaling,
        # how far to the left and right of itself a query sees, itself not counted; -1 is without end
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    result: torch.Tensor = attended[None]  # (1, length, heads, width)
    return result


def _variable_length_call() -> Any:
    """Return torch's attention over sequences of different lengths.

    Raises:
        ValueError: this torch has none, or one that knows neither windows nor grouped heads.
    """
    try:
        call: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        call = None
    if call is None or not {"window_size", "enable_gqa"} <= set(inspect.signature(call).parameters):
        raise ValueError(
            f"PyTorch {torch.__version__} has no attention over sequences of different lengths with windows and "
            "grouped heads (2.12 has)"
        )
    return call


def _by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    sharing: SharedRow,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    attended = []
    for start, length, prefix_start, prefix_length in sharing.segments:
        own = slice(start, start + length)
        queries = query[:, :, own]
        if prefix_length:
            prefix = slice(prefix_start, prefix_start + prefix_length)
            keys = torch.cat((key[:, :, prefix], key[:, :, own]), dim=2)
            values = torch.cat((value[:, :, prefix], value[:, :, own]), dim=2)
        else:
            keys, values = key[:, :, own], value[:, :, own]
        # keys, values: (1, heads, prefix + length, width)
        if query.device.type == "mps":  # which attends wrongly to parts of tensors (pytorch/pytorch#181133)
            queries, keys, values = queries.contiguous(), keys.contiguous(), values.contiguous()
        blocks = sharing.blocks[own] if sharing.blocks is not None else None
        # `is_causal` puts the triangle at the upper left, which is right for as many keys as queries alone; where it is
        # right it is faster than a mask, which flash attention does not take.
        is_plain = not prefix_length and blocks is None and (sliding_window is None or length <= sliding_window)
        attended.append(
            scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=None if is_plain else _mask(length, prefix_length, sliding_window, blocks, query.device),
                is_causal=is_plain,
                scale=scaling,
            )
        )
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous()  # (1, length, heads, width)


def _mask(
    length: int, prefix_length: int, sliding_window: int | None, blocks: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """Return the (length, prefix + length) bool mask of a segment: causal, within the window, images in whole."""
    sees = torch.ones(length, prefix_length + length, dtype=torch.bool, device=device).tril(prefix_length)
    if sliding_window is not None:
        sees = sees.triu(prefix_length - sliding_window + 1)
    if blocks is not None:
        sees[:, prefix_length:] |= (blocks[:, None] == blocks) & (blocks >= 0)
    return sees


def layer_window(config: Any, layer: int) -> int | None:
    """Return how many tokens a token sees in a layer of a text model, itself included; None where it sees all."""
    types = getattr(config, "layer_types", None)  # families without have the same window, or none, in every layer
    slides = types is None or types[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def plain_attention(network: Any) -> str:
    """Return the name of the language model's attention over plain rows."""
    return "sdpa" if network.get_decoder()._supports_sdpa else "eager"


@contextmanager
def attending_by(network: Any, name: str) -> Iterator[None]:
    """Switch the language model's attention within the block; the tower keeps its own."""
    before = network.config.get_text_config()._attn_implementation
    use_attention(network, name)
    try:
        yield
    finally:
        use_attention(network, before)


def use_attention(network: Any, name: str) -> None:
    """Switch the language model's attention; the tower keeps its own.

    Raises:
        ValueError: the model does not let it be switched.
    """
    network.set_attn_implementation({"text_config": name})
    if network.config.get_text_config()._attn_implementation != name:
        raise ValueError("its attention implementation cannot be changed")


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
