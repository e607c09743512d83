"""How an update's items are cut into forward passes."""

from amp_cli.training.rows.layout import cut_by_tokens, spread


def test_the_longest_come_first_and_each_goes_where_there_is_room() -> None:
    assert cut_by_tokens([30, 70, 20, 50], 100) == [[1, 0], [3, 2]]


def test_an_item_longer_than_the_budget_goes_alone() -> None:
    assert cut_by_tokens([500, 40, 40], 100) == [[0], [1, 2]]


def test_items_of_one_length_stay_in_their_order() -> None:
    assert cut_by_tokens([10, 10, 10], 20) == [[0, 1], [2]]


def test_rows_that_are_padded_together_are_counted_padded() -> None:
    lengths = [9, 2, 2]  # in rows of 9 when together with the first
    assert cut_by_tokens(lengths, 18, together=lambda numbers: len(numbers) * max(lengths[n] for n in numbers)) == [
        [0, 1],
        [2],
    ]


def test_passes_are_split_until_every_process_has_as_many() -> None:
    assert spread([[0, 1, 2], [3]], 3) == [[0, 1], [3], [2]]
    assert spread([[0], [1]], 2) == [[0], [1]]
    assert spread([[0], [1]], 3) == [[0], [1], []]
    assert spread([], 1) == [[]]
