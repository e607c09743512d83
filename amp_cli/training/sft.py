"""Plain fine-tuning on the best response with TRL's SFTTrainer: incremental generation, and the control of MDPO."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from trl import SFTConfig, SFTTrainer

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.exact import exact, exact_device
from amp_cli.training.rows.layout import lay_out_rows
from amp_cli.training.updates import FiniteTrainer

IGNORED = -100
"""The label that transformers leaves out of the loss."""


def sft_batch(
    items: Sequence[EncodedItem], *, pad_id: int, fill: EncodedItem | None = None, shows_images: bool = False
) -> dict[str, Any]:
    """Return items as rows with labels on the answers' tokens and images stacked.

    Args:
        fill: stands in where there is no item, without labels.
        shows_images: have it stand in for images too, where no item has any.
    """
    needs_fill = not items or (shows_images and not any(item.image_inputs for item in items))
    batch = lay_out_rows([*items, fill] if fill is not None and needs_fill else items, pad_id=pad_id)
    labels = torch.full_like(batch.input_ids, IGNORED)
    real = batch.responses < sum(len(item.responses) for item in items)  # (supervised tokens,)
    labels.view(-1)[batch.predictors[real] + 1] = batch.targets[real]
    images = batch.image_inputs
    names = sorted({name for one in images for name in one})
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": labels,
        **{name: torch.cat([one[name] for one in images if one]) for name in names},
    }


class FiniteSFTTrainer(FiniteTrainer, SFTTrainer):
    """TRL's trainer over items that we encode ourselves, so that both methods see the same tokens."""

    def __init__(self, *, model: Any, pad_id: int, **arguments: Any) -> None:
        self._pad_id = pad_id
        with _adapter_kept(model):
            super().__init__(
                model=model,
                train_dataset=Dataset.from_dict({"number": [0]}),  # it wants one; the items are `data`
                data_collator=list,
                **arguments,
            )
        # loss, tokens
        self._held_out_sums = torch.zeros(2, dtype=torch.float64, device=exact_device(self.args.device))

    def builder(self) -> Callable[[list[EncodedItem]], Any]:
        """Return what makes a batch of items: rows with labels."""
        return partial(sft_batch, pad_id=self._pad_id, fill=self.fill, shows_images=self.shares_model)

    def measure(self, batch: dict[str, Any]) -> None:
        """Take in the answer tokens of a share, without dropout."""
        model = self.model_wrapped if self.shares_model else self.accelerator.unwrap_model(self.model_wrapped)
        inputs = self._prepare_inputs(batch)
        targets = inputs.pop("labels")[:, 1:]
        model.eval()
        with self.compute_loss_context_manager():
            logits = model(**inputs).logits[:, :-1].float()  # (rows, length - 1, vocabulary)
        model.train()
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        self._held_out_sums += torch.stack([exact(loss), exact((targets != IGNORED).sum())])

    def measured(self) -> dict[str, float]:
        """Return the mean loss of the held-out items' answer tokens, nats, and how many there are."""
        loss, tokens = self.accelerator.reduce(self._held_out_sums, reduction="sum").tolist()
        self._held_out_sums.zero_()
        return {"loss": loss / tokens, "tokens": tokens} if tokens else {}

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """Write none beside the checkpoints: it tells when and where, and a resumed run would have another one."""


@contextmanager
def _adapter_kept(model: Any) -> Iterator[None]:
    """Undo that TRL rounds the adapter of a quantized model to bfloat16, in which small updates are lost."""
    weights = {weight: weight.data for weight in model.parameters() if weight.requires_grad}
    yield
    for weight, value in weights.items():
        if weight.dtype != value.dtype:
            weight.data = value


def sft_config(arguments: dict[str, Any]) -> SFTConfig:
    """Return our arguments as TRL's."""
    return SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
