"""Computes what one million items cost at 7B, 13B and 34B: the table of docs/scale.md, which a test compares with it.

Run: python tests/bench/scale.py
Nothing of the models need be on the disk, and nothing is trained: shapes give bytes, tokens and operations. Each item
is one image of 640 x 480, a question of 11 words and 4 answers of 81; each is seen once, so that the reference runs
in every step. A multiplication and an addition are two operations. N are the weights of the language model's layers:
policy, reference, and checkpointing's second forward pass take 2 N a token each, and so does the gradient by
activations. Left out are attention between tokens, the head (at answer tokens only), the image tower (once an item)
and LoRA. The rate is stated, not measured.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save

from amp_cli.models.shapes import outline_of_shape
from amp_cli.models.spec import ModelSpec
from amp_cli.training.config import load_config
from amp_cli.training.dry_run import DryRun, PlannedGpus, plan_training
from amp_cli.training.memory import shown_bytes
from amp_cli.training.reference import ITEMS_PER_FILE

MODELS = {"7B": "7b", "13B": "13b", "34B": "llava-1.6-34b"}
ITEMS = 1_000_000
LEVELS = 4
CARDS = (16, 24, 32, 40, 48, 80)
PEAK = 312e12  # bf16 operations a second of an A100, as NVIDIA's data sheet states them
UTILISATION = 0.3
PASSES = 4  # policy, the same again for checkpointing, its gradient, reference


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one million items cost. Bytes, tokens, operations; `weights`: N."""

    plan: DryRun
    weights: int

    @property
    def tokens(self) -> float:
        return self.plan.data.unique_mean * ITEMS

    @property
    def operations(self) -> float:
        return 2 * PASSES * self.weights * self.tokens

    @property
    def rate(self) -> float:
        """Tokens a second of one card, by the stated share of its peak."""
        return PEAK * UTILISATION / (2 * PASSES * self.weights)

    @property
    def held(self) -> int:
        return self.plan.estimate.total(checkpointing=True)

    def cells(self) -> list[str]:
        smallest = next((card for card in CARDS if PlannedGpus(count=1, memory=card * 10**9).room >= self.held), None)
        checkpoint = self.plan.estimate.adapter // 16 * 12  # weights and AdamW's two moments, float32
        return [
            f"{self.plan.data.unique_mean:,.0f} ({self.plan.data.tokens_mean:,.0f})",
            f"{self.tokens / 1e9:.2f} billion",
            shown_bytes(self.plan.estimate.weights),
            shown_bytes(self.held),
            "none of one card" if smallest is None else f"{smallest} GB",
            f"{self.operations:.2g}",
            f"{self.rate:,.0f}",
            f"{self.tokens / self.rate / 3600:,.0f}",
            shown_bytes(cache_bytes()),
            shown_bytes(checkpoint),
        ]


ROWS = (
    "tokens of an item, prefix shared (levels apart)",
    "tokens in all",
    "weights on each card, NF4",
    "memory of a card, checkpointed, 4,096 tokens a pass",
    "smallest card that fits",
    "operations",
    "tokens a second of an A100 at 30 % of its peak",
    "hours on one such card",
    "reference cache (`--reference cache`)",
    "a checkpoint",
)


def cache_bytes() -> int:
    """Return what the reference cache of all items takes: files of so many items, SHA-256 keys, float64."""
    sums = torch.zeros(LEVELS, 1, dtype=torch.float64)
    return len(save({f"{number:064x}": sums.clone() for number in range(ITEMS_PER_FILE)})) * ITEMS // ITEMS_PER_FILE


def cost(model: str) -> Cost:
    """Plan one epoch over items of the stated kind."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        Image.new("RGB", (640, 480), (90, 120, 150)).save(folder / "0.png")
        question, answer = "What can be seen near the large window of the little kitchen?", " ".join(["table"] * 80)
        item: dict[str, Any] = {"id": "0", "images": ["0.png"], "questions": [question]}
        item["levels"] = [{"answers": [f"{answer} {letter}"], "source": "made"} for letter in "abcd"[:LEVELS]]
        (folder / "prefs.jsonl").write_text(json.dumps(item) + "\n")
        config = load_config("7b", base=model, overrides=["epochs=1"])
        planned = PlannedGpus(count=1, memory=80 * 10**9)
        plan = plan_training(config, prefs=folder / "prefs.jsonl", image_root=folder, planned=planned)
    decoder = outline_of_shape(ModelSpec(model=model)).model.get_decoder()
    return Cost(plan=plan, weights=sum(weight.numel() for weight in decoder.layers.parameters()))


def table() -> str:
    """Return the table in Markdown."""
    columns = [cost(model).cells() for model in MODELS.values()]
    lines = [f"| one million items | {' | '.join(MODELS)} |", "| --- |" + " --- |" * len(MODELS)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in zip(ROWS, zip(*columns, strict=True), strict=True)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
