"""A model with shapes and no numbers takes a training step, and the bytes that it would hold are counted."""

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import get_peft_model
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amp_cli.core.prompts import EncodedItem
from amp_cli.training.arguments import lora_config
from amp_cli.training.config import TrainConfig
from amp_cli.training.forward import SHARED_DENSE, ForwardPass
from amp_cli.training.head import token_logps
from amp_cli.training.layout import Batch
from amp_cli.training.logprobs import row_inputs, teach_log_probabilities


class Outline:
    """A policy without weights: its tensors know their shapes, number format and device, and take no memory."""

    def __init__(self, network: Any, config: TrainConfig, *, dtype: torch.dtype, autocast: bool) -> None:
        with torch.device("meta"):
            self.base = type(network)._from_config(copy.deepcopy(network.config), dtype=dtype)
            self.base.requires_grad_(False)
            teach_log_probabilities(self.base)
            self.model = get_peft_model(self.base, lora_config(config, self.base)).train()
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
        for depth in (2, 3):
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

    def picture_bytes(self, item: EncodedItem) -> tuple[int | None, int]:
        """Return the most bytes that encoding an item's pictures adds, and what their features take.

        None and 0 where shapes alone do not tell: some families read sizes out of tensors.
        """
        if not item.image_inputs:
            return 0, 0
        try:
            with self._counted() as counter, self._precision():
                features = self.model(pictures=[item.image_inputs])  # held until the block ends
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
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.held -= size
