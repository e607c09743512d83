"""Before hours are spent: are our log-probabilities the model's own on real items, and which layout may be used?

expected    each response alone, unpacked, through the model's full logits: what the others are held against
foresight   half an answer asked with and without its other half: no difference, or no layout at all
layouts     shared row, shared row with one mask, plain rows: each first by rule, then by what it gives
   images      features computed once per item, then pixels in every pass
the first way whose worst response is within the tolerance is taken; the reasons of the others are kept
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from amp_cli.models.foreign import is_out_of_memory
from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.attention import attending_by, plain_attention
from amp_cli.training.rows.families import first_answers, token_types, why_not_shared
from amp_cli.training.rows.forward import LAYOUTS, ROWS, SHARED, SHARED_DENSE, ForwardPass
from amp_cli.training.rows.logprobs import takes_features

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
SLOWER = {SHARED_DENSE: "levels share a row through a full mask", ROWS: "each level has a row of its own"}
HALF_TOLERANCE = 0.05
"""Mean absolute difference of an answer token's log-probability, nats, up to which two ways count as equal.

A branch that loses its prompt or its image is wrong by more than that in any precision; 16-bit arithmetic alone by
less than half of it.
"""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the start-up test found: the layout in use, and the largest mean difference per response, nats a token.

    `refused` holds (layout, reason) of the faster ways that this model cannot go.
    """

    layout: str
    image_once: bool
    difference: float
    tolerance: float
    refused: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def choose_forward(
    model: Any, items: Sequence[EncodedItem], *, pad_id: int, max_length: int, layouts: Sequence[str] = LAYOUTS
) -> tuple[ForwardPass, SelfTest]:
    """Return the fastest way to read items that gives the log-probabilities of the model's own full logits.

    Args:
        model: a PeftModel whose base `teach_log_probabilities` has been given.
        items: real items, best with images and together in one batch. layouts: what to try, in this order.
        max_length: tokens of the longest item, on which a way must be right too.

    Raises:
        ValueError: not even plain rows do, e.g. because the head's outputs are changed after the head.
    """
    network = model.get_base_model()
    device = next(model.parameters()).device
    with attending_by(network, plain_attention(network)):
        expected, precision = _own_logps(model, items, device)
        tolerance = TOLERANCE.get(precision, HALF_TOLERANCE)
        if not bool(torch.isfinite(expected).all()):
            name = str(precision).removeprefix("torch.")
            raise ValueError(f"its log-probabilities are not finite in {name}; try --set dtype=bfloat16 or float32")
        _refuse_foresight(model, items, device, tolerance)
    # (responses,) answer tokens of each: a sum's rounding grows with them, so differences are held per token
    counts = torch.tensor([int(one.supervised.sum()) for item in items for one in item.responses], device=device)
    refused: list[tuple[str, str]] = []
    for layout in layouts:
        dense = layout == SHARED_DENSE
        # Rules come first: a few short items would not show what goes wrong beyond a window or a length.
        against = None if layout == ROWS else why_not_shared(network, max_length=max_length, dense_mask=dense)
        if against is not None:
            refused.append((layout, against))
            continue
        for image_once in (True, False) if takes_features(network) else (False,):
            way = ForwardPass(network=network, pad_id=pad_id, layout=layout, image_once=image_once)
            how = layout if image_once else f"{layout}, images with every pass"
            difference, failure = _difference(model, way, items, expected, counts)
            if failure is None and difference <= tolerance:
                way.use()
                return way, SelfTest(
                    layout=layout,
                    image_once=image_once,
                    difference=difference,
                    tolerance=tolerance,
                    refused=tuple(refused),
                )
            refused.append((how, failure or f"log-probabilities differ by {difference:.2g} nats a token"))
    raise ValueError(f"the log-probabilities at the answer tokens do not match its own logits ({refused[-1][1]})")


def _difference(
    model: Any, way: ForwardPass, items: Sequence[EncodedItem], expected: torch.Tensor, counts: torch.Tensor
) -> tuple[float, str | None]:
    """Return the largest mean difference of a response, nats a token, or why there is none."""
    try:
        sums = _sums(model, way, items, expected.device)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError) as error:
        # What a family's own code raises when it is read in a way that it was not written for: try the next way.
        if is_out_of_memory(error):
            raise
        return float("nan"), (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return float(((sums - expected).abs() / counts).max()), None


def _refuse_foresight(model: Any, items: Sequence[EncodedItem], device: torch.device, tolerance: float) -> None:
    """Refuse a model in which an answer token's log-probability depends on the tokens after it.

    The first half of the longest answer is asked for with the rest of it and without. Four tolerances, since there is
    no second way: a model that sees ahead is wrong by far more.

    Raises:
        ValueError: it does, so that what we sum is not the probability of saying the answer.
    """
    pairs = [(item, response) for item in items for response in item.responses]
    item, whole = max(pairs, key=lambda pair: int(pair[1].supervised.sum()))
    places = whole.supervised.nonzero()[:, 0]  # (supervised tokens,)
    end = int(places[(len(places) - 1) // 2]) + 1
    half = whole.supervised & (torch.arange(len(whole.supervised)) < end)  # (length,)
    # whole   p p A B C D     supervised . . x x . .     the second lacks C D, which must make no difference
    # cut     p p A B         supervised . . x x
    uncut = replace(whole, supervised=half)
    cut = replace(whole, input_ids=whole.input_ids[:end], supervised=half[:end], round=whole.round[:end])
    sums, _ = _own_logps(model, [replace(item, responses=(uncut, cut))], device)
    if float((sums[0] - sums[1]).abs()) > 4 * tolerance * int(half.sum()):
        raise ValueError("its log-probability of an answer token depends on the tokens after it")


def _sums(model: Any, way: ForwardPass, items: Sequence[EncodedItem], device: torch.device) -> torch.Tensor:
    """Return the (responses,) sums of log-probabilities as `way` computes them."""
    batch = way.lay_out(items).to(device)
    before = way.network.config.get_text_config()._attn_implementation
    with attending_by(way.network, before):  # what is tried must not stay switched on when it fails
        way.use()
        return way.round_logps(model, batch, way.show_images(model, batch)).sum(dim=1)


def _own_logps(model: Any, items: Sequence[EncodedItem], device: torch.device) -> tuple[torch.Tensor, torch.dtype]:
    """Return the (responses,) sums of log-probabilities by the model's full logits, one by one, and its precision."""
    sums = []
    precision = torch.float32
    for item in items:
        images = {name: value.to(device) for name, value in item.image_inputs.items()}
        for response in item.responses:
            logits = _own_logits(model, response, images, device)
            precision = logits.dtype
            place = response.supervised.nonzero()[:, 0].to(device)
            picked = logits[place - 1].to(torch.promote_types(precision, torch.float32))  # (supervised, vocabulary)
            targets = response.input_ids.to(device)[place]
            sums.append(-cross_entropy(picked, targets, reduction="none").double().sum())
    return torch.stack(sums), precision


def _own_logits(
    model: Any, response: EncodedResponse, images: dict[str, torch.Tensor], device: torch.device
) -> torch.Tensor:
    ids = response.input_ids[None].to(device)
    kinds = token_types(model.get_base_model(), ids, first_answers([response]))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **kinds}
    logits: torch.Tensor = model(**inputs, **images, use_cache=False).logits[0]  # (length, vocabulary)
    return logits


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
