"""Before hours are spent: are our log-probabilities and their gradient the model's own, and which layout may be used?

expected    each response alone, unpacked, through the model's full logits: what the others are held against
foresight   half an answer asked with and without its other half: no difference, or no layout at all
layouts     shared row, shared row with one mask, plain rows: each first by rule, then by what it gives
   images      features computed once per item, then pixels in every pass
held        token by token: mean and largest difference; and the gradient in the adapter of the last layers
the first way that is within the limits in every process is taken; the reasons of the others are kept
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

from amp_cli.models.foreign import is_out_of_memory
from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.exact import exact, exact_device
from amp_cli.training.rows.attention import attending_by, plain_attention
from amp_cli.training.rows.families import first_answers, token_types, why_not_shared
from amp_cli.training.rows.forward import LAYOUTS, ROWS, SHARED, SHARED_DENSE, ForwardPass
from amp_cli.training.rows.layout import common_prefix, parts_of
from amp_cli.training.rows.logprobs import takes_features, trains_images


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far one way to read items is from another.

    Attributes:
        mean: difference of an answer token's log-probability, nats, averaged over the response where it is largest.
        largest: of any answer token, nats.
        gradient: norm of the difference, relative to the norm, of the LoRA weight where it is largest.
    """

    mean: float
    largest: float
    gradient: float

    def in_nats(self, units: torch.Tensor) -> "Distance":
        """Return limits for log-probabilities whose units are these (N,)."""
        return replace(self, mean=self.mean * float(units.mean()), largest=self.largest * float(units.max()))

    def why_beyond(self, limits: "Distance") -> str | None:
        """Return what is beyond the limits, None where nothing is. What is not a number is beyond any."""
        if not self.mean <= limits.mean:
            return f"log-probabilities differ by {self.mean:.2g} nats a token, {limits.mean:.2g} allowed"
        if not self.largest <= limits.largest:
            return f"the log-probability of a token differs by {self.largest:.2g} nats, {limits.largest:.2g} allowed"
        if not self.gradient <= limits.gradient:
            return f"gradients differ by {self.gradient:.1%}, {limits.gradient:.1%} allowed"
        return None


LIMITS = {
    torch.float64: Distance(mean=1e-7, largest=1e-6, gradient=1e-5),
    torch.float32: Distance(mean=1e-4, largest=1e-3, gradient=1e-2),
    torch.float16: Distance(mean=0.002, largest=0.01, gradient=0.05),
    torch.bfloat16: Distance(mean=0.015, largest=0.04, gradient=0.12),
}
"""What rounding may do, by the precision of the logits: log-probabilities in units, which `_own_logps` tells.

Rounding is relative, so that a model with larger logits is further off in nats; in units all are alike. Measured on
sixteen families and on wider and deeper random models, their bases plain, in 4 or in 8 bits (worst mean, largest,
gradient): float32 7e-7, 3e-6, 7e-6; float16 0.0005, 0.0014, 0.005; bfloat16 0.004, 0.009, 0.024, and 0.011, 0.03, 0.09
where weights are so large that each layer blows rounding up. The faults of the tests are beyond one of the limits.
"""
SLOWER = {SHARED_DENSE: "levels share a row through a full mask", ROWS: "each level has a row of its own"}
MOST_LEVELS = (3, 2)
"""Levels of the items that are looked at: a sibling before and after another, and another item behind."""
MOST_TOKENS = 64
"""Tokens of a level beyond what it shares with its siblings; what goes wrong on longer ones is refused by rule."""
LAST_LAYERS = 2
"""Layers, and at least one of each kind, in whose adapter the gradient is taken."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the start-up test found: the layout in use, and how far it is from the model's own forward pass.

    `refused` holds (layout, reason) of the faster ways that this model cannot go.
    """

    layout: str
    image_once: bool
    difference: Distance
    limits: Distance
    refused: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a way to read items gives at their answer tokens, on the model's `exact_device`.

    Attributes:
        logps: (N,) float64 log-probabilities, nats. responses: (N,) the response that a token belongs to.
        gradient: of a weighted mean of them, in each weight of the adapter that is looked at, float64.
    """

    logps: torch.Tensor
    responses: torch.Tensor
    gradient: tuple[torch.Tensor, ...]

    def differ_from(self, expected: "Answers") -> Distance:
        off = (self.logps - expected.logps).abs()  # (N,)
        means = [off[expected.responses == number].mean() for number in range(int(expected.responses.max()) + 1)]
        return Distance(mean=float(torch.stack(means).max()), largest=float(off.max()), gradient=self._turned(expected))

    def _turned(self, expected: "Answers") -> float:
        norms = torch.stack([one.norm() for one in expected.gradient])
        # A weight that takes next to no part, as all of LoRA's A while B is zero, is measured by the others; of a model
        # that processes share, this one may hold no part of any.
        floors = norms.clamp(min=max(float(norms.max()) * 1e-2, torch.finfo(norms.dtype).tiny))
        offs = torch.stack([(own - one).norm() for own, one in zip(self.gradient, expected.gradient, strict=True)])
        return float((offs / floors).max())


def choose_forward(
    model: Any,
    items: Sequence[EncodedItem],
    *,
    pad_id: int,
    max_length: int,
    layouts: Sequence[str] = LAYOUTS,
    agree: Callable[[str | None], str | None] = lambda failure: failure,
    advance: Callable[[], None] = lambda: None,
) -> tuple[ForwardPass, SelfTest]:
    """Return the fastest way to read items that gives the log-probabilities of the model's own full logits.

    Args:
        model: a PeftModel whose base `teach_log_probabilities` has been given, without wrappers.
        items: real items, best with images and together in one batch. layouts: what to try, in this order.
        max_length: tokens of the longest item, on which a way must be right too.
        agree: gives the first failure of all processes for this process's own, so that all take the same way.
        advance: called after each of the `plain_passes`, which are nearly all there is to do.

    Raises:
        ValueError: not even plain rows do, e.g. because the head's outputs are changed after the head.
    """
    network = model.get_base_model()
    trained = trains_images(network)
    refused: list[tuple[str, str]] = []
    with _last_layers_alone(model) as weights:
        with attending_by(network, plain_attention(network)):
            expected, precision, units = _own_answers(model, items, weights, advance)
            limits = LIMITS[precision].in_nats(units)
            unusable = agree(_why_unusable(model, items, expected, precision, limits))
            advance()
        if unusable is not None:
            raise ValueError(unusable)
        for layout in layouts:
            # Rules come first: a few short items would not show what goes wrong beyond a window or a length.
            dense = layout == SHARED_DENSE
            against = None if layout == ROWS else why_not_shared(network, max_length=max_length, dense_mask=dense)
            if against is not None:
                refused.append((layout, against))
                continue
            if trained and layout == layouts[0]:
                refused.append((layout, "what is trained changes what the model is shown of an image"))
            for image_once in (True, False) if takes_features(network) and not trained else (False,):
                way = ForwardPass(network=network, pad_id=pad_id, layout=layout, image_once=image_once)
                distance, failure = _compare(model, way, items, expected, weights)
                failure = agree(failure or distance.why_beyond(limits))
                if failure is None:
                    way.use()
                    return way, SelfTest(
                        layout=layout,
                        image_once=image_once,
                        difference=distance,
                        limits=limits,
                        refused=tuple(refused),
                    )
                refused.append((layout if image_once else f"{layout}, images with every pass", failure))
    raise ValueError(
        "the log-probabilities at the answer tokens, or their gradients, do not match its own logits "
        f"({refused[-1][1]})"
    )


def shorten(items: Sequence[EncodedItem]) -> list[EncodedItem]:
    """Return the items with as many levels as `MOST_LEVELS` says and `MOST_TOKENS` beyond what these levels share.

    Images stand in what levels share, so that none is cut off.
    """
    return [_shortened(item, most) for item, most in zip(items, MOST_LEVELS, strict=False)]


def plain_passes(items: Sequence[EncodedItem]) -> int:
    """Return how many passes there are through the model's full logits: one for each response, one for foresight."""
    return sum(len(item.all_responses) for item in items) + 1


def _shortened(item: EncodedItem, most: int) -> EncodedItem:
    responses = item.responses[:most]
    # one response alone, beside other images, shares nothing: it is cut where its siblings would be
    shared = common_prefix([one.input_ids for one in responses]) if len(responses) > 1 else _first_answer(responses[0])
    end = shared + MOST_TOKENS
    other = item.beside_other_images
    beside = None if other is None else _shortened(other, 1)
    return replace(item, responses=tuple(_cut(one, end) for one in responses), beside_other_images=beside)


def _first_answer(one: EncodedResponse) -> int:
    return int(first_answers([one])[0])


def _cut(one: EncodedResponse, end: int) -> EncodedResponse:
    return EncodedResponse(input_ids=one.input_ids[:end], supervised=one.supervised[:end], round=one.round[:end])


@contextmanager
def _last_layers_alone(model: Any) -> Iterator[list[torch.nn.Parameter]]:
    """Let no gradient be taken in the adapter of the layers before the last, and give the weights that are left.

    A layer's queries, keys and values show what its attention does backwards, so one of each kind of layer is enough,
    and two show what goes down from one to another. The graph of all layers would take the memory of a training step
    without checkpointing, which is not chosen yet. A model cut by FSDP keeps all: what its whole weights once were told
    of gradients, at their first gathering, stays.
    """
    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        yield [weight for weight in model.parameters() if weight.requires_grad]
        return
    network = model.get_base_model()
    layers = network.get_decoder().layers
    kinds = getattr(network.config.get_text_config(), "layer_types", None) or [""] * len(layers)
    first = min(len(layers) - LAST_LAYERS, *(_last_place(kinds, kind) for kind in kinds))
    before = {id(weight) for layer in layers[: max(0, first)] for weight in layer.parameters()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    left_out = [weight for weight in trained if id(weight) in before]
    for weight in left_out:
        weight.requires_grad_(False)
    try:
        yield [weight for weight in trained if weight.requires_grad]
    finally:
        for weight in left_out:
            weight.requires_grad_(True)


def _last_place(kinds: Sequence[str], kind: str) -> int:
    return max(place for place, one in enumerate(kinds) if one == kind)


def _compare(
    model: Any, way: ForwardPass, items: Sequence[EncodedItem], expected: Answers, weights: Sequence[torch.nn.Parameter]
) -> tuple[Distance, str | None]:
    """Return how far a way is from the expected, or why that cannot be told."""
    unknown = Distance(mean=float("nan"), largest=float("nan"), gradient=float("nan"))
    try:
        found = _answers(model, way, items, weights)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError) as error:
        # What a family's own code raises when it is read in a way that it was not written for: try the next way.
        if is_out_of_memory(error):
            raise
        return unknown, (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if not torch.equal(found.responses, expected.responses):
        return unknown, "it gives other answer tokens than it is asked for"
    return found.differ_from(expected), None


def _why_unusable(
    model: Any, items: Sequence[EncodedItem], expected: Answers, precision: torch.dtype, limits: Distance
) -> str | None:
    """Return what is wrong with the model's own log-probabilities, so that no layout can help."""
    if not bool(torch.isfinite(expected.logps).all()):
        name = str(precision).removeprefix("torch.")
        return f"its log-probabilities are not finite in {name}; try --set dtype=bfloat16 or float32"
    if _sees_ahead(model, items, expected, limits):
        return "its log-probability of an answer token depends on the tokens after it"
    return None


@torch.no_grad()
def _sees_ahead(model: Any, items: Sequence[EncodedItem], expected: Answers, limits: Distance) -> bool:
    """Return whether an answer token's log-probability depends on the tokens after it.

    The first half of the longest answer is asked for without the rest of it. Four times what is allowed elsewhere,
    since there is no second way: a model that sees ahead is wrong by far more.
    """
    numbers = [(part, number) for part in parts_of(items) for number in range(len(part.responses))]
    counts = expected.responses.bincount()
    number = int(counts.argmax())
    item, own = numbers[number]
    response = item.responses[own]
    places = response.supervised.nonzero()[:, 0]  # (supervised tokens,)
    # whole   p p A B C D     supervised . . x x x x     the second lacks C D, which must make no difference
    # cut     p p A B         supervised . . x x         images of later rounds are never cut off
    half = int(places[(len(places) - 1) // 2]) + 1
    end = max(half, common_prefix([one.input_ids for one in item.responses]))
    cut = _cut(response, end)
    logps = exact(_own_logps(model, cut, item.image_inputs)[0])
    known = expected.logps[expected.responses == number][: len(logps)]
    off = (logps - known).abs()
    return not (float(off.mean()) <= 4 * limits.mean and float(off.max()) <= 4 * limits.largest)


def _answers(
    model: Any, way: ForwardPass, items: Sequence[EncodedItem], weights: Sequence[torch.nn.Parameter]
) -> Answers:
    """Return what a way gives for all items in one pass."""
    batch = way.lay_out(items).to(_device_of(model))
    before = way.network.config.get_text_config()._attn_implementation
    with attending_by(way.network, before):  # what is tried must not stay switched on when it fails
        way.use()
        logps = exact(way.answer_logps(model, batch, way.show_images(model, batch)))  # (N,)
        gradient = _gradient(logps, _pull(len(logps), logps.device), weights)
    responses = batch.responses.to(logps.device)
    return Answers(logps=logps.detach(), responses=responses, gradient=tuple(gradient))


def _own_answers(
    model: Any, items: Sequence[EncodedItem], weights: Sequence[torch.nn.Parameter], advance: Callable[[], None]
) -> tuple[Answers, torch.dtype, torch.Tensor]:
    """Return what the model's full logits give for one response after the other, their precision, and (N,) units."""
    device = exact_device(_device_of(model))
    pairs = [(part, response) for part in parts_of(items) for response in part.responses]
    counts = [int(response.supervised.sum()) for _, response in pairs]
    pulls = torch.split(_pull(sum(counts), device), counts)
    logps: list[torch.Tensor] = []
    units: list[torch.Tensor] = []
    gradient = [torch.zeros(_part(one).shape, dtype=torch.float64, device=device) for one in weights]
    precision = torch.float32
    for (item, response), pull in zip(pairs, pulls, strict=True):
        own, unit, precision = _own_logps(model, response, item.image_inputs)
        own = exact(own)
        gradient = [held + one for held, one in zip(gradient, _gradient(own, pull, weights), strict=True)]
        logps.append(own.detach())
        units.append(unit)
        advance()
    responses = torch.arange(len(pairs), device=device).repeat_interleave(torch.tensor(counts, device=device))
    return Answers(logps=torch.cat(logps), responses=responses, gradient=tuple(gradient)), precision, torch.cat(units)


def _pull(count: int, device: torch.device) -> torch.Tensor:
    """Return the (count,) weights that the tokens have in the sum whose gradient is taken.

    All are different, so that none stands in for another, and positive, so that more than rounding is left.
    """
    return torch.linspace(1.0, 2.0, count, dtype=torch.float64, device=device)


def _gradient(logps: torch.Tensor, pull: torch.Tensor, weights: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Return the gradient in each weight; of a weight that processes share, in this process's part."""
    if any(isinstance(weight, DTensor) for weight in weights):
        return _gradient_of_parts(logps, pull, weights)
    # An expert that no token goes to has no part in it.
    found = torch.autograd.grad((pull * logps).sum(), weights, allow_unused=True, materialize_grads=True)
    return [exact(one) for one in found]


def _gradient_of_parts(
    logps: torch.Tensor, pull: torch.Tensor, weights: Sequence[torch.nn.Parameter]
) -> list[torch.Tensor]:
    """Go backward as a step does: the whole weights are FSDP's own, and only its hooks bring their gradient here."""
    (pull * logps).sum().backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(_part(one)) if one.grad is None else _part(one.grad) for one in weights]
    for weight in weights:
        weight.grad = None
    return [exact(one) for one in found]


def _part(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight.detach()


def _device_of(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def _own_logps(
    model: Any, response: EncodedResponse, images: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    """Return a response's (supervised tokens,) log-probabilities by the model's full logits, units, and precision.

    A unit is how far the logits are spread, nats, times the probability of all other tokens: the log-probability of a
    token changes by (1 - p) times what its logit changes by against the others'.
    """
    device = _device_of(model)
    ids = response.input_ids[None].to(device)
    kinds = token_types(model.get_base_model(), ids, first_answers([response]))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **kinds}
    shown = {name: value.to(device) for name, value in images.items()}
    logits = model(**inputs, **shown, use_cache=False).logits[0]  # (length, vocabulary)
    place = response.supervised.nonzero()[:, 0].to(device)
    picked = logits[place - 1].to(torch.promote_types(logits.dtype, torch.float32))  # (supervised, vocabulary)
    logps = -cross_entropy(picked, ids[0, place], reduction="none")
    with torch.no_grad():  # the median, since some families set logits of unused tokens to minus infinity
        units = (picked.logsumexp(dim=-1) - picked.median(dim=-1).values) * -torch.expm1(logps)
    # In 8 bits, columns that stand out in any of the tokens read together are computed in another precision.
    is_coarse = getattr(model.get_base_model(), "is_loaded_in_8bit", False) and logits.dtype == torch.float32
    return logps, units, torch.bfloat16 if is_coarse else logits.dtype


def describe(test: SelfTest) -> str | None:
    """Return a sentence for the user where a slower way had to be taken, else None."""
    if test.layout == SHARED and test.image_once:
        return None
    slower = [SLOWER[test.layout]] if test.layout != SHARED else []
    slower += [] if test.image_once else ["images are encoded again in every pass"]
    reasons: dict[str, list[str]] = {}
    for how, reason in test.refused:
        reasons.setdefault(reason, []).append(how)
    why = "; ".join(f"{reason} ({' and '.join(ways)})" for reason, ways in reasons.items())
    sentence = " and ".join(slower) + (
        f", since {why}" if why else ", since it does not accept precomputed image features"
    )
    return sentence[0].upper() + sentence[1:]
