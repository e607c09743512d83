"""Reads what prompts share once: an image's tokens for all questions about it, and a prompt for all of its beams.

Two questions about one image, two beams each; I are the image's tokens, q r s and t u those of the questions:

    read once    b I I I                keys and values of the prefix, kept for the next questions
    then         q r . / t .            the questions but for their last tokens, filled up at the right
    then         . b I I I q r  x2      one row for each beam; padding moved to the left
                 . . b I I I t  x2      from here `generate` goes on with the last tokens, s and u
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from amp_cli.models.load import LoadedModel

WHOLE_PROMPTS = ("paligemma",)
"""Model types in which all tokens of a prompt see one another: no part of it can be read before the rest."""

SCALED_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions that depend on how much is read at once."""

TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What processors give with a value for each token; all else must be made of the images alone."""

GROWTH = 32
"""Tokens that an answer's place in memory begins with; it doubles when they are written."""


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
    network = _bare(loaded)
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
    network = _bare(loaded)
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


def _positions(
    network: Any, ids: torch.Tensor, types: dict[str, torch.Tensor], images: dict[str, Any]
) -> torch.Tensor:
    """Return the (axes, length) positions of one row."""
    if not hasattr(network.base_model, "get_rope_index"):
        return torch.arange(ids.shape[1])[None]
    grids = {name: grid for name, grid in images.items() if name.endswith("grid_thw")}
    if not grids:
        return torch.arange(ids.shape[1]).expand(3, -1)
    found, _ = network.base_model.get_rope_index(ids, **types, **grids)  # (axes, 1, length)
    axes: torch.Tensor = found[:, 0]
    return axes


def _bare(loaded: LoadedModel) -> Any:
    """Return the network under PEFT."""
    return loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model


class PrefixReader:
    """Reads prompts through a model; the keys and values of what they share are kept until `forget`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._kept: dict[tuple[Any, ...], DynamicCache] = {}
        takes = inspect.signature(_bare(loaded).forward).parameters
        self._options = {"use_cache": True, **({"logits_to_keep": 1} if "logits_to_keep" in takes else {})}

    def forget(self) -> None:
        """Let go of all prefixes."""
        self._kept.clear()

    def read(self, prompts: Sequence[Prompt], *, branches: int, pad_id: int) -> dict[str, Any]:
        """Return the inputs from which `generate` goes on: all but the last token of each prompt is read.

        Args:
            branches: beams of each prompt; the cache has rows for all of them, the other inputs one for each prompt.

        Returns:
            input_ids and attention_mask (prompts, length), left-padded; past_key_values (prompts * branches rows);
            position_ids (axes, prompts, length) for families with several axes.
        """
        prefixes = [self._prefix_of(prompt) if prompt.prefix else None for prompt in prompts]
        read = self._read_rest(prompts, _side_by_side(prompts, prefixes))
        device = self._loaded.device
        positions = {}
        if len(prompts[0].positions) > 1:
            rows = [_left_padded(one.positions, prompts, fill=0) for one in prompts]  # (axes, length) each
            positions = {"position_ids": torch.stack(rows, dim=1).to(device)}
        return {
            "input_ids": torch.stack([_left_padded(one.ids, prompts, fill=pad_id) for one in prompts]).to(device),
            "attention_mask": torch.stack(
                [_left_padded(torch.ones_like(one.ids), prompts, fill=0) for one in prompts]
            ).to(device),
            "past_key_values": _branched(prompts, read, branches),
            **positions,
        }

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

    def _read_rest(self, prompts: Sequence[Prompt], cache: DynamicCache) -> DynamicCache:
        """Read on from the prefixes, up to the last token of each; filled up at the right, which nothing looks at."""
        counts = [len(one.ids) - one.prefix - 1 for one in prompts]
        longest = max(one.prefix for one in prompts)
        width = max(counts)
        if width == 0:
            return cache
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        positions = torch.zeros(len(prompts[0].positions), len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest + width, dtype=torch.long)
        for row, (one, count) in enumerate(zip(prompts, counts, strict=True)):
            ids[row, :count] = one.ids[one.prefix : -1]
            positions[:, row, :count] = one.positions[:, one.prefix : -1]
            mask[row, longest - one.prefix : longest + count] = 1
        self._forward(cache, ids, mask, positions)
        return cache

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


def _left_padded(values: torch.Tensor, prompts: Sequence[Prompt], *, fill: int) -> torch.Tensor:
    """Return (..., length) values filled up at the left to the longest of the prompts."""
    missing = max(len(one.ids) for one in prompts) - values.shape[-1]
    return torch.nn.functional.pad(values, (missing, 0), value=fill)


def _side_by_side(prompts: Sequence[Prompt], prefixes: Sequence[DynamicCache | None]) -> DynamicCache:
    """Return the prompts' prefixes as rows of one cache, which is empty where none has any; padding at the left."""
    cache, longest = DynamicCache(), max(one.prefix for one in prompts)
    known = next((prefix for prefix in prefixes if prefix is not None), None)
    for number in range(len(known.layers) if known is not None else 0):
        assert known is not None
        parts = []
        for name in ("keys", "values"):
            first = getattr(known.layers[number], name)  # (1, heads, prefix, width)
            rows = first.new_zeros(len(prompts), first.shape[1], longest, first.shape[3])
            for row, (one, prefix) in enumerate(zip(prompts, prefixes, strict=True)):
                if prefix is not None:
                    rows[row, :, longest - one.prefix :] = getattr(prefix.layers[number], name)[0]
            parts.append(rows)
        cache.update(*parts, number)
    return cache


def _branched(prompts: Sequence[Prompt], read: DynamicCache, branches: int) -> DynamicCache:
    """Return the prompts as rows of a cache, each as often as it has branches; padding moved to the left."""
    cache, longest = DynamicCache(), max(one.prefix for one in prompts)
    length = max(len(one.ids) for one in prompts) - 1
    for layer in read.layers:
        buffers = []
        for source in (layer.keys, layer.values):  # (prompts, heads, read, width)
            _, heads, _, width = source.shape
            buffer = source.new_empty(len(prompts) * branches, heads, length + GROWTH, width)
            for row, one in enumerate(prompts):
                start = length - len(one.ids) + 1
                rows = buffer[row * branches : (row + 1) * branches]
                rows[:, :, :start] = 0
                rows[:, :, start:length] = source[row, :, longest - one.prefix :][:, : length - start]
            buffers.append(buffer)
        cache.layers.append(BranchedLayer(*buffers, length))
    return cache


class BranchedLayer(DynamicLayer):
    """Keys and values of prompts and of what their branches write; a prompt's are the same in all of its branches.

    So beams that take each other's place exchange only what they wrote, and nothing moves as an answer grows.
    """

    is_croppable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        """Take over buffers (rows, heads, room, width) whose first `length` places are the prompts'."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._buffers = [keys, values]
        self._prompt, self._length = length, length
        self._show()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (rows, heads, new, width) of each and return all there are."""
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
