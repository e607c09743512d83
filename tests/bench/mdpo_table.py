"""What the benchmark of the step says: the bars of the issue, tables for people, one object for programs."""

from dataclasses import asdict, dataclass
from typing import Any

from mdpo_rounds import Growth, Measured

STEADY = 1.25
"""How much dearer a token may be with the most levels than with the fewest for the time to count as linear in tokens.

An answer's token costs a little more than a prompt's, since it sees the whole prefix and meets the head; a time that
grows with the square of the tokens would make it 1.74 times as dear on shape B with 8 levels as with 2.
"""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of the issue; `is_met` is computed from this run alone."""

    what: str
    wanted: str
    found: float
    is_met: bool


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that one run on one shape measured."""

    shape: str
    levels: int
    unique_tokens: int
    variants: dict[str, Measured]
    checkpointed: dict[str, Measured]
    growth: dict[str, Growth]
    float32_difference: float
    float64_difference: float
    released_difference: float
    trl_difference: dict[str, float]
    memory_source: str
    machine: dict[str, Any]


def bars(results: Results) -> list[Bar]:
    """Return every bar of the issue that a CPU can tell."""
    found = results.variants
    packed, cached = found["packed"], found["packed_cached"]

    def at_least(what: str, slow: Measured, fast: Measured, wanted: float) -> Bar:
        ratio = slow.cpu_seconds / fast.cpu_seconds
        return Bar(what=what, wanted=f">= {wanted}", found=ratio, is_met=ratio >= wanted)

    def below(what: str, value: float, wanted: float) -> Bar:
        return Bar(what=what, wanted=f"< {wanted:g}", found=value, is_met=value < wanted)

    memory = max(packed.peak_mb, cached.peak_mb) / found["released"].peak_mb
    return [
        at_least("packed, times the released arithmetic", found["released"], packed, 2.8),
        at_least("packed and cached, times the released arithmetic", found["released"], cached, 3.8),
        at_least("packed, times TRL's pairs in one batch", found["trl_pairs"], packed, 8.0),
        at_least("packed, times TRL's pairs one by one", found["trl_pairs_micro"], packed, 8.0),
        Bar(
            what="peak memory, share of the released arithmetic's", wanted="<= 0.4", found=memory, is_met=memory <= 0.4
        ),
        below("gradient against plain rows, float32", results.float32_difference, 1e-5),
        below("gradient against plain rows, float64", results.float64_difference, 1e-12),
        *linear_bars(results.growth["packed"]),
    ]


def linear_bars(growth: Growth) -> list[Bar]:
    """Time by unique tokens: on a straight line, and one that is not steeper than through nothing."""
    fewest, most = growth.points[0], growth.points[-1]
    ratio = most.seconds_per_1000_tokens / fewest.seconds_per_1000_tokens
    what = f"seconds per token with {most.levels} levels, times those with {fewest.levels}"
    return [
        Bar(
            what="r2 of a line, seconds by tokens",
            wanted=">= 0.99",
            found=growth.line.r2,
            is_met=growth.line.r2 >= 0.99,
        ),
        Bar(what=what, wanted=f"<= {STEADY}", found=ratio, is_met=ratio <= STEADY),
    ]


def to_json(results: Results) -> dict[str, Any]:
    """Return the object of contract.md, and what came with it."""
    variants = {key: _variant(one, results.unique_tokens) for key, one in results.variants.items()}
    checkpointed = {key: _variant(one, results.unique_tokens) for key, one in results.checkpointed.items()}
    return {
        "variants": variants,
        "gradient_relative_error": {"fp32": results.float32_difference, "fp64": results.float64_difference},
        "gradient_against_released": results.released_difference,
        "gradient_against_trl": results.trl_difference,
        "checkpointing": checkpointed,
        "growth": {key: _growth(one) for key, one in results.growth.items()},
        "bars": [asdict(bar) for bar in bars(results)] if results.shape == "b" else [],
        "shape": results.shape,
        "levels": results.levels,
        "unique_tokens": results.unique_tokens,
        "peak_memory_by": results.memory_source,
        "machine": results.machine,
    }


def _variant(one: Measured, unique: int) -> dict[str, Any]:
    return {
        "cpu_seconds": one.cpu_seconds,
        "gflop": one.counted.gflop,
        "attention_gflop": one.counted.attention_gflop,
        "peak_mb": one.peak_mb,
        "loss": one.loss,
        "tokens_per_unique_token": one.counted.tokens / unique,
    }


def _growth(growth: Growth) -> dict[str, Any]:
    points = [{**asdict(one), "seconds_per_1000_tokens": one.seconds_per_1000_tokens} for one in growth.points]
    return {
        "points": points,
        "seconds_per_1000_more_tokens": 1000 * growth.line.slope,
        "seconds_at_none": growth.line.intercept,
        "r2": growth.line.r2,
    }


def for_people(results: Results) -> str:
    """Return the tables as plain text."""
    parts = [
        f"Shape {results.shape}: one item, {results.levels} levels, {results.unique_tokens} unique tokens, forward and "
        f"backward in one thread.\nGFLOP: by torch's counter, which leaves a CPU's fused attention out; this is beside "
        f"it, by the counter's formulas.\nPeak: above the weights held before, in a process of its own, by "
        f"{results.memory_source}.\n"
        f"Load of the machine: {results.machine['load_before']:.1f} before, {results.machine['load_after']:.1f} after.",
        _table(results.variants, results.unique_tokens),
        f"Gradient against plain rows: packed {results.float32_difference:.1e} in float32 and "
        f"{results.float64_difference:.1e} in float64; released arithmetic {results.released_difference:.1e}.\n"
        + "Gradient of TRL against packed without penalty: "
        + ", ".join(f"{key} {value:.1e}" for key, value in results.trl_difference.items()),
        "With gradient checkpointing:\n" + _table(results.checkpointed, results.unique_tokens),
        *(_growth_table(key, growth) for key, growth in results.growth.items()),
    ]
    if results.shape == "b":
        lines = (
            f"{bar.what:58} {bar.found:10.3g} {bar.wanted:>9}  {'met' if bar.is_met else 'NOT met'}"
            for bar in bars(results)
        )
        parts.append("Bars, computed from this run:\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _table(variants: dict[str, Measured], unique: int) -> str:
    released = variants["released"]
    lines = [
        f"{'':62} {'CPU s':>7} {'speed':>6} {'GFLOP':>6} {'+ attention':>11} {'tokens':>7} {'peak MB':>8} "
        f"{'peak':>6} {'loss':>11}"
    ]
    for one in variants.values():
        lines.append(
            f"{one.what:62} {one.cpu_seconds:7.3f} {released.cpu_seconds / one.cpu_seconds:5.2f}x "
            f"{one.counted.gflop:6.1f} {one.counted.attention_gflop:11.1f} {one.counted.tokens / unique:6.2f}x "
            f"{one.peak_mb:8.0f} {one.peak_mb / released.peak_mb:5.2f}x {one.loss:11.5f}"
        )
    return "\n".join(
        [*lines, "speed and peak against the released arithmetic; tokens through the decoder per unique token"]
    )


def _growth_table(key: str, growth: Growth) -> str:
    lines = (
        f"{one.levels:6} {one.unique_tokens:8} {one.cpu_seconds:8.3f} {one.seconds_per_1000_tokens:17.3f} "
        f"{one.gflop:8.1f}"
        for one in growth.points
    )
    head = f"{'levels':>6} {'unique':>8} {'CPU s':>8} {'s per 1000 unique':>17} {'GFLOP':>8}"
    fit = (
        f"line: {1000 * growth.line.slope:.3f} s for 1000 more tokens, {growth.line.intercept:+.3f} s at none, "
        f"r2 {growth.line.r2:.4f}"
    )
    return "\n".join([f"Levels, {key}:", head, *lines, fit])
