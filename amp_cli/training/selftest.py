"""Before hours are spent: are our log-probabilities the model's own on real items, and which layout may be used?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from amp_cli.core.prompts import EncodedItem, EncodedResponse
from amp_cli.training.attention import attending_by
from amp_cli.training.families import token_types
from amp_cli.training.forward import LAYOUTS, ROWS, ForwardPass
from amp_cli.training.logprobs import takes_features

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
HALF_TOLERANCE = 0.05
"""Mean absolute difference of an answer token's log-probability, nats, up to which two ways count as equal.

A branch that loses its prompt or its picture is wrong by more than that in any precision; 16-bit arithmetic alone by
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
    model: Any, items: Sequence[EncodedItem], *, pad_id: int, layouts: Sequence[str] = LAYOUTS
) -> tuple[ForwardPass, SelfTest]:
    """Return the fastest way to read items that gives the log-probabilities of the model's own full logits.

    Args:
        model: a PeftModel whose base `teach_log_probabilities` has been given.
        items: real items, best with pictures and together in one batch. layouts: what to try, in this order.

    Raises:
        ValueError: not even plain rows do, e.g. because the head's outputs are changed after the head.
    """
    network = model.get_base_model()
    device = next(model.parameters()).device
    with attending_by(network, "sdpa"):
        expected, precision = _own_logps(model, items, device)
    tolerance = TOLERANCE.get(precision, HALF_TOLERANCE)
    counts = torch.tensor([int(one.supervised.sum()) for item in items for one in item.responses], device=device)
    if not bool(torch.isfinite(expected).all()):
        name = str(precision).removeprefix("torch.")
        raise ValueError(f"its log-probabilities are no numbers in {name}: try --set dtype=bfloat16 or float32")
    refused: list[tuple[str, str]] = []
    for layout in layouts:
        for image_once in (True, False) if takes_features(network) else (False,):
            way = ForwardPass(network=network, pad_id=pad_id, layout=layout, image_once=image_once)
            how = layout if image_once else f"{layout}, pictures with every pass"
            try:
                sums = _sums(model, way, items, device)
            except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                refused.append((how, (str(error).strip() or type(error).__name__).splitlines()[0][:200]))
                continue
            difference = float(((sums - expected).abs() / counts).max())
            if difference <= tolerance:
                way.use()
                return way, SelfTest(
                    layout=layout,
                    image_once=image_once,
                    difference=difference,
                    tolerance=tolerance,
                    refused=tuple(refused),
                )
            refused.append((how, f"log-probabilities differ by {difference:.2g} nats a token"))
    raise ValueError(f"the log-probabilities at the answer tokens are not those of its own logits ({refused[-1][1]})")


def _sums(model: Any, way: ForwardPass, items: Sequence[EncodedItem], device: torch.device) -> torch.Tensor:
    """Return the (responses,) sums of log-probabilities as `way` computes them."""
    batch = way.lay_out(items).to(device)
    before = way.network.config.get_text_config()._attn_implementation
    with attending_by(way.network, before):
        way.use()
        return way.round_logps(model, batch, way.show_pictures(model, batch)).sum(dim=1)


def _own_logps(model: Any, items: Sequence[EncodedItem], device: torch.device) -> tuple[torch.Tensor, torch.dtype]:
    """Return the (responses,) sums of log-probabilities by the model's full logits, one by one, and its precision."""
    sums = []
    precision = torch.float32
    for item in items:
        pictures = {name: value.to(device) for name, value in item.image_inputs.items()}
        for response in item.responses:
            logits = _own_logits(model, response, pictures, device)
            precision = logits.dtype
            place = response.supervised.nonzero()[:, 0].to(device)
            picked = logits[place - 1].to(torch.promote_types(precision, torch.float32))  # (supervised, vocabulary)
            targets = response.input_ids.to(device)[place]
            sums.append(-cross_entropy(picked, targets, reduction="none").double().sum())
    return torch.stack(sums), precision


def _own_logits(
    model: Any, response: EncodedResponse, pictures: dict[str, torch.Tensor], device: torch.device
) -> torch.Tensor:
    ids = response.input_ids[None].to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **token_types(model.get_base_model(), ids)}
    logits: torch.Tensor = model(**inputs, **pictures, use_cache=False).logits[0]  # (length, vocabulary)
    return logits


def describe(test: SelfTest) -> str | None:
    """Return a sentence for the user where a slower way had to be taken, else None."""
    if test.layout != ROWS and test.image_once:
        return None
    why = "; ".join(f"{how}: {reason}" for how, reason in test.refused)
    slower = "Levels are read in rows of their own" if test.layout == ROWS else "Pictures go through with every pass"
    return f"{slower}, since faster ways failed the self-test ({why})"
