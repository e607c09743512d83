"""The MDPO step of a random 7B on a CUDA card: packed rows against the released arithmetic, NF4 and bfloat16."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from mdpo_big import llava_7b, random_item, random_llava, random_policy
from mdpo_peers import Released, forget_gradient
from mdpo_rounds import checkpointing
from mdpo_setting import adapter_parameters
from mdpo_variants import Ours, Variant
from measuring import Counted, counted, relative_difference

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.attention import shared_prefix_attention
from amp_cli.training.rows.forward import SHARED, ForwardPass
from amp_cli.training.rows.layout import lay_out_shared, unique_tokens

MATRIX = 8192  # rows and columns of the product that the card's rate is taken from
ALIGNED = 0.02  # bfloat16 rounds to 0.4 %; an upper-left causal mask is wrong by far more
GB = 1e9
SPEED_WANTED, MEMORY_WANTED = 2.5, 12.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant on one number of levels; a step is forward, backward and AdamW.

    What did not fit on the card is None. `share` is of the card's measured rate of bfloat16 matrix products, GFLOP
    being counted in matrix products alone.
    """

    weights: str
    levels: int
    variant: str
    is_checkpointed: bool
    unique_tokens: int
    seconds: float | None = None
    peak_gb: float | None = None
    gflop: float | None = None
    share: float | None = None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class GpuResults:
    """What was measured on which card; `rate` is in FLOP a second, `alignment` a relative difference."""

    card: str
    memory_gb: float
    rate: float
    alignment: float
    rows: tuple[Row, ...]


@dataclass(kw_only=True)
class Trial:
    """A variant with what has been measured of it so far."""

    weights: str
    levels: int
    variant: Variant
    is_checkpointed: bool
    item: EncodedItem
    optimizer: torch.optim.Optimizer
    seconds: float | None = None
    peak_gb: float | None = None
    count: Counted | None = None
    loss: float | None = None

    def step(self) -> None:
        """Go forward and backward, and update by a learning rate of 0: the adapter stays what it is."""
        network = self.variant.networks()[0]
        with checkpointing(network) if self.is_checkpointed else nullcontext():
            self.loss = self.variant.step()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def row(self, rate: float) -> Row:
        gflop = self.count.gflop if self.count is not None else None
        share = 1e9 * gflop / self.seconds / rate if gflop is not None and self.seconds is not None else None
        return Row(
            weights=self.weights,
            levels=self.levels,
            variant=self.variant.key,
            is_checkpointed=self.is_checkpointed,
            unique_tokens=unique_tokens(self.item),
            seconds=self.seconds,
            peak_gb=self.peak_gb,
            gflop=gflop,
            share=share,
            loss=self.loss,
        )


def run(*, levels: Sequence[int], repeats: int) -> GpuResults:
    """Measure the card, then every variant, and return what was found.

    Raises:
        SystemExit: this card's variable-length attention is not aligned as our packed rows need it.
    """
    device = torch.device("cuda")
    alignment = alignment_error(device)
    if not alignment < ALIGNED:
        raise SystemExit(f"Variable-length attention differs from attention by segment by {alignment:.2g}: not usable")
    rate = matrix_rate(device)
    rows: list[Row] = []
    for is_nf4 in (True, False):
        rows += [trial.row(rate) for trial in measure_weights(is_nf4, levels, repeats, device)]
        torch.cuda.empty_cache()
    properties = torch.cuda.get_device_properties(device)
    return GpuResults(
        card=properties.name,
        memory_gb=properties.total_memory / GB,
        rate=rate,
        alignment=alignment,
        rows=tuple(rows),
    )


def alignment_error(device: torch.device) -> float:
    """Return how far one variable-length call in bfloat16 is from attention segment by segment in float32.

    Queries and keys differ in number here, so that the causal mask must be aligned at its lower right. The largest
    relative difference of the output and of the gradients in query, key and value.
    """
    rows = [
        torch.cat((torch.arange(70), torch.tensor(rest))) for rest in ([100, *range(9)], [101, 1], [102, *range(33)])
    ]
    answers = [EncodedResponse(input_ids=ids, supervised=ids >= 100, round=(ids >= 100).long() - 1) for ids in rows]
    sharing = lay_out_shared([EncodedItem(responses=tuple(answers), image_inputs={})] * 2).sharing
    assert sharing is not None
    sharing = sharing.to(device)
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, 4, int(sharing.query_starts[-1]), 128)
    start = [torch.randn(shape, device=device, generator=generator).bfloat16() for _ in range(3)]
    slope = torch.randn((1, shape[2], shape[1], shape[3]), device=device, generator=generator)
    found, expected = (_attended(start, precision, slope, sharing) for precision in (torch.bfloat16, torch.float32))
    return max(relative_difference(one, other) for one, other in zip(found, expected, strict=True))


def _attended(start: Sequence[torch.Tensor], precision: torch.dtype, slope: torch.Tensor, sharing: Any) -> list[Any]:
    leaves = [one.to(precision).detach().requires_grad_() for one in start]
    layer = SimpleNamespace(config=llava_7b().text_config, layer_idx=0)
    attended, _ = shared_prefix_attention(layer, *leaves, None, scaling=128**-0.5, sharing=sharing)
    return [attended.detach(), *torch.autograd.grad((attended.float() * slope).sum(), leaves)]


def matrix_rate(device: torch.device) -> float:
    """Return the FLOP a second of large bfloat16 matrix products, the best of some."""
    one, other = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * MATRIX**3 / min(_seconds(partial(torch.mm, one, other)) for _ in range(12))


def _seconds(step: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_weights(is_nf4: bool, levels: Sequence[int], repeats: int, device: torch.device) -> list[Trial]:
    """Measure all variants with the weights in 4 bit or in bfloat16; what does not fit stays unmeasured.

    Ours come first, before the second copy that the released arithmetic needs is on the card; then all in turn.
    """
    config = llava_7b()
    weights = "nf4" if is_nf4 else "bf16"
    policy = random_policy(config, device=device, is_nf4=is_nf4)
    optimizer = torch.optim.AdamW(adapter_parameters(policy), lr=0.0, weight_decay=0.0)
    items = {count: random_item(config, count) for count in levels}

    def trial(variant: Variant, count: int, is_checkpointed: bool) -> Trial:
        return Trial(
            weights=weights,
            levels=count,
            variant=variant,
            is_checkpointed=is_checkpointed,
            item=items[count],
            optimizer=optimizer,
        )

    trials = [
        trial(variant, count, is_checkpointed)
        for count in levels
        for is_checkpointed in (True, False)
        for variant in packed_variants(policy, items[count])
    ]
    _measure(trials, repeats)
    try:
        base = random_llava(config, device=device, is_nf4=is_nf4)
    except torch.OutOfMemoryError:
        return trials
    peers = [
        trial(Released(policy=policy, reference=base, item=items[count], pad_id=0, is_mixed=True), count, True)
        for count in levels
    ]
    _measure(peers, 0)
    for number in range(repeats):
        for one in [*trials, *peers] if number % 2 else [*reversed(peers), *reversed(trials)]:
            _attempt(one, partial(_time, one))
    return [*peers, *trials]


def packed_variants(policy: Any, item: EncodedItem) -> list[Ours]:
    """Return our packed step with the reference in every step, and cached."""
    forward = ForwardPass(network=policy.get_base_model(), pad_id=0, layout=SHARED)
    return [
        Ours(key=key, what=key, policy=policy, item=item, forward=forward, is_cached=is_cached, is_mixed=True)
        for key, is_cached in (("packed", False), ("packed_cached", True))
    ]


def _measure(trials: Sequence[Trial], repeats: int) -> None:
    """Count, take the peak, and time; memory is what PyTorch's allocator gave out, weights and optimizer included."""
    for one in trials:
        _attempt(one, partial(_count, one))
        _attempt(one, partial(_take_peak, one))
        for _ in range(repeats):
            _attempt(one, partial(_time, one))


def _attempt(one: Trial, what: Callable[[], None]) -> None:
    try:
        one.variant.prepare()
        what()
    except torch.OutOfMemoryError:
        pass  # stays None, and the table says so
    forget_gradient(one.variant.trained())


def _count(one: Trial) -> None:
    one.count = counted(one.step, one.variant.networks())


def _take_peak(one: Trial) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    one.step()
    one.peak_gb = torch.cuda.max_memory_allocated() / GB


def _time(one: Trial) -> None:
    seconds = _seconds(one.step)
    one.seconds = min(seconds, one.seconds or seconds)


def to_json(results: GpuResults) -> dict[str, Any]:
    """Return one object with everything, and whether the bar of the issue is met (None where it was not measured)."""
    return {**asdict(results), "bar": bar(results)}


def bar(results: GpuResults) -> dict[str, Any]:
    """7B in NF4, four levels: speed against the released arithmetic, and the peak with checkpointing."""
    found = {
        one.variant: one for one in results.rows if one.weights == "nf4" and one.levels == 4 and one.is_checkpointed
    }
    released, packed = found.get("released"), found.get("packed")
    speed = None
    if released is not None and packed is not None and released.seconds is not None and packed.seconds is not None:
        speed = released.seconds / packed.seconds
    peak = packed.peak_gb if packed is not None else None
    met = None if speed is None or peak is None else speed >= SPEED_WANTED and peak < MEMORY_WANTED
    return {"speed": speed, "peak_gb": peak, "met": met}


def for_people(results: GpuResults) -> str:
    """Return the table as plain text."""
    head = (
        f"{results.card}, {results.memory_gb:.0f} GB: {results.rate / 1e12:.0f} TFLOP/s in bfloat16 matrix products; "
        f"variable-length attention is aligned (differs by {results.alignment:.1e}).\n"
        "A random LLaVA-1.5-7B, one item, 626 prompt tokens and 100 for each level; a step is forward, backward, AdamW."
    )
    lines = [
        f"{'weights':7} {'levels':>6} {'variant':14} {'layers':12} {'s/step':>8} {'items/s':>8} {'tokens/s':>9} "
        f"{'peak GB':>8} {'TFLOP':>7} {'of rate':>8} {'loss':>10}"
    ]
    for one in results.rows:
        start = f"{one.weights:7} {one.levels:6} {one.variant:14} {'recomputed' if one.is_checkpointed else 'kept':12}"
        if one.seconds is None or one.peak_gb is None or one.gflop is None or one.share is None or one.loss is None:
            lines.append(f"{start} does not fit")
            continue
        lines.append(
            f"{start} {one.seconds:8.3f} {1 / one.seconds:8.2f} {one.unique_tokens / one.seconds:9.0f} "
            f"{one.peak_gb:8.2f} {one.gflop / 1e3:7.1f} {one.share:8.1%} {one.loss:10.4f}"
        )
    found = bar(results)
    verdict = {True: "met", False: "NOT met", None: "not measured"}[found["met"]]
    numbers = "" if found["met"] is None else f" ({found['speed']:.2f} times, {found['peak_gb']:.1f} GB)"
    wanted = f"at least {SPEED_WANTED} times the released arithmetic and below {MEMORY_WANTED:.0f} GB"
    return "\n".join([head, "", *lines, "", f"Bar, NF4 and 4 levels: {wanted}: {verdict}{numbers}"])
