"""What a training step shows of itself: margin and accuracy by pair distance, reward by level."""

from collections.abc import Callable

import torch

from amp_cli.training.loss import MDPOLoss

MOST_LEVELS = 64
"""Levels beyond this are trained on like all, but listed together."""


class PairMetrics:
    """Sums over the steps between two log lines."""

    def __init__(self, device: torch.device) -> None:
        # by distance of the pair: count, margin, in order; by level: count, reward
        self._pairs = torch.zeros(MOST_LEVELS, 3, dtype=torch.float64, device=device)
        self._rewards = torch.zeros(MOST_LEVELS, 2, dtype=torch.float64, device=device)

    def add(self, result: MDPOLoss) -> None:
        """Take in one forward pass."""
        distance = torch.tensor([worse - better for better, worse in result.pairs], device=result.margins.device)
        margin, place = _present(result.margins, distance)
        self._pairs.index_add_(0, place, torch.stack((torch.ones_like(margin), margin, (margin > 0).double()), dim=1))
        reward, place = _present(result.rewards, torch.arange(result.rewards.shape[1], device=result.rewards.device))
        self._rewards.index_add_(0, place, torch.stack((torch.ones_like(reward), reward), dim=1))

    def drain(self, over_all_processes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means since the last call, over all processes, and start again.

        Keys: `margin`, `accuracy`, `margin_distance_D`, `accuracy_distance_D` (1 = adjacent levels), `reward_level_L`.
        """
        pairs, rewards = over_all_processes(self._pairs).tolist(), over_all_processes(self._rewards).tolist()
        self._pairs.zero_()
        self._rewards.zero_()
        values: dict[str, float] = {}
        count, margin, in_order = (sum(column) for column in zip(*pairs, strict=True))
        if count:
            values |= {"margin": margin / count, "accuracy": in_order / count}
        for distance, (count, margin, in_order) in enumerate(pairs):
            if count:
                values[f"margin_distance_{distance}"] = margin / count
                values[f"accuracy_distance_{distance}"] = in_order / count
        for level, (count, reward) in enumerate(rewards):
            if count:
                values[f"reward_level_{level}"] = reward / count
        return values


def _present(values: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values that are there (NaN marks absent levels) and the column number of each, both flat."""
    there = ~values.isnan()
    return values[there].double(), columns.clamp(max=MOST_LEVELS - 1).expand_as(values)[there]
