"""Summed log-probabilities of responses: images encoded once, the head only where answer tokens are predicted."""

import types
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad

from amp_cli.training.exact import exact
from amp_cli.training.rows.families import takes
from amp_cli.training.rows.layout import Batch

Features = dict[str, Any]
"""What a tower and projector make of images: what the model reads of it, by name, as `FEATURES` says."""

FEATURES = {"pooler_output": 0, "deepstack_features": 1}
"""Names of features, and how deep in lists they lie: all images in one tensor or a list; a list of such per layer."""


def teach_log_probabilities(network: Any) -> None:
    """Give `network.forward` two more ways to be called, to be done before PEFT wraps the model.

    With `predictors` and `targets` it returns their (N,) log-probabilities; with `images` it returns the features of
    each item's images, without gradients, and encodes those of `idle` for nothing (`image_inputs` says why). Everything
    goes through `forward`, so that the hooks of DDP and FSDP run.
    """
    original = network.forward

    def forward(
        self: Any,
        *args: Any,
        images: list[dict[str, torch.Tensor]] | None = None,
        idle: Sequence[dict[str, torch.Tensor]] = (),
        features: Features | None = None,
        predictors: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        if images is not None:
            encoded = _encode_images(self.model, images)
            for one in idle:
                _features(self.model, one)
            return encoded
        if predictors is None or targets is None:
            return original(*args, **inputs)
        given = {name: value for name, value in inputs.items() if value is not None}  # PEFT adds labels=None and more
        if features is not None:  # a fresh dict for each call: models write into it
            given["mm_encoder_outputs"] = {"image": SimpleNamespace(**features)}
        hidden = self.model(**given, use_cache=False).last_hidden_state  # (rows, length, width)
        # Only the N places that predict an answer token reach the head: (N, width), not (rows * length, vocabulary).
        return token_logps(self.get_output_embeddings(), hidden.flatten(0, 1)[predictors], targets)

    network.forward = types.MethodType(forward, network)


def takes_features(network: Any) -> bool:
    """Whether the model accepts images that have been through its tower already."""
    return takes(network, "mm_encoder_outputs")


def trains_images(network: Any) -> bool:
    """Whether anything is trained that changes what the language model is shown of an image."""
    others = [network.get_decoder(), network.get_output_embeddings()]
    within = {id(weight) for module in others for weight in module.parameters()}
    return any(weight.requires_grad and id(weight) not in within for weight in network.parameters())


@torch.no_grad()
def _encode_images(core: Any, images: Sequence[dict[str, torch.Tensor]]) -> list[Features | None]:
    """Return each item's image features; one tower call where the images are plain stacks of equal size."""
    shown = [one for one in images if one]
    if not shown or not _stackable(shown):
        return [_features(core, one) if one else None for one in images]
    # (images of all items, 3, height, width) -> (images of all items, tokens, width), cut by item again below
    together = _features(core, {"pixel_values": torch.cat([one["pixel_values"] for one in shown])})["pooler_output"]
    counts = [len(one["pixel_values"]) for one in shown]
    starts = iter([sum(counts[:number]) for number in range(len(counts))])
    sizes = iter(counts)
    return [
        {"pooler_output": together[(start := next(starts)) : start + next(sizes)]} if one else None for one in images
    ]


def _stackable(shown: Sequence[dict[str, torch.Tensor]]) -> bool:
    plain = all(set(one) == {"pixel_values"} and one["pixel_values"].dim() == 4 for one in shown)
    return plain and len({one["pixel_values"].shape[1:] for one in shown}) == 1


def tower_calls(images: Sequence[dict[str, torch.Tensor]]) -> int:
    """Return how often the tower is called to encode the images of these items."""
    shown = [one for one in images if one]
    return 1 if shown and _stackable(shown) else len(shown)


@torch.no_grad()
def _features(core: Any, shown: dict[str, torch.Tensor]) -> Features:
    found = vars(core.get_image_features(**shown))
    return {name: found[name] for name in FEATURES if found.get(name) is not None}


def image_inputs(
    model: Any, batch: Batch, *, image_once: bool, idle: Sequence[dict[str, torch.Tensor]] = ()
) -> dict[str, Any]:
    """Return the arguments that show the model each row's images: features computed once per item, or pixels.

    A shared row holds the image tokens of an item once, plain rows hold them once per level.

    Args:
        idle: images to encode for nothing. Processes that share one model must all call its tower equally often,
            whatever their items hold.
    """
    # How often an item's images are shown; for items of 2 and 3 levels [1, 1] in a shared row, [2, 3] in plain rows.
    levels = batch.levels.tolist() if batch.sharing is None else [1] * len(batch.levels)
    images = batch.image_inputs
    repeated = [one for one, count in zip(images, levels, strict=True) if one for _ in range(count)]
    names = sorted({name for one in repeated for name in one})
    inputs = {  # beside features, no more than what gives positions
        name: _stacked([one[name] for one in repeated]) for name in names if not image_once or name.endswith("grid_thw")
    }
    if not image_once or not (names or idle):
        return inputs
    with torch.no_grad():
        encoded = model(images=list(images), idle=idle)
    if not names:
        return inputs
    rows = [one for one, count in zip(encoded, levels, strict=True) if one is not None for _ in range(count)]
    return {**inputs, "features": {name: _joined([row[name] for row in rows], FEATURES[name]) for name in rows[0]}}


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put (images, ...) tensors in one, those of fewer tiles or smaller sides filled up with zeros."""
    largest = [max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    filled = []
    for tensor in tensors:
        missing = [most - own for most, own in zip(largest, tensor.shape[1:], strict=True)]
        # `pad` counts sides from the last, (before, after) each: lacks of 1 and 2 are (0, 2, 0, 1)
        filled.append(
            pad(tensor, [side for lack in reversed(missing) for side in (0, lack)]) if any(missing) else tensor
        )
    return torch.cat(filled)


def _joined(parts: Sequence[Any], depth: int) -> Any:
    """Put the features of several rows in one: tensors and lists end to end, below `depth` levels of lists."""
    if depth:
        return [_joined(layer, depth - 1) for layer in zip(*parts, strict=True)]
    return torch.cat(list(parts)) if isinstance(parts[0], torch.Tensor) else [one for part in parts for one in part]


def row_inputs(batch: Batch, *, dense_mask: bool = False) -> dict[str, Any]:
    """Return the arguments that say what the rows hold and who sees whom in them.

    Args:
        dense_mask: tell a shared row's sharing by a (1, 1, length, length) mask, not to our own attention.
    """
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, **batch.token_types}
    if batch.sharing is None:
        return {**inputs, "attention_mask": batch.attention_mask}
    inputs["position_ids"] = batch.position_ids
    if dense_mask:
        return {**inputs, "attention_mask": batch.sharing.mask()}
    return {**inputs, "sharing": batch.sharing}


def answer_logps(model: Any, batch: Batch, shown: dict[str, Any], *, dense_mask: bool = False) -> torch.Tensor:
    """Return the (N,) log-probabilities of the answer tokens, nats."""
    tokens: torch.Tensor = model(
        **row_inputs(batch, dense_mask=dense_mask), predictors=batch.predictors, targets=batch.targets, **shown
    )
    return tokens


def sum_by_round(tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Add up (N,) token log-probabilities to (responses, rounds) sums, nats, float64.

    In float64: the loss takes differences of sums of several hundred nats. All that is computed of them stands where
    they do, on the `exact_device`.
    """
    responses = int(batch.levels.sum())
    rounds = int(batch.rounds.max()) + 1
    tokens = exact(tokens)
    # One cell for each round of each response, in a row: cell = response * rounds + round.
    cells = (batch.responses * rounds + batch.rounds).to(tokens.device)
    sums = torch.zeros(responses * rounds, dtype=torch.float64, device=tokens.device)
    return sums.index_add(0, cells, tokens).view(responses, rounds)


def weigh_rounds(sums: torch.Tensor, round_weight: float) -> torch.Tensor:
    """Return the (responses,) sums in which a token of round n (from 0) weighs 1 + round_weight * n."""
    rounds = torch.arange(sums.shape[1], dtype=sums.dtype, device=sums.device)
    return sums @ (1 + round_weight * rounds)


MOST_LOGITS = 2**24
"""Logits held at once: 64 MiB in float32, and about three times that while their gradient is taken."""


def token_logps(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the (N,) log-probabilities, nats, of `targets` (N,) under softmax(head(hidden)), hidden being (N, width).

    With a frozen head the slope of each log-probability in its hidden state is taken at once and kept, N x width
    numbers, so that no logits wait for the backward pass and none are computed again: two matrix products in all.
    """
    if any(parameter.requires_grad for parameter in head.parameters()):
        return _logps(head, hidden, targets)
    rows = max(1, MOST_LOGITS // head.weight.shape[0])
    apply: Any = _FrozenHead.apply  # torch gives it no types
    result: torch.Tensor = apply(hidden, head, targets, rows)
    return result


def _logps(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = head(hidden)  # (N, vocabulary)
    return -cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, head: Any, targets: torch.Tensor, rows: int) -> torch.Tensor:
        wants_slope = context.needs_input_grad[0]
        logps: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        # In pieces of `rows` tokens, each with its own small graph: (rows, vocabulary) logits give their slope and go.
        for part, target in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            with torch.set_grad_enabled(wants_slope):
                leaf = part.detach().requires_grad_(wants_slope)
                tokens = _logps(head, leaf.view_as(leaf), target)  # hooks on a head's inputs (FSDP's) refuse a leaf
                if wants_slope:
                    # A token's log-probability depends on its own row of `part` alone: the sum's gradient has all.
                    slopes += torch.autograd.grad(tokens.sum(), leaf)
            logps.append(tokens.detach())
        if wants_slope:
            context.save_for_backward(torch.cat(slopes))
        return torch.cat(logps)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        (slopes,) = context.saved_tensors  # (N, width)
        return (gradients[0][:, None] * slopes).to(slopes.dtype), None, None, None
