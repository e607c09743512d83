"""How far a way to read items is from plain passes, one response at a time, through the model's own full logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.forward import ForwardPass
from tests.support.tiny_families import IMAGE


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The (responses,) sums of log-probabilities, and the gradient of a weighted sum of them in the LoRA weights."""

    sums: torch.Tensor
    gradient: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Largest relative difference of a response's sum, and relative norm of the difference of the gradients."""

    sums: float
    gradient: float


def plainly(name: str, model: Any, items: Sequence[EncodedItem]) -> Measured:
    """Each response alone, unpadded, with its item's images, by the model's own forward and full logits."""
    network = model.get_base_model()
    network.set_attn_implementation({"text_config": "sdpa"})
    sums = []
    for item in items:
        for response in item.responses:
            ids = response.input_ids[None]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **_types(name, response)}
            table = model(**inputs, **item.image_inputs, use_cache=False).logits[0].log_softmax(-1)
            places = [place for place in range(ids.shape[1]) if response.supervised[place]]
            sums.append(sum(table[place - 1, ids[0, place]].double() for place in places))
    return _measured(model, torch.stack(sums))


def by(way: ForwardPass, model: Any, items: Sequence[EncodedItem]) -> Measured:
    """All items in one pass, as training reads them."""
    way.use()
    batch = way.lay_out(items)
    return _measured(model, way.round_logps(model, batch, way.show_images(model, batch)).sum(dim=1))


def compare(ours: Measured, plain: Measured) -> Difference:
    return Difference(
        sums=float(((ours.sums - plain.sums) / plain.sums).abs().max()),
        gradient=float((ours.gradient - plain.gradient).norm() / plain.gradient.norm()),
    )


def _measured(model: Any, sums: torch.Tensor) -> Measured:
    weights = torch.linspace(1.0, -2.0, len(sums), dtype=torch.float64)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((weights * sums).sum(), parameters)  # fails where a weight has no part in it
    return Measured(sums=sums.detach(), gradient=torch.cat([one.flatten().double() for one in gradients]))


def _types(name: str, response: EncodedResponse) -> dict[str, torch.Tensor]:
    """What these families' processors give beside the ids, written down here by hand."""
    ids = response.input_ids[None]
    if name.startswith("Qwen"):
        return {"mm_token_type_ids": (ids == IMAGE).long()}
    if name.startswith("Gemma3"):
        return {"token_type_ids": (ids == IMAGE).long()}
    if name == "PaliGemma":  # 0 for the prompt, 1 from the first answer token on
        return {"token_type_ids": (response.round[None] >= 0).long().cummax(dim=1).values}
    return {}
