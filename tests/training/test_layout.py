"""Rows and shared prefixes, and the places that predict answer tokens: every value by hand."""

import pytest
import torch

from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.layout import (
    Segment,
    by_level,
    common_prefix,
    lay_out_rows,
    lay_out_shared,
    level_mask,
    unique_tokens,
)


def response(ids: list[int], rounds: list[int]) -> EncodedResponse:
    marks = torch.tensor(rounds)
    return EncodedResponse(input_ids=torch.tensor(ids), supervised=marks >= 0, round=marks)


def item(*responses: EncodedResponse) -> EncodedItem:
    return EncodedItem(responses=responses, image_inputs={})


TWO_ROUNDS = response([5, 6, 7, 8, 9, 10], [-1, 0, 0, -1, 1, 1])
SHORT = response([5, 6, 7], [-1, 0, 0])
OTHER = response([5, 6, 9, 4], [-1, 0, 0, 0])


def test_rows_are_padded_on_the_right_and_the_mask_says_where() -> None:
    batch = lay_out_rows([item(TWO_ROUNDS, SHORT)], pad_id=99)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10], [5, 6, 7, 99, 99, 99]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_a_token_is_predicted_one_place_before_it() -> None:
    batch = lay_out_rows([item(TWO_ROUNDS, SHORT)])
    assert batch.predictors.tolist() == [0, 1, 3, 4, 6, 7]  # the second row starts at 6
    assert batch.targets.tolist() == [6, 7, 9, 10, 6, 7]
    assert batch.responses.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.rounds.tolist() == [0, 0, 1, 1, 0, 0]


def test_levels_share_one_row_and_the_prefix_stands_in_it_once() -> None:
    prompt = [1, 2, 3]
    better = response([*prompt, 7, 8], [-1, -1, -1, 0, 0])
    worse = response([*prompt, 9, 8, 6], [-1, -1, -1, 0, 0, 0])
    batch = lay_out_shared([item(better, worse)])
    assert batch.input_ids.tolist() == [[1, 2, 3, 7, 8, 9, 8, 6]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch.sharing is not None
    assert batch.sharing.segments == (Segment(0, 3, 0, 0), Segment(3, 2, 0, 3), Segment(5, 3, 0, 3))
    # the first token of each branch is predicted from the prefix's last place
    assert batch.predictors.tolist() == [2, 3, 2, 5, 6]
    assert batch.targets.tolist() == [7, 8, 9, 8, 6]
    assert batch.responses.tolist() == [0, 0, 1, 1, 1]


def test_a_prefix_may_reach_into_the_answers_and_counts_for_every_level() -> None:
    batch = lay_out_shared([item(TWO_ROUNDS, OTHER)])  # 5 6 are shared, and 6 is an answer's token
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 9, 4]]
    assert batch.predictors.tolist() == [0, 1, 3, 4, 0, 1, 6]
    assert batch.targets.tolist() == [6, 7, 9, 10, 6, 9, 4]
    assert batch.responses.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch.rounds.tolist() == [0, 0, 1, 1, 0, 0, 0]


def test_a_response_that_another_begins_with_keeps_a_token_of_its_own() -> None:
    assert common_prefix([TWO_ROUNDS.input_ids, SHORT.input_ids]) == 2
    batch = lay_out_shared([item(TWO_ROUNDS, SHORT)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 7]]


def test_several_items_follow_one_another_and_do_not_see_one_another() -> None:
    batch = lay_out_shared([item(SHORT, OTHER), item(SHORT, OTHER)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 4, 5, 6, 7, 9, 4]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 2, 3]]
    assert batch.sharing is not None
    seen = batch.sharing.mask()[0, 0].int().tolist()
    assert seen[:5] == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0, 0, 0, 0],
    ]
    assert [row[5:] for row in seen[5:]] == [row[:5] for row in seen[:5]]
    assert all(not any(row[:5]) for row in seen[5:])


def test_the_gathered_keys_say_the_same_as_the_mask() -> None:
    sharing = lay_out_shared([item(SHORT, OTHER), item(TWO_ROUNDS, OTHER)]).sharing
    assert sharing is not None
    seen = torch.zeros(sharing.mask().shape[2:], dtype=torch.bool)
    pairs = zip(sharing.query_starts.tolist(), sharing.key_starts.tolist(), strict=True)
    for (start, first), segment in zip(pairs, sharing.segments, strict=False):
        keys = sharing.keys[first : first + segment.prefix_length + segment.length]
        for place in range(segment.length):  # aligned at the lower right
            seen[start + place, keys[: segment.prefix_length + place + 1]] = True
    assert torch.equal(seen, sharing.mask()[0, 0])


def test_unique_tokens_count_a_shared_prefix_once() -> None:
    assert unique_tokens(item(TWO_ROUNDS, OTHER)) == 2 + 4 + 2
    assert unique_tokens(item(SHORT)) == 3  # a lone response shares all but its last token with itself


def test_positions_on_three_axes_go_along_with_their_tokens() -> None:
    def three_axes(_item: EncodedItem, one: EncodedResponse) -> torch.Tensor:
        return torch.arange(len(one.input_ids)) + torch.tensor([[0], [100], [200]])

    batch = lay_out_shared([item(SHORT, OTHER)], positions=three_axes)
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[[0, 1, 2, 2, 3]], [[100, 101, 102, 102, 103]], [[200, 201, 202, 202, 203]]]


def test_ragged_items_become_a_matrix_with_a_mask() -> None:
    batch = lay_out_rows([item(SHORT, SHORT), item(SHORT, SHORT, TWO_ROUNDS)])
    mask = level_mask(batch.levels)
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert by_level(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), mask).tolist() == [[1, 2, 0], [3, 4, 5]]


def test_by_level_hands_gradients_through() -> None:
    sums = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    (by_level(sums, mask) * torch.tensor([[10.0, 99.0], [20.0, 30.0]])).sum().backward()
    assert sums.grad is not None
    assert sums.grad.tolist() == pytest.approx([10.0, 20.0, 30.0])
