"""A training worker in which accelerate takes the CPU for a GPU, since it offers FSDP and DeepSpeed on those alone."""

import os
import sys
from collections.abc import Sequence

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

from accelerate import PartialState
from accelerate.utils import DistributedType

from amp_cli.models.prompts import EncodedItem
from amp_cli.training import session, worker
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


PartialState._prepare_backend = lambda *args, **settings: ("gloo", DistributedType.MULTI_GPU)
session.trainer_arguments = lambda *args, **settings: {**arguments(*args, **settings), "use_cpu": False}
session.MDPOTrainer.__init__ = say_how
InStep.passes = say_passes
worker.main()
