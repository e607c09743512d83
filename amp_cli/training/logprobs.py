"""Summed log-probabilities of responses: pictures encoded once, the head only where answer tokens are predicted."""

import inspect
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutputWithPooling

from amp_cli.training.layout import Batch

Features = torch.Tensor | list[torch.Tensor]
"""What a tower and projector make of one item's pictures: one tensor per picture, or all in one."""

TOLERANCE = 1e-3
"""Relative difference of a log-probability sum, in float32, up to which two ways to compute it count as equal."""


def teach_log_probabilities(network: Any) -> None:
    """Give `network.forward` two more ways to be called, to be done before PEFT wraps the model.

    With `predictors` and `targets` it returns their (N,) log-probabilities; with `pictures` it returns the features of
    each item's pictures, without gradients. Everything goes through `forward`, so that the hooks of DDP and FSDP run.
    """
    original = network.forward

    def forward(
        self: Any,
        *args: Any,
        pictures: list[dict[str, torch.Tensor]] | None = None,
        features: Features | None = None,
        predictors: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        if pictures is not None:
            return _encode_pictures(self.model, pictures)
        if predictors is None or targets is None:
            return original(*args, **inputs)
        given = {name: value for name, value in inputs.items() if value is not None}  # PEFT adds labels=None and more
        if features is not None:  # a fresh dict for each call: models write into it
            given["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        hidden = self.model(**given, use_cache=False).last_hidden_state  # (rows, length, width)
        logits = self.get_output_embeddings()(hidden.flatten(0, 1)[predictors])  # (N, vocabulary)
        return -cross_entropy(logits.float(), targets, reduction="none")

    network.forward = types.MethodType(forward, network)


def takes_features(network: Any) -> bool:
    """Whether the model accepts pictures that have been through its tower already."""
    return "mm_encoder_outputs" in inspect.signature(network.model.forward).parameters


@torch.no_grad()
def _encode_pictures(core: Any, pictures: Sequence[dict[str, torch.Tensor]]) -> list[Features | None]:
    """Return each item's picture features; one tower call where the pictures are plain stacks of equal size."""
    shown = [one for one in pictures if one]
    stackable = all(set(one) == {"pixel_values"} and one["pixel_values"].dim() == 4 for one in shown)
    if not shown or not stackable or len({one["pixel_values"].shape[1:] for one in shown}) > 1:
        return [core.get_image_features(**one).pooler_output if one else None for one in pictures]
    together = core.get_image_features(pixel_values=torch.cat([one["pixel_values"] for one in shown])).pooler_output
    counts = [len(one["pixel_values"]) for one in shown]
    starts = iter([sum(counts[:number]) for number in range(len(counts))])
    sizes = iter(counts)
    return [together[(start := next(starts)) : start + next(sizes)] if one else None for one in pictures]


def picture_inputs(model: Any, batch: Batch, *, image_once: bool) -> dict[str, Any]:
    """Return the arguments that show the model each row's pictures: features computed once per item, or pixels."""
    levels = batch["levels"].tolist()
    pictures = batch["image_inputs"]
    names = sorted({name for one in pictures for name in one})
    inputs = {
        name: torch.cat([one[name] for one, count in zip(pictures, levels, strict=True) if one for _ in range(count)])
        for name in names
        if not (image_once and name == "pixel_values")
    }
    if not image_once or not names:
        return inputs
    with torch.no_grad():
        features = model(pictures=pictures)
    repeated = [one for one, count in zip(features, levels, strict=True) if one is not None for _ in range(count)]
    if isinstance(repeated[0], torch.Tensor):
        return {**inputs, "features": torch.cat(repeated)}
    return {**inputs, "features": [picture for row in repeated for picture in row]}


def response_logps(model: Any, batch: Batch, shown: dict[str, Any]) -> torch.Tensor:
    """Return the (rows,) weighted sums of the answer tokens' log-probabilities, nats.

    Summed in float64: the loss takes differences of sums of several hundred nats.
    """
    tokens = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        predictors=batch["predictors"],
        targets=batch["targets"],
        **shown,
    )  # (N,)
    sums = torch.zeros(len(batch["input_ids"]), dtype=torch.float64, device=tokens.device)
    return sums.index_add(0, batch["rows"], tokens.double() * batch["weights"])


@torch.no_grad()
def check_log_probabilities(model: Any, batch: Batch) -> tuple[bool, str]:
    """Compare our way with the model's own full logits on a real batch, and choose whether pictures are encoded once.

    Returns:
        Whether to encode pictures once per item, and why not ("" when so).

    Raises:
        ValueError: the head's outputs are changed after the head (e.g. capped), so our log-probabilities are wrong.
    """
    rows = picture_inputs(model, batch, image_once=False)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **rows).logits
    picked = logits.flatten(0, 1)[batch["predictors"]].float()
    tokens = -cross_entropy(picked, batch["targets"], reduction="none").double()
    expected = torch.zeros(len(batch["input_ids"]), dtype=torch.float64, device=tokens.device)
    expected = expected.index_add(0, batch["rows"], tokens * batch["weights"])
    if not bool(torch.isfinite(expected).all()):
        precision = str(logits.dtype).removeprefix("torch.")
        raise ValueError(f"its log-probabilities are no numbers in {precision}: try --set dtype=bfloat16 or float32")
    allowed = TOLERANCE if logits.dtype == torch.float32 else 20 * TOLERANCE  # 8 bits of mantissa, several layers
    if _difference(response_logps(model, batch, rows), expected) > allowed:
        raise ValueError("the log-probabilities at the answer tokens are not those of the model's own logits")
    network = model.get_base_model()
    if not takes_features(network):
        return False, f"{type(network).__name__} takes no pictures that are encoded already"
    once = response_logps(model, batch, picture_inputs(model, batch, image_once=True))
    if _difference(once, expected) > allowed:
        return False, f"{type(network).__name__} gives other log-probabilities when pictures are encoded once"
    return True, ""


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1.0)).max())
