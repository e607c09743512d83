"""The start-up test against faults of forward and backward passes, each put in on purpose, and against none."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows import attention, forward, logprobs
from amp_cli.training.rows.forward import LAYOUTS, ROWS, SHARED, SHARED_DENSE
from amp_cli.training.rows.layout import Batch, SharedRow, lay_out_rows, lay_out_shared
from amp_cli.training.rows.selftest import choose_forward, describe, plain_passes, shorten
from tests.support.tiny_families import IMAGE, build, make_items

LONGEST = 200
HALF = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
Patch = pytest.MonkeyPatch


@cache
def fresh(name: str, dtype: torch.dtype) -> tuple[Any, list[EncodedItem]]:
    """A family's model as a training begins, with an adapter that does nothing yet, and the items it is tried on."""
    model = build(name, dtype)
    for place, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() * (0 if "lora_B" in place else 1)
    return model, shorten(make_items(name, model.get_base_model(), dtype))


def try_out(name: str, dtype: torch.dtype, *layouts: str) -> Any:
    model, items = fresh(name, dtype)
    return choose_forward(model, items, pad_id=0, max_length=LONGEST, layouts=layouts)[1]


def answer(prompt: list[int], said: list[int], before: range = range(0)) -> EncodedResponse:
    """A response that says something after a prompt, and what it said at these places before."""
    places = torch.arange(len(prompt) + len(said))
    supervised = (places >= len(prompt)) | ((places >= before.start) & (places < before.stop))
    return EncodedResponse(
        input_ids=torch.tensor(prompt + said), supervised=supervised, round=torch.where(supervised, 0, -1)
    )


@HALF
@pytest.mark.parametrize("name", ["LLaVA, Llama", "LLaVA, Mistral with a short window", "Gemma3", "Qwen2.5-VL"])
def test_a_sound_layout_is_taken(name: str, dtype: torch.dtype) -> None:
    for layout in LAYOUTS if name != "LLaVA, Mistral with a short window" else (SHARED, ROWS):
        test = try_out(name, dtype, layout)
        assert (test.layout, test.refused) == (layout, ())


# Who sees whom: each fault says what a row's (length, length) scores get on top, -inf where nothing is seen.


def _scores(change: Callable[[torch.Tensor, SharedRow], object]) -> Callable[[Patch], None]:
    """Attention by one mask for the whole row, changed in place."""

    def by_scores(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Any, _window: Any, sharing: SharedRow
    ) -> torch.Tensor:
        scores = torch.zeros(sharing.mask().shape, dtype=query.dtype).masked_fill(~sharing.mask(), -torch.inf)
        change(scores[0, 0], sharing)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=scores, scale=scale, enable_gqa=True
        ).transpose(1, 2)

    return lambda patch: patch.setattr(attention, "_by_segment", by_scores)


def _branches(sharing: SharedRow) -> list[tuple[slice, slice]]:
    """Each branch's own places, and its prefix's."""
    return [
        (slice(one.start, one.start + one.length), slice(one.prefix_start, one.prefix_start + one.prefix_length))
        for one in sharing.segments
        if one.prefix_length
    ]


def _on_prefix(more: float) -> Callable[[torch.Tensor, SharedRow], None]:
    def change(scores: torch.Tensor, sharing: SharedRow) -> None:
        for own, prefix in _branches(sharing):
            scores[own, prefix] += more

    return change


def _one_ahead(scores: torch.Tensor, sharing: SharedRow) -> None:
    for own, _ in _branches(sharing):
        scores[own, own].diagonal(1).zero_()


def _not_itself(scores: torch.Tensor, sharing: SharedRow) -> None:
    for own, _ in _branches(sharing):
        scores[own, own].diagonal().fill_(-torch.inf)


def _without_end(scores: torch.Tensor, sharing: SharedRow) -> None:
    for own, prefix in _branches(sharing):
        scores[own, prefix.stop - 1] = -torch.inf


def _sibling(scores: torch.Tensor, sharing: SharedRow) -> None:
    (first, prefix), (second, other) = _branches(sharing)[:2]
    assert prefix == other
    scores[second, first] = 0


def _neighbour_item(scores: torch.Tensor, sharing: SharedRow) -> None:
    branches = _branches(sharing)
    scores[branches[-1][0], branches[0][1]] = 0


# What attention is given, and what goes back through it


def _attention(change: Callable[..., tuple[Any, ...]]) -> Callable[[Patch], None]:
    """Our attention with other queries, keys, values, scale, window or segments."""
    right = attention._by_segment

    def changed(*given: Any) -> torch.Tensor:
        return right(*change(*given))

    return lambda patch: patch.setattr(attention, "_by_segment", changed)


def _scaled_back(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    return tensor.detach() + factor * (tensor - tensor.detach())


def _in_prefix(tensor: torch.Tensor, sharing: SharedRow) -> torch.Tensor:
    """The same numbers, of which those of prefixes take no gradient."""
    where = torch.zeros(tensor.shape[2], 1, dtype=torch.bool)
    for _, prefix in _branches(sharing):
        where[prefix] = True
    return torch.where(where, tensor.detach(), tensor)


def _in_last_branch(tensor: torch.Tensor, sharing: SharedRow) -> torch.Tensor:
    last, _ = _branches(sharing)[-1]
    return torch.cat((tensor[:, :, : last.start], tensor[:, :, last].detach()), dim=2)


def _group_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.repeat(1, 2, 1, 1)  # heads 0 1 0 1 where 0 0 1 1 is right


# What a row is laid out as


def _layout(change: Callable[[Batch], Batch]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(forward, "lay_out_shared", lambda *a, **k: change(lay_out_shared(*a, **k)))


def _rows(change: Callable[[Batch], Batch]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(forward, "lay_out_rows", lambda *a, **k: change(lay_out_rows(*a, **k)))


def _along_the_row(batch: Batch) -> Batch:
    return replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])


def _branches_too_far(batch: Batch) -> Batch:
    assert batch.sharing is not None
    assert batch.position_ids is not None
    positions = batch.position_ids.clone()
    for own, _ in _branches(batch.sharing):
        positions[..., own] += 1
    return replace(batch, position_ids=positions)


def _of_last_response(batch: Batch, more: int) -> Batch:
    return replace(batch, predictors=batch.predictors + more * (batch.responses == batch.responses.max()))


def _without_last_token(batch: Batch) -> Batch:
    return replace(
        batch,
        predictors=batch.predictors[:-1], targets=batch.targets[:-1], responses=batch.responses[:-1],
        rounds=batch.rounds[:-1],
    )  # fmt: skip


def _images_swapped(batch: Batch) -> Batch:
    swapped = [{name: pixels.flip(0) for name, pixels in one.items()} for one in batch.image_inputs]
    return replace(batch, image_inputs=tuple(swapped))


# What the head makes of it


def _logps(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Patch], None]:
    right = logprobs.token_logps
    return lambda patch: patch.setattr(logprobs, "token_logps", lambda *given: change(right(*given)))


class _NeighboursSlope(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logps: torch.Tensor) -> torch.Tensor:
        return logps.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0].flip(0)


def _frozen_at_prefix(patch: Patch) -> None:
    """An adapter that is off, in the backward pass, for the tokens of prefixes."""
    right = forward.ForwardPass.answer_logps

    def answer_logps(self: Any, model: Any, batch: Batch, shown: Any) -> torch.Tensor:
        sharing = batch.sharing
        assert sharing is not None

        def hook(_module: Any, _given: Any, out: torch.Tensor) -> torch.Tensor:
            return _in_prefix(out[:, None], sharing)[:, 0]

        hooks = [
            part.register_forward_hook(hook)
            for place, part in model.named_modules()
            if place.endswith("lora_B.default")
        ]
        try:
            return right(self, model, batch, shown)
        finally:
            for one in hooks:
                one.remove()

    patch.setattr(forward.ForwardPass, "answer_logps", answer_logps)


MISTRAL, GEMMA, QWEN = "LLaVA, Mistral with a short window", "Gemma3", "Qwen2.5-VL"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, in which model, and in which layout."""

    put_in: Callable[[Patch], None]
    name: str = "LLaVA, Llama"
    layout: str = SHARED


FORWARD = {
    "a token sees the one after it": Fault(_scores(_one_ahead)),
    "a token does not see itself": Fault(_scores(_not_itself)),
    "the prefix is shown twice": Fault(_scores(_on_prefix(0.6931))),
    "the prefix is missing": Fault(_scores(_on_prefix(-torch.inf))),
    "the last token of the prefix is missing": Fault(_scores(_without_end)),
    "an answer sees the one of its sibling": Fault(_scores(_sibling)),
    "an answer sees the prompt of another item": Fault(_scores(_neighbour_item)),
    "scores are scaled by something else": Fault(_attention(lambda q, k, v, s, *rest: (q, k, v, 0.8 * s, *rest))),
    "heads take the keys of another group": Fault(
        _attention(lambda q, k, v, *rest: (q, _group_of(k), _group_of(v), *rest))
    ),
    "the window is ignored": Fault(_attention(lambda q, k, v, s, _w, row: (q, k, v, s, None, row)), MISTRAL),
    "the window is one token short": Fault(_attention(lambda q, k, v, s, w, row: (q, k, v, s, w - 1, row)), MISTRAL),
    "images are read in order": Fault(
        _attention(lambda q, k, v, s, w, row: (q, k, v, s, w, replace(row, blocks=None))), GEMMA
    ),
    "images see one another": Fault(
        _attention(lambda q, k, v, s, w, row: (q, k, v, s, w, replace(row, blocks=row.blocks.clamp(max=0)))), GEMMA
    ),
    "positions count along the row": Fault(_layout(_along_the_row)),
    "positions of answers are one too far": Fault(_layout(_branches_too_far)),
    "positions have one axis": Fault(lambda patch: patch.setattr(forward, "positions_of", lambda network: None), QWEN),
    "answers are read at the token itself": Fault(_layout(lambda one: replace(one, predictors=one.predictors + 1))),
    "answers are read two tokens before": Fault(_layout(lambda one: replace(one, predictors=one.predictors - 1))),
    "the last response is read at another place": Fault(_layout(lambda one: _of_last_response(one, -1))),
    "the log-probability is of a neighbouring token": Fault(
        _layout(lambda one: replace(one, targets=one.targets.roll(1)))
    ),
    "the last token is left out": Fault(_layout(_without_last_token)),
    "a token counts for another response": Fault(_layout(lambda one: replace(one, responses=one.responses.roll(1)))),
    "the images of an item change places": Fault(_layout(_images_swapped)),
    "one mask for all lets all see all": Fault(
        lambda patch: patch.setattr(
            SharedRow,
            "mask",
            lambda row: torch.ones(2 * (int(row.query_starts[-1]),), dtype=torch.bool).tril()[None, None],
        ),
        layout=SHARED_DENSE,
    ),
    "rows are read one token late": Fault(_rows(lambda one: replace(one, predictors=one.predictors - 1)), layout=ROWS),
}
BACKWARD = {
    "the prefix takes no gradient": Fault(
        _attention(lambda q, k, v, s, w, row: (q, _in_prefix(k, row), _in_prefix(v, row), s, w, row))
    ),
    "keys of the prefix take no gradient": Fault(
        _attention(lambda q, k, v, s, w, row: (q, _in_prefix(k, row), v, s, w, row))
    ),
    "values of the prefix take no gradient": Fault(
        _attention(lambda q, k, v, s, w, row: (q, k, _in_prefix(v, row), s, w, row))
    ),
    "values take no gradient": Fault(_attention(lambda q, k, v, *rest: (q, k, v.detach(), *rest))),
    "keys take no gradient": Fault(_attention(lambda q, k, v, *rest: (q, k.detach(), v, *rest))),
    "queries take no gradient": Fault(_attention(lambda q, *rest: (q.detach(), *rest))),
    "values take 1.25 times their gradient": Fault(
        _attention(lambda q, k, v, *rest: (q, k, _scaled_back(v, 1.25), *rest))
    ),
    "the last answer takes no gradient in keys and values": Fault(
        _attention(lambda q, k, v, s, w, row: (q, _in_last_branch(k, row), _in_last_branch(v, row), s, w, row))
    ),
    "the prefix takes no gradient in a window": Fault(
        _attention(lambda q, k, v, s, w, row: (q, _in_prefix(k, row), _in_prefix(v, row), s, w, row)), MISTRAL
    ),
    "the prefix takes no gradient where images see themselves": Fault(
        _attention(lambda q, k, v, s, w, row: (q, _in_prefix(k, row), _in_prefix(v, row), s, w, row)), GEMMA
    ),
    "the adapter takes no gradient at the prefix": Fault(_frozen_at_prefix),
    "all gradients are scaled": Fault(_logps(lambda logps: _scaled_back(logps, 1.25))),
    "gradients come from other tokens": Fault(_logps(_NeighboursSlope.apply)),
    "rows take no gradient": Fault(_logps(lambda logps: logps.detach() + 0 * logps), layout=ROWS),
}


@HALF
@pytest.mark.parametrize("fault", FORWARD)
def test_a_fault_of_the_forward_pass_is_found(fault: str, dtype: torch.dtype, monkeypatch: Patch) -> None:
    one = FORWARD[fault]
    fresh(one.name, dtype)
    one.put_in(monkeypatch)
    with pytest.raises(ValueError, match=r"do not match its own logits \(.*(differ|other answer tokens)"):
        try_out(one.name, dtype, one.layout)


@HALF
@pytest.mark.parametrize("fault", BACKWARD)
def test_a_fault_of_the_backward_pass_is_found(fault: str, dtype: torch.dtype, monkeypatch: Patch) -> None:
    one = BACKWARD[fault]
    fresh(one.name, dtype)
    one.put_in(monkeypatch)
    with pytest.raises(ValueError, match=r"do not match its own logits \(gradients differ by"):
        try_out(one.name, dtype, one.layout)


def test_faults_that_cancel_out_in_a_sum_are_found(monkeypatch: Patch) -> None:
    swing = torch.tensor([0.5, -0.5])
    fresh("LLaVA, Llama", torch.bfloat16)
    _logps(lambda logps: logps + swing.repeat(len(logps))[: len(logps)])(monkeypatch)
    with pytest.raises(ValueError, match=r"log-probabilities differ by 0\.5 nats a token, 0\.1"):
        try_out("LLaVA, Llama", torch.bfloat16, ROWS)


def test_one_token_that_is_far_off_is_found(monkeypatch: Patch) -> None:
    def spoil(logps: torch.Tensor) -> torch.Tensor:
        return logps - (torch.arange(len(logps)) == 1) * 0.4

    fresh("LLaVA, Llama", torch.bfloat16)
    _logps(spoil)(monkeypatch)
    with pytest.raises(ValueError, match=r"the log-probability of a token differs by 0\.4 nats, 0\."):
        try_out("LLaVA, Llama", torch.bfloat16, ROWS)


# What the user gets


def test_an_old_torch_without_the_call_for_a_gpu_takes_the_next_layout_and_says_why(monkeypatch: Patch) -> None:
    monkeypatch.setattr(attention, "_takes_one_call", lambda query, sharing: True)  # as on a GPU, in 16 bits
    for old in (None, SimpleNamespace(varlen_attn=lambda query, key, value, is_causal: None)):
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", old)
        model, items = fresh("LLaVA, Llama", torch.bfloat16)
        way, test = choose_forward(model, items, pad_id=0, max_length=LONGEST)
        assert (way.layout, test.layout) == (SHARED_DENSE, SHARED_DENSE)
        assert describe(test) == (
            "Levels share a row through a full mask, since PyTorch "
            f"{torch.__version__} has no attention over sequences of different lengths with windows and grouped heads "
            "(2.12 has) (shared-prefix and shared-prefix, images with every pass)"
        )


def test_the_next_layout_is_taken_where_gradients_are_wrong_and_the_numbers_are_said(monkeypatch: Patch) -> None:
    model, items = fresh("LLaVA, Llama", torch.float32)
    BACKWARD["values of the prefix take no gradient"].put_in(monkeypatch)
    _, test = choose_forward(model, items, pad_id=0, max_length=LONGEST)
    assert test.layout == SHARED_DENSE
    assert re.match(
        r"Levels share a row .*, since gradients differ by 9\d\.\d%, 1.0% allowed \(shared", str(describe(test))
    )


def test_a_way_that_fails_in_another_process_is_not_taken_here() -> None:
    model, items = fresh("LLaVA, Llama", torch.float32)
    asked = []

    def other_process_fails_first(failure: str | None) -> str | None:
        asked.append(failure)
        return failure or ("its GPU has no such kernel" if len(asked) in (2, 3) else None)

    way, test = choose_forward(model, items, pad_id=0, max_length=LONGEST, agree=other_process_fails_first)
    assert asked == [None] * 4  # usable at all; two ways of the first layout; one of the second
    assert way.layout == SHARED_DENSE
    assert {why for _, why in test.refused} == {"its GPU has no such kernel"}


def test_a_model_that_another_process_cannot_use_is_refused_here_too() -> None:
    model, items = fresh("LLaVA, Llama", torch.float32)
    with pytest.raises(ValueError, match="not finite there"):
        choose_forward(model, items, pad_id=0, max_length=LONGEST, agree=lambda _: "not finite there")


def test_the_model_is_left_as_it_was_and_the_same_is_found_again() -> None:
    model, items = fresh("Gemma3", torch.bfloat16)
    before = [(one.requires_grad, one.clone()) for one in model.parameters()]
    tests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        tests.append(choose_forward(model, items, pad_id=0, max_length=LONGEST)[1])
        assert torch.equal(torch.get_rng_state(), state)
    assert tests[0] == tests[1]
    for one, (trained, kept) in zip(model.parameters(), before, strict=True):
        assert one.requires_grad == trained
        assert torch.equal(one, kept)
        assert one.grad is None


def test_passes_are_as_few_and_as_short_as_can_be() -> None:
    model = fresh("LLaVA, Llama", torch.float32)[0]
    prompt = [IMAGE] * 16 + [7] * 9
    levels = tuple(answer(prompt, [token] * 300) for token in (11, 12, 13, 14))
    image = {"pixel_values": torch.zeros(1, 3, 28, 28)}
    items = shorten([EncodedItem(responses=levels, image_inputs=image)] * 3)
    assert [[len(one.input_ids) for one in item.responses] for item in items] == [[25 + 64] * 3, [25 + 64] * 2]
    seen: list[int] = []
    steps: list[int] = []
    decoder = model.get_base_model().get_decoder()
    hook = decoder.layers[0].register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1]))
    choose_forward(model, items, pad_id=0, max_length=LONGEST, advance=lambda: steps.append(len(seen)))
    hook.remove()
    # five responses, one of them up to its middle, and all in one row
    assert seen == [89, 89, 89, 89, 89, 25 + 32, 25 + 3 * 64 + 25 + 2 * 64]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert plain_passes(items) == 6


def test_an_image_of_a_later_round_is_never_cut_off() -> None:
    model = fresh("LLaVA, Llama", torch.float32)[0]
    first = [*[IMAGE] * 16, 7, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, *[IMAGE] * 16, 8]  # answered by 20 to 29
    responses = tuple(answer(first, end, range(17, 27)) for end in ([31, 2], [32, 33, 2]))
    images = {"pixel_values": torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))}
    items = shorten([EncodedItem(responses=responses, image_inputs=images)])
    assert choose_forward(model, items, pad_id=0, max_length=LONGEST)[1].layout == SHARED


def test_weights_outside_the_layers_are_trained_or_the_way_is_refused() -> None:
    torch.manual_seed(0)
    network = build("LLaVA, Llama", torch.float32).unload()
    targets = r".*(q_proj|v_proj)"  # of the vision tower too
    model = get_peft_model(network, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    items = fresh("LLaVA, Llama", torch.float32)[1]
    way, test = choose_forward(model, items, pad_id=0, max_length=LONGEST)
    assert (way.layout, way.image_once) == (SHARED, False)
    assert test.refused[0][1] == "what is trained changes what the model is shown of an image"
