"""Cuts the items of an update into forward passes that keep within a budget of tokens."""

from collections.abc import Callable, Sequence


def cut_by_tokens(
    lengths: Sequence[int], budget: int, *, together: Callable[[Sequence[int]], int] | None = None
) -> list[list[int]]:
    """Return the passes, each a list of item numbers: the longest items first, each into the first pass with room.

    An item longer than the budget gets a pass of its own.

    Args:
        lengths: tokens of each item alone.
        together: tokens that items of these numbers take in one pass; the sum of their lengths by default.
    """
    together = together or (lambda numbers: sum(lengths[number] for number in numbers))
    passes: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        home = next((one for one in passes if together([*one, number]) <= budget), None)
        if home is None:
            passes.append([number])
        else:
            home.append(number)
    return passes


def spread(passes: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Return the same items in exactly `count` passes, at least as many as there are.

    Under FSDP and ZeRO-3 all processes must make the same number of passes.

    Raises:
        ValueError: there are fewer items than passes.
    """
    result = [list(one) for one in passes]
    if count < len(result) or count > sum(len(one) for one in result):
        raise ValueError(f"{sum(len(one) for one in result)} items in {len(result)} passes cannot make {count}")
    while len(result) < count:
        fullest = max(result, key=len)
        result.append([fullest.pop()])
    return result
