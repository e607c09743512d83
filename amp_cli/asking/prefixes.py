"""Reads what prompts share once: an image's tokens for all questions about it, and a prompt for all of its beams.

Two questions about one image, two beams each; I are the image's tokens, q r s and t u those of the questions:

    read once    b I I I                keys and values of the prefix, kept for the next questions
    then         q r . / t .            the questions but for their last tokens, filled up at the right
    then         b I I I  q r  x2       one row for each beam, padding moved to the left;
                 b I I I  . t  x2       from here `generate` goes on with the last tokens, s and u

The prefix stands in memory once (`branches`); models with sliding windows get a copy of it in each row.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from amp_cli.asking.branches import BranchedCache, BranchedLayer, attending_to, spread, stack
from amp_cli.models.load import LoadedModel

WHOLE_PROMPTS = ("paligemma",)
"""Model types in which all tokens of a prompt see one another: no part of it can be read before the rest."""

SCALED_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions that depend on how much is read at once."""

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What processors give with a value for each token; all else must be made of the images alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """One item's open dialogue as the model reads it.

    Attributes:
        ids: (length,) long, image tokens expanded. types: (length,) kinds of tokens, by the name of the input.
        positions: (axes, length) long; axes is 1 but for families whose images have rows and columns (M-RoPE).
        images: the inputs made of its images. shown: names these images.
        prefix: how many tokens end with the last one that stands for an image; 0 without images.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    types: dict[str, torch.Tensor] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    prefix: int = 0

    @property
    def shared(self) -> tuple[Any, ...]:
        """Prompts with the same value begin with the same tokens and images."""
        return (self.shown, *self.ids[: self.prefix].tolist())


def why_not_shared(loaded: LoadedModel) -> str | None:
    """Return why keys and values of a prefix cannot be kept for this model, None where they can.

    Not shared: PaliGemma (a prompt's tokens all see one another), models with linear attention or convolutions among
    their layers (Qwen3.5, LFM2: a state instead of keys and values), those that share keys and values between layers,
    those with an encoder of their own for text or with cross-attention to images (mllama), those whose rotary positions
    depend on the length. They are asked by plain `generate` on whole prompts, a batch at a time.
    """
    network = bare_network(loaded)
    config = network.config
    text = config.get_text_config()
    if config.model_type in WHOLE_PROMPTS or getattr(text, "use_bidirectional_attention", None) is True:
        return "the tokens of a prompt all see one another"
    if config.is_encoder_decoder or getattr(text, "cross_attention_layers", None):
        return "it has cross-attention"
    if other := sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}):
        return f"it has layers of type '{other[0]}'"
    if not {type(layer) for layer in DynamicCache(config=text).layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return "some of its layers keep a state, not keys and values"
    if getattr(text, "num_kv_shared_layers", None):
        return "its layers share keys and values"
    if _kinds_of_positions(text) & set(SCALED_BY_LENGTH):
        return "its positions depend on how much is read at once"
    if "past_key_values" not in inspect.signature(network.forward).parameters:
        return "it takes no keys and values"
    return None


def _kinds_of_positions(text: Any) -> set[str]:
    # {"rope_type": ...} for all layers, or one such for each type of layer: {"full_attention": {...}, ...}
    given = getattr(text, "rope_parameters", None) or {}
    sets = [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]
    return {str(one.get("rope_type")) for one in sets}


def make_prompt(loaded: LoadedModel, encoded: Any, shown: tuple[str, ...]) -> Prompt | None:
    """Return the only row of what the processor made as a prompt; None where its prefix cannot be read alone.

    Args:
        encoded: input_ids (1, length), other inputs of that length, and image tensors. shown: names its images.
    """
    network = bare_network(loaded)
    ids = encoded["input_ids"]
    types = {
        name: encoded[name]
        for name in TOKEN_INPUTS[2:]
        if name in encoded and name in inspect.signature(network.forward).parameters
    }
    images = {name: value for name, value in encoded.items() if name not in TOKEN_INPUTS}
    if any(name.endswith(("input_ids", "attention_mask")) and name != "pixel_attention_mask" for name in images):
        return None  # of the question too, as in InstructBLIP
    prefix = _end_of_images(network, ids[0], types) if images else 0
    if images and not 0 < prefix < ids.shape[1]:
        return None
    return Prompt(
        ids=ids[0],
        positions=_positions(network, ids, types, images),
        types={name: kind[0] for name, kind in types.items()},
        images=images,
        shown=shown,
        prefix=prefix,
    )


def _end_of_images(network: Any, ids: torch.Tensor, types: dict[str, torch.Tensor]) -> int:
    """Return how many of the (length,) ids end with the last one that belongs to an image."""
    marks = [kind[0] > 0 for kind in types.values()]
    if (image := image_token_id(network)) is not None:
        marks.append(ids == image)
    places = [int(mark.nonzero()[-1]) for mark in marks if bool(mark.any())]
    return max(places, default=-1) + 1


def image_token_id(network: Any) -> int | None:
    """Return the id that stands for images in a model's prompts; families name it differently."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(getattr(network.config, name, None), int):
            return int(getattr(network.config, name))
    return None


def _positions(network: Any, ids: torch.Tensor, types: dict[str, torch.Tensor], images: dict[str, Any]) -> torch.Tensor:
    """Return the (axes, length) positions of one row."""
    if not hasattr(network.base_model, "get_rope_index"):
        return torch.arange(ids.shape[1])[None]
    grids = {name: grid for name, grid in images.items() if name.endswith("grid_thw")}
    if not grids:
        return torch.arange(ids.shape[1]).expand(3, -1)
    found, _ = network.base_model.get_rope_index(ids, **types, **grids)  # (axes, 1, length)
    axes: torch.Tensor = found[:, 0]
    return axes


def bare_network(loaded: LoadedModel) -> Any:
    """Return the network under PEFT."""
    return loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model


class PrefixReader:
    """Reads prompts through a model; the keys and values of what they share are kept until `forget`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._network = bare_network(loaded)
        self._kept: dict[tuple[Any, ...], DynamicCache] = {}
        self._in_place = not _has_windows(self._network.config.get_text_config())
        takes = inspect.signature(self._network.forward).parameters
        self._options = {"use_cache": True, **({"logits_to_keep": 1} if "logits_to_keep" in takes else {})}

    def forget(self) -> None:
        """Let go of all prefixes."""
        self._kept.clear()

    def copy_prefixes(self) -> None:
        """From now on give every row a copy of its prefix: the model's attention cannot be told of shared ones."""
        self._in_place = False

    @contextmanager
    def read(self, prompts: Sequence[Prompt], *, branches: int, pad_id: int) -> Iterator[dict[str, Any]]:
        """Give the inputs from which `generate` goes on within the block: all but each prompt's last token is read.

        Args:
            branches: beams of each prompt; the cache has rows for all of them, the other inputs one for each prompt.

        Yields:
            input_ids and attention_mask (prompts, length), left-padded; past_key_values (prompts * branches rows);
            position_ids (axes, prompts, length) for families with several axes.

        Raises:
            NotAttended: the model's attention cannot be told of shared prefixes; `copy_prefixes` helps.
        """
        inputs = {
            "input_ids": torch.stack([_left_padded(one.ids, prompts, fill=pad_id) for one in prompts]),
            "attention_mask": torch.stack([_left_padded(torch.ones_like(one.ids), prompts, fill=0) for one in prompts]),
        }
        if len(prompts[0].positions) > 1:
            rows = [_left_padded(one.positions, prompts, fill=0) for one in prompts]  # (axes, length) each
            inputs["position_ids"] = torch.stack(rows, dim=1)
        moved = {name: self._on_device(value) for name, value in inputs.items()}
        prefixes = [self._prefix_of(prompt) if prompt.prefix else None for prompt in prompts]
        if not self._in_place or None in prefixes:
            cache = self._with_copies(prompts, prefixes, branches)
            yield {**moved, "past_key_values": cache}
            return
        cache = self._with_shared(prompts, [prefix for prefix in prefixes if prefix is not None], branches)
        with attending_to(self._network, cache):
            yield {**moved, "past_key_values": cache}

    def _prefix_of(self, prompt: Prompt) -> DynamicCache:
        key = prompt.shared
        if key not in self._kept:
            cache, end = DynamicCache(), prompt.prefix
            self._forward(
                cache,
                prompt.ids[None, :end],
                torch.ones(1, end, dtype=torch.long),
                prompt.positions[:, None, :end],
                **{name: kind[None, :end] for name, kind in prompt.types.items()},
                **prompt.images,
            )
            self._kept[key] = cache
        return self._kept[key]

    def _with_copies(
        self, prompts: Sequence[Prompt], prefixes: Sequence[DynamicCache | None], branches: int
    ) -> BranchedCache:
        cache = _side_by_side(prompts, prefixes)
        self._read_rest(prompts, cache)
        longest = max(one.prefix for one in prompts)
        length = max(len(one.ids) for one in prompts) - 1
        places = [slice(longest - one.prefix, longest - one.prefix + len(one.ids) - 1) for one in prompts]
        return BranchedCache([BranchedLayer(spread(layer, places, length, branches), length) for layer in cache.layers])

    def _with_shared(self, prompts: Sequence[Prompt], prefixes: Sequence[DynamicCache], branches: int) -> BranchedCache:
        together = _standing_together(prompts)
        layers, seen = stack([prefixes[first] for first in together])  # (prefixes, length)
        seen = seen.repeat_interleave(len(prompts) // len(together), dim=0)
        longest = seen.shape[1]
        cache = BranchedCache([BranchedLayer.empty(one, len(prompts), before=longest) for one in layers], seen)
        with attending_to(self._network, cache):
            self._read_rest(prompts, cache)
        places = [slice(0, len(one.ids) - one.prefix - 1) for one in prompts]
        own = max(place.stop for place in places)
        before = max(len(one.ids) for one in prompts) - 1 - own
        read = torch.stack([torch.arange(own) >= own - place.stop for place in places]).to(seen.device)
        return BranchedCache(
            [
                BranchedLayer(spread(layer, places, own, branches), own, prefixes=layer.prefixes, before=before)
                for layer in cache.layers
            ],
            torch.cat((seen, read), dim=1).repeat_interleave(branches, dim=0),
        )

    def _read_rest(self, prompts: Sequence[Prompt], cache: DynamicCache) -> None:
        """Read on from the prefixes, up to the last token of each; filled up at the right, which nothing looks at."""
        counts = [len(one.ids) - one.prefix - 1 for one in prompts]
        longest = max(one.prefix for one in prompts)
        width = max(counts)
        if width == 0:
            return
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        positions = torch.zeros(len(prompts[0].positions), len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest + width, dtype=torch.long)
        for row, (one, count) in enumerate(zip(prompts, counts, strict=True)):
            ids[row, :count] = one.ids[one.prefix : -1]
            positions[:, row, :count] = one.positions[:, one.prefix : -1]
            mask[row, longest - one.prefix : longest + count] = 1
        self._forward(cache, ids, mask, positions)

    def _forward(
        self, cache: DynamicCache, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, **more: Any
    ) -> None:
        """Read (rows, length) ids into the cache; positions are (axes, rows, length)."""
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions if len(positions) > 1 else positions[0],
            **more,
        }
        moved = {name: self._on_device(value) for name, value in inputs.items()}
        self._loaded.model(**moved, past_key_values=cache, **self._options)

    def _on_device(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self._loaded.device, dtype=self._loaded.model.dtype if value.is_floating_point() else None)


def _has_windows(text: Any) -> bool:
    """Whether a text model's tokens see only the last ones in some layer."""
    types = getattr(text, "layer_types", None)  # families without have the same window, or none, in every layer
    return "sliding_attention" in types if types else getattr(text, "sliding_window", None) is not None


def _standing_together(prompts: Sequence[Prompt]) -> list[int]:
    """Return the first of each run of prompts with the same prefix; all of them where runs are not equally long."""
    firsts = [row for row, one in enumerate(prompts) if row == 0 or one.shared != prompts[row - 1].shared]
    lengths = {end - start for start, end in pairwise([*firsts, len(prompts)])}
    return firsts if len(lengths) == 1 else list(range(len(prompts)))


def _left_padded(values: torch.Tensor, prompts: Sequence[Prompt], *, fill: int) -> torch.Tensor:
    """Return (..., length) values filled up at the left to the longest of the prompts."""
    missing = max(len(one.ids) for one in prompts) - values.shape[-1]
    return torch.nn.functional.pad(values, (missing, 0), value=fill)


def _side_by_side(prompts: Sequence[Prompt], prefixes: Sequence[DynamicCache | None]) -> DynamicCache:
    """Return a copy of each prompt's prefix as rows of one cache, padded at the left; empty where none has any."""
    cache, longest = DynamicCache(), max(one.prefix for one in prompts)
    known = next((prefix for prefix in prefixes if prefix is not None), None)
    for number, layer in enumerate(known.layers if known is not None else ()):
        parts = []
        for name in ("keys", "values"):
            first = getattr(layer, name)  # (1, heads, prefix, width)
            rows = first.new_zeros(len(prompts), first.shape[1], longest, first.shape[3])
            for row, (one, prefix) in enumerate(zip(prompts, prefixes, strict=True)):
                if prefix is not None:
                    rows[row, :, longest - one.prefix :] = getattr(prefix.layers[number], name)[0]
            parts.append(rows)
        cache.update(*parts, number)
    return cache
