"""Measures variants of the step side by side: in alternating rounds, with checkpointing, in float64, by levels."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import torch
from mdpo_peers import Released, TrlPairs, forget_gradient, gradient, trl_variants
from mdpo_setting import Example, Setting, in_double, make_example, make_setting
from mdpo_variants import Ours, Variant
from measuring import (
    OWN_PAGES,
    Counted,
    Line,
    counted,
    cpu_seconds,
    fit_line,
    memory_source,
    peak_mb,
    relative_difference,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.rows.forward import ROWS, SHARED, ForwardPass
from amp_cli.training.rows.layout import unique_tokens


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A variant's step: CPU seconds (the least), operations, MiB above what was held, gradient."""

    what: str
    cpu_seconds: float
    counted: Counted
    peak_mb: float
    loss: float
    gradient: torch.Tensor  # (adapter parameters,)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The step on an item with so many levels."""

    levels: int
    unique_tokens: int
    cpu_seconds: float
    gflop: float  # without fused attention

    @property
    def seconds_per_1000_tokens(self) -> float:
        return 1000 * self.cpu_seconds / self.unique_tokens


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How the step's time grows with the item's levels; `line` is in seconds by unique tokens."""

    points: tuple[Point, ...]
    line: Line


def ours(setting: Setting, item: EncodedItem) -> dict[str, Ours]:
    """Return the product's step as plain rows, packed, and packed with the reference computed before."""
    ways = (
        ("rows", "our plain rows, reference in every step", ROWS, False),
        ("packed", "our packed rows, reference in every step", SHARED, False),
        ("packed_cached", "our packed rows, reference cached", SHARED, True),
    )
    return {
        key: Ours(
            key=key,
            what=what,
            policy=setting.policy,
            item=item,
            forward=ForwardPass(network=setting.network, pad_id=setting.pad_id, layout=layout),
            is_cached=is_cached,
        )
        for key, what, layout, is_cached in ways
    }


def own_variants(setting: Setting, example: Example) -> list[Variant]:
    """Return the released arithmetic and the product's step."""
    item = example.encoded
    released = Released(policy=setting.policy, reference=setting.base, item=item, pad_id=setting.pad_id)
    return [released, *ours(setting, item).values()]


def all_variants(setting: Setting, example: Example) -> list[Variant]:
    """Return every variant, the slowest first."""
    return [*trl_variants(setting, example), *own_variants(setting, example)]


COUNT, TIME = "count", "time"
MOST_OF_TRL = {COUNT: 1, TIME: 2}
"""On shape B a round of TRL's two forms takes two and a half times as long as one of all the others."""


@dataclass(kw_only=True)
class Taken:
    """What the rounds have taken of one variant so far."""

    counts: list[Counted] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def take(self, what: str, variant: Variant) -> None:
        """Make the step once and keep what this round is for."""
        variant.prepare()
        forget_gradient(variant.trained())

        def step() -> None:
            self.losses.append(variant.step())

        if what == COUNT:
            self.counts.append(counted(step, variant.networks()))
            self.gradients.append(gradient(variant.trained()))
        else:
            self.seconds.append(cpu_seconds(step))
        forget_gradient(variant.trained())


def measure(variants: Sequence[Variant], peaks: dict[str, float], *, repeats: int) -> dict[str, Measured]:
    """Measure the variants in turn, every other round in reverse: one round counts, the others are timed."""
    taken = {variant.key: Taken() for variant in variants}
    rounds = [COUNT, *[TIME] * repeats]
    for number, what in enumerate(rounds):
        for variant in variants if number % 2 else reversed(variants):
            if isinstance(variant, TrlPairs) and rounds[:number].count(what) >= MOST_OF_TRL[what]:
                continue
            taken[variant.key].take(what, variant)
    return {
        variant.key: Measured(
            what=variant.what,
            cpu_seconds=min(taken[variant.key].seconds),
            counted=taken[variant.key].counts[0],
            peak_mb=peaks[variant.key],
            loss=taken[variant.key].losses[0],
            gradient=taken[variant.key].gradients[0],
        )
        for variant in variants
    }


def checkpointed_variants(setting: Setting, example: Example) -> list[Variant]:
    """Return what is measured with gradient checkpointing too: the released arithmetic and our packed rows."""
    return [variant for variant in own_variants(setting, example) if variant.key != "rows"]


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Peak memory by variant, MiB, without and with gradient checkpointing, and what it was read from."""

    kept: dict[str, float]
    checkpointed: dict[str, float]
    source: str


def measure_peaks(shape: str, levels: int) -> Peaks:
    """Measure memory in a process of its own, which has done nothing before and has `OWN_PAGES`."""
    with patch.dict(os.environ, OWN_PAGES), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(peaks_here, shape, levels).result()


def peaks_here(shape: str, levels: int) -> Peaks:
    """Measure memory in this process."""
    torch.set_num_threads(1)
    setting = make_setting(shape)
    example = make_example(setting, levels)
    source = memory_source()

    def peaks(variants: Sequence[Variant]) -> dict[str, float]:
        found = {}
        for variant in variants:
            variant.prepare()
            found[variant.key] = peak_mb(variant.step, source)
            forget_gradient(variant.trained())
        return found

    kept = peaks(all_variants(setting, example))
    with checkpointing(setting.network):
        return Peaks(kept=kept, checkpointed=peaks(checkpointed_variants(setting, example)), source=source)


@contextmanager
def checkpointing(network: Any) -> Iterator[None]:
    """Have the network compute each layer's inside again in the backward pass, as our trainer asks for it."""
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        network.gradient_checkpointing_disable()
        network.disable_input_require_grads()  # else the first layer's inputs go on getting gradients


def measure_growth(setting: Setting, levels: Sequence[int], *, repeats: int) -> dict[str, Growth]:
    """Measure our packed rows on items with these numbers of levels, in turn, in twice the rounds: they are cheap."""
    items = {count: make_example(setting, count).encoded for count in levels}
    variants = {(key, count): ours(setting, item)[key] for count, item in items.items() for key in _PACKED}
    named = [replace(variant, key=f"{key} {count}") for (key, count), variant in variants.items()]
    seconds: dict[str, list[float]] = {variant.key: [] for variant in named}
    gflop: dict[str, float] = {}
    for number in range(2 * repeats + 1):
        for variant in named if number % 2 else reversed(named):
            variant.prepare()
            forget_gradient(setting.policy)
            if number == 0:
                gflop[variant.key] = counted(variant.step, variant.networks()).gflop
            else:
                seconds[variant.key].append(cpu_seconds(variant.step))
    forget_gradient(setting.policy)
    grown = {}
    for key in _PACKED:
        points = tuple(
            Point(
                levels=count,
                unique_tokens=unique_tokens(item),
                cpu_seconds=min(seconds[f"{key} {count}"]),
                gflop=gflop[f"{key} {count}"],
            )
            for count, item in items.items()
        )
        line = fit_line([point.unique_tokens for point in points], [point.cpu_seconds for point in points])
        grown[key] = Growth(points=points, line=line)
    return grown


_PACKED = ("packed", "packed_cached")


def largest_difference(gradients: dict[str, torch.Tensor]) -> float:
    """Return how far the packed rows' gradients are from the plain rows', as a share of it; the larger one."""
    return max(relative_difference(gradients[key], gradients["rows"]) for key in _PACKED)


def double_difference(setting: Setting, item: EncodedItem) -> float:
    """Return the same difference with everything in float64."""
    gradients = {}
    with in_float64(setting.policy):
        for key, variant in ours(setting, in_double(item)).items():
            variant.prepare()
            forget_gradient(setting.policy)
            variant.step()
            gradients[key] = gradient(setting.policy)
    forget_gradient(setting.policy)
    return largest_difference(gradients)


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Turn a model into float64, and back without loss.

    transformers' RMSNorm rounds to float32 inside, which would hide what we look for; here it does not.
    """

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)

    original = LlamaRMSNorm.forward
    LlamaRMSNorm.forward = forward
    model.double()
    try:
        yield
    finally:
        model.float()
        LlamaRMSNorm.forward = original


def trl_difference(setting: Setting, item: EncodedItem, measured: dict[str, Measured]) -> dict[str, float]:
    """Return how far TRL's gradients are from ours without the penalty term, over the mean of the same pairs."""
    without_penalty = replace(ours(setting, item)["packed"], penalty=0.0)
    without_penalty.prepare()
    forget_gradient(setting.policy)
    without_penalty.step()
    expected = gradient(setting.policy)
    forget_gradient(setting.policy)
    found = {key: one.gradient for key, one in measured.items() if key.startswith("trl")}
    return {key: relative_difference(one, expected) for key, one in found.items()}
