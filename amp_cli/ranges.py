"""What every number may be: its range stands here once, for the command line, the records and `--set`."""

import math
from dataclasses import fields
from typing import TYPE_CHECKING

from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MANY = 1_000_000_000
RANGES: dict[str, tuple[float, float]] = {
    # decoding
    "num_beams": (1, 64),
    "temperature": (0.0, 10.0),
    "top_p": (1e-6, 1.0),
    "repetition_penalty": (0.01, 10.0),
    "no_repeat_ngram_size": (0, 1000),
    "max_new_tokens": (1, 65_536),
    # running
    "batch_size": (1, 4096),
    "concurrency": (1, 1024),
    "num_processes": (1, 1024),
    "seed": (0, 2**32 - 1),  # as much as NumPy takes
    "port": (1, 65_535),
    "images": (1, 1000),
    # data
    "limit": (1, MANY),
    "limit_seed": (0, 2**32 - 1),
    "max_items": (1, 100_000),
    "thumbnail": (16, 2048),
    "held_out": (0.0, 0.999),
    "levels": (2, 8),
    "samples": (1, 8),
    "tau": (-1.0, 1.0),  # a cosine
    # judge
    "judge_temperature": (0.0, 10.0),
    "judge_max_tokens": (1, 1_000_000),
    "judge_concurrency": (1, 1024),
    "judge_timeout": (1.0, 86_400.0),
    "max_cost": (0.0, 1e9),
    "repeat": (1, 100),
    # training
    "beta": (0.0, 1e9),
    "penalty": (0.0, 1e9),
    "round_weight": (0.0, 1e9),
    "image_weight": (0.0, 1e9),
    "sft_weight": (0.0, 1e9),
    "gap_weight": (0.0, 1.0),
    "length_balance": (0.0, 1.0),
    "length_alpha": (-1e3, 1e3),
    "lora_r": (1, 16_384),
    "lora_alpha": (1, 65_536),
    "lora_dropout": (0.0, 0.999),
    "learning_rate": (1e-12, 1e9),
    "warmup_steps": (0.0, 1e9),
    "epochs": (1e-6, 1e6),
    "max_steps": (1, MANY),
    "global_batch_size": (1, 1_000_000),
    "per_device_batch_size": (1, 65_536),
    "tokens_per_step": (1, MANY),
    "max_grad_norm": (0.0, 1e9),
    "max_length": (1, MANY),
    "max_pixels": (784, MANY),  # a token of 28 x 28
    "save_steps": (1, MANY),
    "logging_steps": (1, MANY),
    "eval_steps": (1, MANY),
    "patience": (1, MANY),
    "keep_checkpoints": (2, 1_000_000),
    "data_workers": (0, 256),
    "threads": (1, 1024),
    # an ablation
    "jobs": (1, 64),
    "job": (0, 63),
    # a pipeline
    "rounds": (1, 100),
    # a dry run
    "gpus": (1, 4096),
    "rate": (1, 1e9),
}
"""Setting -> the least and the greatest value. What none of them allows is a slip of the hand, or takes the machine."""


def refuse_out_of_range(record: "DataclassInstance") -> None:
    """Refuse a record of settings with a number that is not in its range; None is for the record to judge.

    Raises:
        AmpError: naming the setting.
    """
    for one in fields(record):
        value = getattr(record, one.name)
        if one.name in RANGES and value is not None:
            _refuse(one.name, value)


def _refuse(name: str, value: float) -> None:
    least, most = RANGES[name]
    shown, hint = f"{value!r:.40}", f"{name} may be from {least:g} to {most:,}"
    if math.isnan(value):
        raise AmpError(f"{name} must be a number, not {shown}", hint=hint)
    if value < least:
        raise AmpError(f"{name} must be at least {least:g}, not {shown}", hint=hint)
    if value > most:
        raise AmpError(f"{name} must be at most {most:,}, not {shown}", hint=hint)
