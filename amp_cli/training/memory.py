"""Estimates what one device holds in training, and from that whether gradients need checkpointing.

    total = weights + adapter (16 bytes a weight) + the larger of: the tower alone; activations + head

Where devices share the base, each holds its share of weights and adapter, and puts some of the others' together for a
pass (`BaseShare`).

Activations come from an `Outline`: our own forward and backward pass over a model without weights, in which every
storage that is made and freed is counted (`LiveBytes`). They are measured where it is cheap and drawn out along two
straight lines. With d layers and items of one length:

    layers     peak(d) = peak(3) + (d - 3) * (peak(3) - peak(2))             one more layer, one more of the same
    items      peak(t) = one + (t - 1) * (two - one)                         t = tokens of a pass / tokens of an item

What a layer adds is, without checkpointing, all that its backward pass needs; with it, only its input: on the embedded
model, for one item of 4 levels, 1,004,696 bytes against 44,032.
"""

import copy
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amp_cli.models.precision import DTYPES, NOT_QUANTIZED, free_on
from amp_cli.models.prompts import EncodedItem
from amp_cli.training.arguments import with_fresh_adapter
from amp_cli.training.config import COPIES, FSDP, ZERO_2, ZERO_3, TrainConfig
from amp_cli.training.rows.families import stands_for_images
from amp_cli.training.rows.forward import SHARED_DENSE, ForwardPass
from amp_cli.training.rows.layout import Batch
from amp_cli.training.rows.logprobs import row_inputs, teach_log_probabilities, token_logps, trains_images

ADAPTER_BYTES = 16
"""Of an adapter's weight: itself, its gradient and AdamW's two moments, float32 each."""
BUCKET_BYTES = 4
"""Of an adapter's weight where several processes exchange gradients: DDP's buckets."""
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in NF4: 4 bits, an 8-bit scale for 64 of them, and a float32 scale for 256 of those."""
ZERO_3_LIVE = 1_000_000_000
"""Weights that DeepSpeed's ZeRO-3 keeps whole by default (stage3_max_live_parameters)."""
MARGINS = {"cuda": 0.1, "cpu": 0.5}
"""Share of a device's free memory that is left alone. The estimate is of tensors; on a GPU gaps between are small.

On a CPU, malloc kept once to twice as much again where it was measured (tests/bench/memory_estimate.py). Apple's GPUs,
which were not measured, are taken for a CPU.
"""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that one device holds, at most, for a forward and backward pass of `tokens` tokens.

    Attributes:
        weights: of the base, as they are stored. adapter: its weights, gradients and AdamW's moments.
        head: log-probabilities' buffers and slopes. activations, activations_checkpointed: all else of a pass, without
            and with gradient checkpointing.
        images: what the tower takes by itself, before the pass; None where it could not be estimated.
        gathered: others' shares of the weights that a pass puts together, where the base is shared by the devices.
        loading: most that is there before the first pass, where that is more than what stays.
        main_memory: that the main process reads the weights to, where they do not go to a device at once.
    """

    tokens: int
    weights: int
    adapter: int
    head: int
    activations: int
    activations_checkpointed: int
    images: int | None
    gathered: int = 0
    loading: int = 0
    main_memory: int = 0

    def of_pass(self, *, checkpointing: bool) -> int:
        """Return what comes and goes with each forward and backward pass."""
        activations = self.activations_checkpointed if checkpointing else self.activations
        return max(activations + self.head, self.images or 0)

    def total(self, *, checkpointing: bool) -> int:
        """Return all of it."""
        training = self.weights + self.gathered + self.adapter + self.of_pass(checkpointing=checkpointing)
        return max(training, self.loading)

    def to_json(self) -> dict[str, Any]:
        totals = {"total": self.total(checkpointing=False), "total_checkpointed": self.total(checkpointing=True)}
        parts = asdict(self)
        parts["pictures"] = parts.pop("images")  # `--json` keeps the key that it had first
        return {**parts, **totals}


def estimate_memory(
    network: Any,
    config: TrainConfig,
    items: Sequence[EncodedItem],
    *,
    precision: str,
    on_gpu: bool,
    processes: int,
    layout: str,
    sharing: str = COPIES,
) -> MemoryEstimate:
    """Estimate the largest forward and backward pass over items such as these.

    A copy of the model without weights goes through our own forward and backward pass, and the bytes of all storages
    that live at once are counted. Two depths and two lengths are tried: memory grows linearly in both.

    Args:
        network: the model without adapter; its class and configuration count.
        items: a sample, from which the longest is taken.
        precision: what it is loaded in. processes: that share an update. layout: one of `LAYOUTS`.
        sharing: one of `SHARINGS`: what of the model the processes share.
    """
    dtype = DTYPES[precision]
    at_once, _ = config.items_per_batch(processes)
    forward = ForwardPass(network=network, pad_id=0, layout=layout)
    longest = max(items, key=lambda item: forward.tokens([item]))
    own = forward.tokens([longest])
    tokens = own * at_once if config.method == "sft" else max(own, min(config.tokens_per_step, own * at_once))
    outline = Outline(network, config, dtype=dtype, autocast=on_gpu and dtype != torch.float32)
    # Images go through the tower before the pass, so that the language model's part is measured as if all were text.
    batch = forward.lay_out([_without_images(longest, network)])
    twice = batch if tokens == own else forward.lay_out([_without_images(longest, network)] * 2)
    forward = replace(forward, network=outline.base)
    images, features = outline.image_bytes(longest)
    times = tokens / own
    # held all through a pass, whatever the depth: the images' features, and the layer that is being unpacked
    fixed = features * times + _unpacked_bytes(outline.base, config, dtype)
    activations = []
    for on in (False, True):
        one = outline.pass_bytes(forward, _headless(batch), checkpointing=on)
        # A pass of one item needs no line, and half of the time.
        two = one if twice is batch else outline.pass_bytes(forward, _headless(twice), checkpointing=on)
        activations.append(round(one + (two - one) * (times - 1) + fixed))
    supervised = round(len(batch.targets) * times)
    shares = _shares(outline.base, config.quantization, sharing, processes)
    return MemoryEstimate(
        tokens=tokens,
        weights=shares.weights,
        gathered=shares.gathered,
        loading=shares.loading,
        main_memory=shares.main_memory,
        adapter=round(outline.adapter_weights * _adapter_bytes(sharing, processes)),
        head=outline.head_bytes(supervised) if config.method == "mdpo" else outline.full_head_bytes(tokens),
        activations=activations[0],
        activations_checkpointed=activations[1],
        images=None if images is None else round(images * times),
    )


@dataclass(frozen=True, kw_only=True)
class BaseShare:
    """Bytes of the base on one device: its share, what it puts together for a pass, and the most while it is loaded."""

    weights: int
    gathered: int = 0
    loading: int = 0
    main_memory: int = 0


def _shares(network: Any, quantization: str | None, sharing: str, processes: int) -> BaseShare:
    """Return what each device holds of the base.

    FSDP     a layer and the next one, and all outside the layers, are whole during a pass. A base that is not
             quantised arrives weight by weight from main memory, each whole for a moment, and once more on its way
    ZeRO-3   DeepSpeed keeps up to a billion weights whole, and is given a base that is whole on every device
    """
    whole = weight_bytes(network, quantization)
    if sharing not in (FSDP, ZERO_3):
        return BaseShare(weights=whole)
    share = -(-whole // processes)
    if sharing == ZERO_3:
        largest = max(weight.element_size() for weight in network.parameters())
        return BaseShare(weights=share, gathered=min(whole - share, ZERO_3_LIVE * largest), loading=whole)
    layers = network.get_decoder().layers
    each = [weight_bytes(layer, quantization) for layer in layers]
    gathered = min(whole - share, 2 * max(each) + whole - sum(each))
    if quantization is not None:
        return BaseShare(weights=share, gathered=gathered, loading=whole + share)
    largest = max(weight.numel() * weight.element_size() for weight in network.parameters())
    return BaseShare(weights=share, gathered=gathered, loading=share + 2 * largest, main_memory=whole)


def _adapter_bytes(sharing: str, processes: int) -> float:
    """Return what an adapter's weight takes on one device."""
    if sharing in (FSDP, ZERO_3):
        return ADAPTER_BYTES / processes
    if sharing == ZERO_2:  # the moments are shared
        return ADAPTER_BYTES - 8 + 8 / processes + BUCKET_BYTES
    return ADAPTER_BYTES + (BUCKET_BYTES if processes > 1 else 0)


def choose_checkpointing(wanted: bool | None, estimate: MemoryEstimate, room: int) -> tuple[bool, str]:
    """Return whether to compute activations twice to hold fewer of them, and why, in a line.

    Args:
        wanted: what the user says; None for what the memory says.
        room: bytes of the device with the least, what training holds there already included.
    """
    if wanted is not None:
        return wanted, f"Gradient checkpointing: {'on' if wanted else 'off'}, as asked for"
    without, with_it = estimate.total(checkpointing=False), estimate.total(checkpointing=True)
    if without <= room:
        return False, f"Gradient checkpointing: off, since about {shown_bytes(without)} fit in {shown_bytes(room)}"
    why = f"about {shown_bytes(without)} are needed without it and {shown_bytes(with_it)} with it"
    return True, f"Gradient checkpointing: on, since {why}, and {shown_bytes(room)} are available"


def room_on(device: torch.device, *, held: int, processes: int) -> int:
    """Return the bytes that training may take on a device: most of what is free, and the `held` that it has already.

    On a CPU the processes share what is free.
    """
    shared_by = 1 if device.type == "cuda" else processes
    return round(free_on(device) / shared_by * (1 - MARGINS["cuda" if device.type == "cuda" else "cpu"])) + held


def spread_sample(count: int, most: int) -> list[int]:
    """Return up to `most` of the numbers below `count`, spread evenly."""
    return [number * count // min(count, most) for number in range(min(count, most))]


def shown_bytes(count: int) -> str:
    """Return bytes as people read them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def weight_bytes(network: Any, quantization: str | None) -> int:
    """Return what a model's weights take as they are loaded; those of an adapter within are not counted."""
    total = 0.0
    packed = {id(linear.weight) for linear in _quantized(network)} if quantization is not None else set()
    for name, weight in network.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            continue
        if id(weight) not in packed:
            total += weight.numel() * weight.element_size()
        elif quantization == "nf4":
            total += weight.numel() * NF4_BYTES
        else:
            total += weight.numel() + 4 * weight.shape[0]  # and a float32 scale for each row
    return round(total)


def _quantized(network: Any) -> Iterator[torch.nn.Linear]:
    """Return the linear layers that `precision.quantization_config` has bitsandbytes pack."""
    kept = re.compile(rf"(.*\.)?({'|'.join(NOT_QUANTIZED)})(\.|$)")
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and not kept.match(name):
            yield module


def _unpacked_bytes(network: Any, config: TrainConfig, dtype: torch.dtype) -> int:
    """Return what the largest quantised layer takes while it computes."""
    if config.quantization is None:
        return 0
    return max(linear.weight.numel() for linear in _quantized(network)) * dtype.itemsize


def _headless(batch: Batch) -> Batch:
    """Return the batch with one answer token: a large vocabulary takes its bytes before or after the layers' peak."""
    return replace(batch, predictors=batch.predictors[:1], targets=batch.targets[:1])


def _without_images(item: EncodedItem, network: Any) -> EncodedItem:
    """Return an item of as many tokens, all of them text: what the language model holds is the same."""
    other = item.beside_other_images

    def text(ids: torch.Tensor) -> torch.Tensor:
        return ids.masked_fill(stands_for_images(network, ids), 0)

    responses = tuple(replace(response, input_ids=text(response.input_ids)) for response in item.responses)
    beside = None if other is None else _without_images(other, network)
    return EncodedItem(responses=responses, image_inputs={}, beside_other_images=beside)


class Outline:
    """A policy without weights: its tensors know their shapes, number format and device, and take no memory."""

    def __init__(self, network: Any, config: TrainConfig, *, dtype: torch.dtype, autocast: bool) -> None:
        with torch.device("meta"):
            self.base = type(network)._from_config(copy.deepcopy(network.config), dtype=dtype)
            self.base.requires_grad_(False)
            teach_log_probabilities(self.base)
            self.model = with_fresh_adapter(self.base, config).train()
        self._trains_images = trains_images(self.base)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._pretend()
        self._autocast = autocast
        self.width = int(self.base.get_output_embeddings().weight.shape[1])
        trainable = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.adapter_weights = sum(weight.numel() for weight in trainable)
        with self.mode:
            for weight in trainable:
                weight.grad = torch.zeros_like(weight)  # from the pass before

    def _pretend(self) -> None:
        """Put the weights on a CPU that is none: attention on the meta device would be another."""
        pretended: dict[int, torch.nn.Parameter] = {}  # tied weights stay one
        with self.mode:
            for module in self.model.modules():
                for name, weight in module._parameters.items():
                    if weight is not None and id(weight) not in pretended:
                        empty = torch.empty(weight.shape, dtype=weight.dtype)
                        pretended[id(weight)] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
                    module._parameters[name] = None if weight is None else pretended[id(weight)]
                for name, buffer in module._buffers.items():
                    module._buffers[name] = buffer if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)

    def pass_bytes(self, forward: ForwardPass, batch: Batch, *, checkpointing: bool) -> int:
        """Return the most bytes that a forward and backward pass over `batch` adds."""
        if checkpointing:
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            self.base.gradient_checkpointing_disable()
        forward.use()
        decoder = self.base.get_decoder()
        layers = decoder.layers
        found = []
        for depth in (2, 3):  # cut short: tracing takes as long as there are layers
            decoder.layers = layers[:depth]
            found.append(self._pass_of_depth(forward, batch))
        decoder.layers = layers
        return found[1] + (found[1] - found[0]) * max(0, len(layers) - 3)

    def _pass_of_depth(self, forward: ForwardPass, batch: Batch) -> int:
        inputs = row_inputs(batch, dense_mask=forward.layout == SHARED_DENSE)
        with self._counted() as counter:
            with self._precision():
                logps = self.model(**inputs, predictors=batch.predictors, targets=batch.targets)  # (N,)
            logps.double().sum().backward()
        return counter.peak

    def head_bytes(self, count: int) -> int:
        """Return the most bytes that the log-probabilities of `count` tokens add."""
        with self._counted() as counter, self._precision():
            hidden, targets = self._hidden(count)
            before = counter.held
            token_logps(self.base.get_output_embeddings(), hidden, targets)
        return counter.peak - before

    def full_head_bytes(self, count: int) -> int:
        """Return the same where all logits are there at once, with their gradients, as in plain fine-tuning."""
        with self._counted() as counter:
            hidden, targets = self._hidden(count)
            before = counter.held
            with self._precision():
                logits = self.base.get_output_embeddings()(hidden)  # (count, vocabulary)
                loss = cross_entropy(logits.float(), targets)
            torch.autograd.backward(loss)
        return counter.peak - before

    def _hidden(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self.base.get_output_embeddings().weight.dtype
        hidden = torch.empty(count, self.width, dtype=dtype, requires_grad=True)
        return hidden, torch.empty(count, dtype=torch.long)

    def image_bytes(self, item: EncodedItem) -> tuple[int | None, int]:
        """Return the most bytes that encoding an item's images adds, and what stays of it for the rest of the pass.

        That is their features, and what the backward pass needs where the projector is trained.

        None and 0 where shapes alone do not tell: some families read sizes out of tensors.
        """
        if not item.image_inputs:
            return 0, 0
        try:
            with self._counted() as counter, self._precision():
                parts = [part.image_inputs for part in item.parts]
                if self._trains_images:
                    features: Any = [vars(self.base.model.get_image_features(**one)) for one in parts if one]
                    kept = counter.held
                else:
                    features = self.model(images=parts)  # held until the block ends
                    kept = sum(leaf.untyped_storage().nbytes() for leaf in tree_leaves(features))
        except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException):
            return None, 0
        return counter.peak, kept

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self._autocast else nullcontext()

    @contextmanager
    def _counted(self) -> Iterator["LiveBytes"]:
        known = [*self.model.parameters(), *self.model.buffers()]
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        with self.mode, LiveBytes([*known, *gradients]) as counter:
            yield counter


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Adds up the storages that are made within the block and still live."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor its constructor
        self.held = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        # By storage, not by tensor: a view takes no memory. Its address is free for another one when it dies.
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.held -= size
