"""Rows, their padding, and the places that predict answer tokens."""

import pytest
import torch

from amp_cli.core.prompts import EncodedItem, EncodedResponse
from amp_cli.training.layout import by_level, lay_out, level_mask


def response(ids: list[int], rounds: list[int]) -> EncodedResponse:
    marks = torch.tensor(rounds)
    return EncodedResponse(input_ids=torch.tensor(ids), supervised=marks >= 0, round=marks)


def item(*responses: EncodedResponse) -> EncodedItem:
    return EncodedItem(responses=responses, image_inputs={})


TWO_ROUNDS = response([5, 6, 7, 8, 9, 10], [-1, 0, 0, -1, 1, 1])
SHORT = response([5, 6, 7], [-1, 0, 0])


def test_rows_are_padded_on_the_right_and_the_mask_says_where() -> None:
    batch = lay_out([item(TWO_ROUNDS, SHORT)], pad_id=99)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10], [5, 6, 7, 99, 99, 99]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_a_token_is_predicted_one_place_before_it() -> None:
    batch = lay_out([item(TWO_ROUNDS, SHORT)])
    assert batch["predictors"].tolist() == [0, 1, 3, 4, 6, 7]  # the second row starts at 6
    assert batch["targets"].tolist() == [6, 7, 9, 10, 6, 7]
    assert batch["rows"].tolist() == [0, 0, 0, 0, 1, 1]


def test_later_rounds_weigh_more_when_asked_to() -> None:
    assert lay_out([item(TWO_ROUNDS)], round_weight=0.05)["weights"].tolist() == [1.0, 1.0, 1.05, 1.05]
    assert lay_out([item(TWO_ROUNDS)])["weights"].tolist() == [1.0] * 4


def test_ragged_items_become_a_matrix_with_a_mask() -> None:
    batch = lay_out([item(SHORT, SHORT), item(SHORT, SHORT, TWO_ROUNDS)])
    mask = level_mask(batch["levels"])
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert by_level(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), mask).tolist() == [[1, 2, 0], [3, 4, 5]]


def test_by_level_hands_gradients_through() -> None:
    sums = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    (by_level(sums, mask) * torch.tensor([[10.0, 99.0], [20.0, 30.0]])).sum().backward()
    assert sums.grad is not None
    assert sums.grad.tolist() == pytest.approx([10.0, 20.0, 30.0])
