"""How items go through a model: laid out in rows, images shown, log-probabilities summed.

Two levels that share a b c (`layout` draws who sees whom):

    SHARED         a b c D E F               our attention, told the segments               6 tokens
    SHARED_DENSE   a b c D E F               the model's, told a (1, 1, 6, 6) mask          6 tokens
    ROWS           a b c D E / a b c F .     the model's, told a (2, 5) padding mask       10 tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.rows.attention import SHARED_PREFIX, plain_attention, use_attention
from amp_cli.training.rows.families import first_answers, image_blocks, positions_of, token_types
from amp_cli.training.rows.layout import Batch, cut_by_tokens, lay_out_rows, lay_out_shared, unique_tokens
from amp_cli.training.rows.logprobs import answer_logps, image_inputs, sum_by_round

SHARED, SHARED_DENSE, ROWS = "shared-prefix", "shared-prefix-dense-mask", "rows"
LAYOUTS = (SHARED, SHARED_DENSE, ROWS)
"""From the fastest to the one that always works: our own attention, a mask for the model's, a padded row per level."""


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """One way to have a model read items.

    Attributes:
        network: the model under PEFT and wrappers. pad_id: fills plain rows up.
        layout: one of `LAYOUTS`. image_once: encode images once per item and hand the features in.
    """

    network: Any
    pad_id: int
    layout: str = SHARED
    image_once: bool = True

    def use(self) -> None:
        """Set the model's attention for this layout."""
        plain = plain_attention(self.network)
        use_attention(self.network, SHARED_PREFIX if self.layout == SHARED else plain)

    def tokens(self, items: Sequence[EncodedItem]) -> int:
        """Return how many tokens go through the model for these items together, padding included."""
        if self.layout != ROWS:
            return sum(unique_tokens(item) for item in items)
        lengths = [len(response.input_ids) for item in items for response in item.all_responses]
        return len(lengths) * max(lengths)

    def cut(self, items: Sequence[EncodedItem], budget: int) -> list[list[int]]:
        """Return the items' numbers in forward passes of at most `budget` tokens; a longer item goes alone."""
        alone = [self.tokens([item]) for item in items]
        if self.layout != ROWS:
            return cut_by_tokens(alone, budget)
        # Rows are as long as the longest of the pass, so that lengths do not add up.
        return cut_by_tokens(alone, budget, together=lambda numbers: self.tokens([items[one] for one in numbers]))

    def lay_out(self, items: Sequence[EncodedItem]) -> Batch:
        """Return the items as one forward pass."""
        if self.layout == ROWS:
            batch = lay_out_rows(items, pad_id=self.pad_id)
        else:
            batch = lay_out_shared(items, positions=positions_of(self.network))
        sharing = batch.sharing and replace(batch.sharing, blocks=image_blocks(self.network, batch.input_ids[0]))
        # (responses,). Only families that read whole prompts look at them, and those have a row for every response:
        # a shared row is one row and takes any one place.
        starts = first_answers([response for item in items for response in item.all_responses])
        types = token_types(self.network, batch.input_ids, starts if batch.sharing is None else starts[:1])
        return replace(batch, sharing=sharing, token_types=types)

    def show_images(self, model: Any, batch: Batch, *, idle: Sequence[dict[str, torch.Tensor]] = ()) -> dict[str, Any]:
        """Return the arguments that carry the batch's images; computed once, good for policy and reference.

        Args:
            idle: images that are encoded for nothing, as `image_inputs` says.
        """
        return image_inputs(model, batch, image_once=self.image_once, idle=idle)

    def answer_logps(self, model: Any, batch: Batch, shown: dict[str, Any]) -> torch.Tensor:
        """Return the (N,) log-probabilities of the answer tokens, nats."""
        return answer_logps(model, batch, shown, dense_mask=self.layout == SHARED_DENSE)

    def round_logps(self, model: Any, batch: Batch, shown: dict[str, Any]) -> torch.Tensor:
        """Return the (responses, rounds) sums of log-probabilities, nats, float64."""
        return sum_by_round(self.answer_logps(model, batch, shown), batch)
