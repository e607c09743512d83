"""Packed rows against plain one-by-one passes, in tiny models of many families: sums and gradients."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn.functional import scaled_dot_product_attention

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows import families
from amp_cli.training.rows.attention import SHARED_PREFIX, shared_prefix_attention, use_attention
from amp_cli.training.rows.forward import LAYOUTS, ROWS, SHARED_DENSE, ForwardPass
from amp_cli.training.rows.layout import lay_out_shared
from amp_cli.training.rows.selftest import choose_forward, describe
from tests.support.family_measures import Difference, Measured, by, compare, plainly
from tests.support.tiny_families import FAMILIES, IMAGE, TEXT, as_text, build, llava, make_items

LONGEST = 200  # longer than any item of the tests and than any sliding window


@cache
def _read(name: str, dtype: torch.dtype) -> tuple[Any, list[EncodedItem], Measured]:
    """The model, its items, and what plain passes over them give."""
    model = build(name, dtype)
    items = make_items(name, model.get_base_model(), dtype)
    return model, items, plainly(name, model, items)


def model_of(name: str, dtype: torch.dtype = torch.float64) -> Any:
    return _read(name, dtype)[0]


def items_of(name: str, dtype: torch.dtype = torch.float64) -> list[EncodedItem]:
    return _read(name, dtype)[1]


def chosen(name: str, dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[ForwardPass, Any]:
    return choose_forward(model_of(name, dtype), items_of(name, dtype), pad_id=0, **{"max_length": LONGEST, **settings})


def difference(name: str, way: ForwardPass, dtype: torch.dtype = torch.float64) -> Difference:
    return compare(by(way, model_of(name, dtype), items_of(name, dtype)), _read(name, dtype)[2])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_chosen_layout_is_the_expected_one_and_equals_plain_passes(name: str, dtype: torch.dtype) -> None:
    way, test = chosen(name, dtype)
    assert (way.layout, way.image_once) == (FAMILIES[name].layout, FAMILIES[name].image_once)
    assert {how for how, _ in test.refused} == set(LAYOUTS[: LAYOUTS.index(way.layout)])
    found = difference(name, way, dtype)
    assert max(found.sums, found.gradient) < (FAMILIES[name].floor if dtype == torch.float64 else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_other_layouts_are_exact_too_or_refused_by_rule(name: str) -> None:
    network = model_of(name).get_base_model()
    for layout in (SHARED_DENSE, ROWS):
        why = families.why_not_shared(network, max_length=LONGEST, dense_mask=True) if layout == SHARED_DENSE else None
        assert (why is None) == (layout == ROWS or FAMILIES[name].dense)
        if why is None:
            for image_once in (True, False):
                way = ForwardPass(network=network, pad_id=0, layout=layout, image_once=image_once)
                found = difference(name, way)
                assert max(found.sums, found.gradient) < FAMILIES[name].floor


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model = model_of(name)
    way, _ = chosen(name)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        found = difference(name, way)
    finally:
        model.gradient_checkpointing_disable()
    assert max(found.sums, found.gradient) < FAMILIES[name].floor


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_without_images_needs_none(name: str) -> None:
    model, items = model_of(name), [as_text(item) for item in items_of(name)]
    way, _ = chosen(name)
    found = compare(by(way, model, items), plainly(name, model, items))
    assert max(found.sums, found.gradient) < FAMILIES[name].floor


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_image_of_a_test_item_matters(name: str) -> None:
    *others, last = items_of(name)
    shown = FAMILIES[name].show(model_of(name).get_base_model(), [6], torch.float64)[1]  # of the size of number 3
    way, _ = chosen(name)
    changed = (
        by(way, model_of(name), [*others, replace(last, image_inputs=shown)]).sums - _read(name, torch.float64)[2].sums
    )
    assert changed[:-2].abs().max() < 1e-6
    assert changed[-2:].abs().min() > 1e-3


# What a test on a few short items would miss


def test_one_mask_for_all_layers_is_refused_where_an_item_may_be_longer_than_the_window() -> None:
    network = llava(hf.MistralConfig(**TEXT, sliding_window=64))

    def why(max_length: int, *, dense_mask: bool) -> str | None:
        return families.why_not_shared(network, max_length=max_length, dense_mask=dense_mask)

    assert why(64, dense_mask=True) is None
    assert (
        why(65, dense_mask=True)
        == "a single mask for all layers would lose its sliding window of 64 tokens; max_length is 65"
    )
    assert why(65, dense_mask=False) is None  # our own attention knows the window


def test_a_window_that_a_model_does_not_tell_its_attention_is_refused_even_on_short_items() -> None:
    torch.manual_seed(0)
    config = hf.Qwen2MoeConfig(
        **TEXT, use_sliding_window=True, sliding_window=4000, max_window_layers=3, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, num_experts=2,
    )  # fmt: skip
    way = ForwardPass(network=llava(config), pad_id=0)
    way.use()
    batch = way.lay_out([as_text(items_of("LLaVA, Llama")[0])])
    with pytest.raises(ValueError, match="use a sliding window but do not pass it"):
        way.network.model(input_ids=batch.input_ids, position_ids=batch.position_ids, sharing=batch.sharing)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_scaled_by_what_is_read_together_are_refused_beyond_their_length(kind: str) -> None:
    factors = [1.0] * 4
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    rope |= {"long_factor": factors, "short_factor": factors, "original_max_position_embeddings": 64}
    network = llava(hf.LlamaConfig(**TEXT, max_position_embeddings=64, rope_parameters=rope))
    for dense_mask in (False, True):
        assert families.why_not_shared(network, max_length=64, dense_mask=dense_mask) is None
        why = families.why_not_shared(network, max_length=65, dense_mask=dense_mask)
        assert why == "beyond 64 tokens, its positions depend on the longest item in the batch; max_length is 65"


def test_images_that_see_themselves_in_a_way_unknown_to_us_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build("Gemma3").get_base_model()
    assert families.why_not_shared(network, max_length=LONGEST, dense_mask=False) is None
    network.config.get_text_config().use_bidirectional_attention = True  # Gemma4 says "vision"
    monkeypatch.setattr(families, "WHOLE_IMAGES", ())
    why = families.why_not_shared(network, max_length=LONGEST, dense_mask=False)
    assert why == "the tokens of an image see one another in some of its layers"


def test_a_family_that_marks_tokens_in_a_way_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "MARKED_OTHERWISE", ("qwen2_5_vl",))
    with pytest.raises(ValueError, match="models of type 'qwen2_5_vl' mark image tokens in their own way"):
        chosen("Qwen2.5-VL")


def test_layers_that_read_a_row_in_order_are_found_out_by_measuring_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_cli.training.rows.selftest.why_not_shared", lambda network, **settings: None)
    for name in ("LFM2-VL", "Qwen3.5", "PaliGemma"):
        way, test = chosen(name)
        assert way.layout == ROWS
        assert all("differ by" in why for _, why in test.refused)


def test_a_model_in_which_answers_see_ahead_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "WHOLE_PROMPTS", ())  # its answers then count as prompt, read in both directions
    with pytest.raises(ValueError, match="depends on the tokens after it"):
        chosen("PaliGemma")


def test_a_row_must_hold_each_item_s_own_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_cli.training.rows.forward.positions_of", lambda network: None)
    way, test = chosen("Qwen2.5-VL")
    assert way.layout == ROWS
    assert "differ by" in test.refused[0][1]


class _Marked:
    def forward(self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor) -> None: ...


def test_a_model_that_names_no_image_token_is_read_as_text() -> None:
    network = SimpleNamespace(model=_Marked(), config=hf.LlamaConfig(**TEXT))
    types = families.token_types(network, torch.tensor([[5, IMAGE, IMAGE, 6]]), torch.tensor([3]))
    assert types["mm_token_type_ids"].tolist() == [[0, 0, 0, 0]]
    network.config = hf.LlavaConfig(image_token_index=IMAGE)
    types = families.token_types(network, torch.tensor([[5, IMAGE, IMAGE, 6]]), torch.tensor([3]))
    assert types["mm_token_type_ids"].tolist() == [[0, 1, 1, 0]]


def test_images_that_see_all_of_themselves_are_numbered_along_the_row() -> None:
    network = model_of("Gemma3").get_base_model()
    blocks = families.image_blocks(network, torch.tensor([IMAGE, IMAGE, 5, 6, IMAGE, 7]))
    assert blocks is not None
    assert blocks.tolist() == [0, 0, -1, -1, 1, -1]
    assert families.image_blocks(model_of("LLaVA, Llama").get_base_model(), torch.tensor([IMAGE, 5])) is None


def test_an_image_in_a_branch_sees_all_of_itself_too() -> None:
    ids = (
        [5, IMAGE, IMAGE, 6, 7],
        [5, IMAGE, IMAGE, 8, IMAGE, IMAGE, IMAGE, 9],
    )  # the second shows one in a later round
    responses = tuple(
        EncodedResponse(input_ids=torch.tensor(one), supervised=torch.arange(len(one)) > 2, round=torch.zeros(len(one)))
        for one in ids
    )
    batch = lay_out_shared([EncodedItem(responses=responses, image_inputs={})])
    assert batch.sharing is not None
    sharing = replace(
        batch.sharing, blocks=families.image_blocks(model_of("Gemma3").get_base_model(), batch.input_ids[0])
    )
    query, key, value = torch.randn(3, 1, 2, batch.input_ids.shape[1], 4, dtype=torch.float64)
    layer = SimpleNamespace(config=SimpleNamespace(), layer_idx=0)
    ours, _ = shared_prefix_attention(layer, query, key, value, None, sharing=sharing)
    by_mask = scaled_dot_product_attention(query, key, value, attn_mask=sharing.mask()).transpose(1, 2)
    torch.testing.assert_close(ours, by_mask)


def test_only_the_answers_of_a_model_that_reads_prompts_both_ways_are_causal() -> None:
    network = model_of("PaliGemma").get_base_model()
    ids = torch.tensor([[IMAGE, 5, 6, 7], [IMAGE, 5, 6, 0]])
    types = families.token_types(network, ids, torch.tensor([2, 1]))
    assert types["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]


def test_the_user_is_told_in_plain_words_why_a_slower_way_is_taken() -> None:
    assert describe(chosen("LLaVA, Llama")[1]) is None
    assert describe(chosen("LFM2-VL")[1]) == (
        "Each level has a row of its own, since its layers of type 'conv' cannot be told which tokens see one "
        "another (shared-prefix and shared-prefix-dense-mask)"
    )


def test_attention_that_cannot_be_switched_is_an_error_not_a_wrong_number(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build("LLaVA, Llama").get_base_model()
    monkeypatch.setattr(type(network), "set_attn_implementation", lambda self, names: None)
    with pytest.raises(ValueError, match="attention implementation cannot be changed"):
        use_attention(network, SHARED_PREFIX)
