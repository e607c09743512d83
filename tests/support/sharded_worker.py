"""A training worker in which accelerate takes the CPU for a GPU, since it offers FSDP and DeepSpeed on those alone."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from amp_cli.models.prompts import EncodedItem
from amp_cli.training import session, sharding, worker
from amp_cli.training.sharding import InStep, Passes

arguments = session.trainer_arguments
build = session.MDPOTrainer.__init__


def say_how(self: session.MDPOTrainer, *args: object, **settings: object) -> None:
    build(self, *args, **settings)
    sys.stderr.write(f"trains by {self.accelerator.distributed_type.value}\n")


cut = InStep.passes


def say_passes(self: InStep, items: Sequence[EncodedItem], budget: int) -> Passes:
    alone = self.forward.cut(items, budget)
    sys.stderr.write(f"process {PartialState().process_index} alone: {len(alone)}\n")
    return cut(self, items, budget)


cut_base = session.shard


def held(model: Any) -> int:
    """Return the bytes of the base that are in this process."""
    weights = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    own = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in weights]
    return sum(weight.numel() * weight.element_size() for weight in own if not weight.is_meta)


def say_shares(model: Any, dtype: torch.dtype, *, on_gpu: bool) -> None:
    before = held(model)
    cut_base(model, dtype, on_gpu=on_gpu)
    loose = [getattr(module, name) for module, name in sharding._loose_tensors(model)]
    told = {"before": before, "after": held(model), "loose": [float(one.double().sum()) for one in loose]}
    sys.stderr.write(f"shares of process {PartialState().process_index}: {json.dumps(told)}\n")


session.shard = say_shares
PartialState._prepare_backend = lambda *args, **settings: ("gloo", DistributedType.MULTI_GPU)
session.trainer_arguments = lambda *args, **settings: {**arguments(*args, **settings), "use_cpu": False}
session.MDPOTrainer.__init__ = say_how
InStep.passes = say_passes
worker.main()
