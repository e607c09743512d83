"""Incremental Generation: one base model fine-tuned on growing subsets gives candidates of growing quality."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from amp_cli.disk.jsonl import write_json, write_records
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.stored import Chosen
from amp_cli.errors import AmpError
from amp_cli.preferences.experts import Expert
from amp_cli.records import SourceItem

BASE = "base"


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How each model of the series is fine-tuned; the names are those of `amp train`'s settings.

    Attributes:
        epochs: passes over the model's own subset, so a larger subset takes more steps.
        max_steps: instead of epochs, optimiser steps on the first subset; subset i takes i times as many.
        more: further training settings (`--finetune-set`), texts or values.
    """

    epochs: float = 1.0
    max_steps: int | None = None
    learning_rate: float = 5e-5
    lora_r: int = 64
    lora_alpha: int = 16
    global_batch_size: int = 16
    more: Mapping[str, Any] = field(default_factory=dict)

    def settings_of(self, number: int) -> dict[str, Any]:
        """Return the training settings of subset `number` (from 1)."""
        length = {"epochs": self.epochs} if self.max_steps is None else {"max_steps": self.max_steps * number}
        return {
            **length,
            "learning_rate": self.learning_rate,
            "lora_r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "global_batch_size": self.global_batch_size,
            **self.more,
        }


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """One model of the series: what to fine-tune, on which file, with which settings, and where to.

    Attributes:
        data: JSONL of `SourceItem`s with absolute image paths.
        out: folder for the run; it may hold an unfinished one, which goes on.
        settings: fields of `training.config.TrainConfig`.
    """

    name: str
    base: str
    data: Path
    out: Path
    settings: Mapping[str, Any]
    seed: int


class Finetune(Protocol):
    """Fine-tunes as the job says and returns the finished adapter's folder."""

    def __call__(self, job: FinetuneJob) -> Path: ...


def series_names(levels: int) -> list[str]:
    """Return the sources below the standard response, best first: `ig-(K-2)` ... `ig-1`, `base`."""
    if levels < 3:
        raise AmpError(
            f"Incremental generation needs at least 3 levels, not {levels}: K levels take K - 2 fine-tuned models",
            hint="--levels 4, or --method meg with --expert base=MODEL for 2 levels",
        )
    return [*(f"ig-{number}" for number in range(levels - 2, 0, -1)), BASE]


def nested_subsets(items: Sequence[SourceItem], parts: int, *, seed: int) -> list[Sequence[SourceItem]]:
    """Shuffle F with the seed, split it into `parts` equal parts, return F1, F1+F2, ..., F.

    Where F does not divide evenly, the first parts have one item more.
    """
    if len(items) < parts:
        raise AmpError(
            f"The fine-tuning data has {len(items)} usable items, too few for {parts} parts",
            hint="Give more data with --finetune-data, or fewer --levels",
        )
    shuffled = list(range(len(items)))
    random.Random(seed).shuffle(shuffled)
    size, rest = divmod(len(shuffled), parts)
    sizes = [size * number + min(number, rest) for number in range(1, parts + 1)]
    return [Chosen(items, lambda item: item, shuffled[:count]) for count in sizes]


def finetune_series(
    base: str,
    items: Sequence[SourceItem],
    *,
    levels: int,
    tuning: FineTuning,
    finetune: Finetune,
    folder: Path,
    seed: int,
) -> list[Expert]:
    """Fine-tune the base on each subset, least data first, and return the series as experts, strong to weak.

    A subset whose adapter is finished (`<name>.json` beside it says where) is not trained again.
    """
    names = series_names(levels)
    experts = [Expert(name=BASE, model=base)]
    for number, subset in enumerate(nested_subsets(items, levels - 2, seed=seed), start=1):
        name = names[-1 - number]
        finished = folder / f"{name}.json"
        if not finished.exists():
            data = folder / f"{name}.jsonl"
            write_records(data, (item.to_json() for item in subset))
            adapter = finetune(
                FinetuneJob(
                    name=name,
                    base=base,
                    data=data,
                    out=folder / name,
                    settings=tuning.settings_of(number),
                    seed=seed,
                )
            )
            write_json(finished, {"adapter": os.path.relpath(adapter, folder), "items": len(subset)})
        experts.insert(
            0, Expert(name=name, model=base, adapter=str(folder / read_plain_object(finished, adapter=str)["adapter"]))
        )
    return experts
