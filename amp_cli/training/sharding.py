"""A model that several processes hold together: how it is loaded in shares (FSDP 2), and what keeps its calls in step.

    main process      reads the base to main memory          then, weight by weight: to the device, told to all,
    other processes   build it without weights, on `meta`     and each keeps its share

A base in 4 bits is small, and what its packed weights mean lies beside them: each process packs all of it on its own
device, and then keeps its share.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.config import COPIES, FSDP, ZERO_2, ZERO_3
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.layout import parts_of, spread
from amp_cli.training.rows.logprobs import tower_calls


def how_shared() -> str:
    """Return which of `SHARINGS` accelerate has started this process for."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return FSDP
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true":
        return COPIES
    return {"2": ZERO_2, "3": ZERO_3}.get(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"), COPIES)


def shards_by_fsdp() -> bool:
    """Whether this process holds a share of the model by FSDP."""
    return how_shared() == FSDP


def shard(model: Any, dtype: torch.dtype, *, on_gpu: bool) -> None:
    """Leave each process its share of a PeftModel, on its device; adapter weights stay float32.

    Args:
        model: whole in the main process; in the others whole too, or without weights. dtype: that it computes in.
    """
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # FSDP shards by layer; the classes that models name for it include some that these models do not have
    os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", type(model.get_decoder().layers[0]).__name__)
    # accelerate's own policy would round log-probabilities and summed gradients to 16 bits too
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if on_gpu else None
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=True, mixed_precision_policy=policy
    )
    accelerator = Accelerator(mixed_precision="no", fsdp_plugin=plugin)
    _tell_loose_tensors(model, accelerator.device)
    fsdp2_prepare_model(accelerator, model)
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "NO_WRAP"  # the trainer's own accelerator must not look for layers to cut


def _tell_loose_tensors(model: Any, device: torch.device) -> None:
    """Give every process the main one's tensors that are no weights, such as rotary frequencies and position ids.

    They are in no checkpoint, so nothing else would bring them to a model without weights.
    """
    places = list(_loose_tensors(model))
    # pickled, since a broadcast between devices would need to know their shapes before
    (told,) = broadcast_object_list([[getattr(module, name).cpu() for module, name in places if _is_main()]])
    for (module, name), value in zip(places, told, strict=True):
        setattr(module, name, value.to(device))


def _is_main() -> bool:
    return torch.distributed.get_rank() == 0


def _loose_tensors(model: Any) -> Iterator[tuple[torch.nn.Module, str]]:
    for module in model.modules():
        found = {**module._buffers, **vars(module)}
        yield from ((module, name) for name, value in found.items() if isinstance(value, torch.Tensor))


def give_empty_shares_names(model: Any) -> None:
    """Let accelerate tell apart the weights of which this process holds nothing: it knows them by their addresses.

    A LoRA matrix of 4 rows has no share for the fifth of 8 processes, and all tensors without numbers are at 0.
    """
    for number, weight in enumerate(model.parameters(), start=1):
        if hasattr(weight, "to_local") and not weight.to_local().numel():
            weight._local_tensor.data_ptr = lambda address=-number: address


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the whole trained weights, put together from all processes, on the CPU of the main one; {} in others."""
    whole: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            value = weight.detach().full_tensor()  # every process takes part
            if _is_main():
                whole[name] = value.cpu()
    return whole


@torch.no_grad()
def set_trained_weights(model: Any, whole: dict[str, torch.Tensor]) -> None:
    """Put whole weights, named as in an adapter's file, in place of the trained ones, of which each keeps its share.

    Raises:
        KeyError: one of them is not there.
    """
    from torch.distributed.tensor import distribute_tensor

    for name, weight in model.named_parameters():
        if weight.requires_grad:
            stored = name.replace(".modules_to_save.", ".").replace(".default.", ".")
            value = whole[stored].to(weight.device, weight.dtype)
            weight.copy_(distribute_tensor(value, weight.device_mesh, weight.placements))


def _tower_calls(items: Sequence[EncodedItem]) -> int:
    return tower_calls([part.image_inputs for part in parts_of(items)])


@dataclass(frozen=True, kw_only=True)
class Passes:
    """This process's share of one update, cut into forward passes, as every other process makes them too.

    Attributes:
        items: what each pass holds; a pass may be empty.
        tower_calls: how often each pass calls the tower where the processes share one model.
    """

    items: list[list[EncodedItem]]
    tower_calls: int


@dataclass(frozen=True, kw_only=True)
class InStep:
    """What makes every process make the same calls, whatever its items hold: each waits for the others at some of them.

    Attributes:
        fill: an item, with images if any has some, that is read without weight where there is nothing else to read.
        shares_model: whether the processes hold one model together, so that even single calls must agree.
    """

    forward: ForwardPass
    fill: EncodedItem
    shares_model: bool
    device: torch.device

    def passes(self, items: Sequence[EncodedItem], budget: int) -> Passes:
        """Cut items into forward passes within `budget` tokens, as many as every other process makes."""
        passes = self.forward.cut(items, budget)
        calls = [_tower_calls([items[number] for number in one]) for one in passes]
        own = torch.tensor([[len(passes), max(calls, default=0)]], device=self.device)
        most, most_calls = gather(own).amax(dim=0).tolist()
        return Passes(
            items=[[items[number] for number in one] for one in spread(passes, max(1, most))],
            tower_calls=max(most_calls, _tower_calls([self.fill])),
        )

    def filled(
        self, items: Sequence[EncodedItem], calls: int
    ) -> tuple[list[EncodedItem], list[dict[str, torch.Tensor]]]:
        """Return what a pass reads, items without weight at the end, and the images that it encodes for nothing."""
        read = list(items)
        # Images that go in with the tokens are encoded in the forward pass itself: one item must have some.
        has_images = any(item.image_inputs for item in items)
        lacks_images = self.shares_model and calls and not self.forward.image_once and not has_images
        if not items or lacks_images:
            read.append(self.fill)
        if not self.shares_model or not self.forward.image_once:
            return read, []
        missing = calls - _tower_calls(read)
        return read, [self.fill.image_inputs] * (missing if self.fill.image_inputs else 0)

    def any_process(self, says: bool) -> bool:
        """Return whether any process says so."""
        return bool(gather(torch.tensor([says], device=self.device)).any())
