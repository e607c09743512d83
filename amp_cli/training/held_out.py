"""Choosing among checkpoints: what items that are held out of training say of it, step by step.

    step               10     20     30     40
    accuracy           .81    .88    .86    .85      step 20 has the best adapter; a patience of 2 ends it at 40
    best, nats/token   .02    .01   -.04   -.15      the model begins to forget what the best answers say

All that is decided follows from the lines of metrics.jsonl, so that a resumed run decides as an unbroken one.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amp_cli.training.arguments import FOLDER
from amp_cli.training.curves import PREFIX, PROXY
from amp_cli.training.data import EncodedItems

Row = Mapping[str, Any]

LOSS, ACCURACY, PAIRS = f"{PREFIX}loss", f"{PREFIX}accuracy", f"{PREFIX}pairs"
FALL = 0.1
"""Nats a token that `PROXY` may fall, from its highest and below the reference: a tenth of each token's probability."""
LEAST_DROP = 0.02
"""How much of its best accuracy is lost before it is told, however many pairs there are."""


def rows_of(records: Sequence[Row]) -> list[Row]:
    """Return the lines of metrics.jsonl that tell of held-out items."""
    return [record for record in records if LOSS in record]


def best_of(rows: Sequence[Row]) -> Row | None:
    """Return the first row with the most pairs in order, or of those with the least loss; for sft by loss alone."""
    return min(rows, key=lambda row: (-row.get(ACCURACY, 0.0), row[LOSS]), default=None)


def since_best(rows: Sequence[Row]) -> int:
    """Return how many evaluations have passed without a better one."""
    best = best_of(rows)
    return 0 if best is None else len(rows) - 1 - rows.index(best)


def overtraining(records: Sequence[Row]) -> str | None:
    """Return why the last evaluation speaks of over-training, in a sentence, or None.

    Accuracy is compared with training's own, and must have lost more than two standard errors of a share, at most
    1 / sqrt(pairs), so that a few items do not raise the alarm.

    Args:
        records: all lines of metrics.jsonl so far.
    """
    rows = rows_of(records)
    if len(rows) < 2:
        return None
    last, best = rows[-1], best_of(rows)
    highest = max((row for row in rows if PROXY in row), key=lambda row: row[PROXY], default=last)
    if PROXY in last and last[PROXY] < 0 and highest[PROXY] - last[PROXY] >= FALL:
        return (
            f"the best answers' log-probability fell from {highest[PROXY]:+.2f} to {last[PROXY]:+.2f} nats a token "
            f"against the reference since step {highest['step']}; recall falls with it"
        )
    training = {record["step"]: record["accuracy"] for record in records if "accuracy" in record}
    if best is None or ACCURACY not in last or not {last["step"], best["step"]} <= training.keys():
        return None
    lost, gained = best[ACCURACY] - last[ACCURACY], training[last["step"]] - training[best["step"]]
    if lost > max(LEAST_DROP, 1 / math.sqrt(last[PAIRS])) and gained > 0:
        return (
            f"accuracy fell from {best[ACCURACY]:.3f} to {last[ACCURACY]:.3f} on held-out items since step "
            f"{best['step']}, and rose from {training[best['step']]:.3f} to {training[last['step']]:.3f} in training"
        )
    return None


def told(row: Row) -> str:
    """Return a row as a line of talk."""
    parts = [f"loss {row[LOSS]:.4f}"]
    if ACCURACY in row:
        distances = sorted(name for name in row if name.startswith(f"{ACCURACY}_distance_"))
        by_distance = " ".join(f"{row[name]:.3f}" for name in distances)
        parts += [f"in order {row[ACCURACY]:.3f} (by distance {by_distance})"]
        parts += [f"margin {row[f'{PREFIX}margin']:.2f}", f"best answer {row[PROXY]:+.3f} nats a token"]
    return f"Held out, step {row['step']}: {', '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The items held out, when they are looked at, and what was found so far: the same in every process.

    Attributes:
        every: steps from one evaluation to the next; the last step has one too.
        patience: evaluations without a better one after which the training ends; None: it does not.
        rows: the evaluations so far, as metrics.jsonl has them.
    """

    data: EncodedItems
    run_folder: Path
    every: int
    patience: int | None
    rows: list[Row] = field(default_factory=list)

    @property
    def is_exhausted(self) -> bool:
        return self.patience is not None and since_best(self.rows) >= self.patience

    def place(self, step: int) -> Path:
        """Return where the adapter of a step is kept while it is, or was, the best."""
        return self.run_folder / FOLDER / f"best-{step}"

    def tidy(self) -> None:
        """Remove adapters that are not the best: once a checkpoint is whole, no kill takes back the steps before it."""
        best = best_of(self.rows)
        for folder in (self.run_folder / FOLDER).glob("best-*"):
            if best is not None and folder != self.place(best["step"]):
                shutil.rmtree(folder)
