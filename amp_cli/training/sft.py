"""Plain fine-tuning on the best response with TRL's SFTTrainer: incremental generation, and the control of MDPO."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from amp_cli.training.data import EncodedItems
from amp_cli.training.rows.layout import lay_out_rows
from amp_cli.training.updates import FiniteTrainer

IGNORED = -100
"""The label that transformers leaves out of the loss."""


def sft_batch(data: EncodedItems, numbers: Sequence[int], *, pad_id: int) -> dict[str, Any]:
    """Return items as rows with labels on the answers' tokens and images stacked."""
    batch = lay_out_rows([data[number] for number in numbers], pad_id=pad_id)
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels.view(-1)[batch.predictors + 1] = batch.targets
    images = batch.image_inputs
    names = sorted({name for one in images for name in one})
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": labels,
        **{name: torch.cat([one[name] for one in images if one]) for name in names},
    }


class FiniteSFTTrainer(FiniteTrainer, SFTTrainer):
    """TRL's trainer, ended by the first number that is not finite."""


def sft_trainer(
    model: Any, data: EncodedItems, *, pad_id: int, arguments: dict[str, Any], callback: Any
) -> FiniteSFTTrainer:
    """Return TRL's trainer over items that we encode ourselves, so that both methods see the same tokens."""
    return FiniteSFTTrainer(
        model=model,
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
        train_dataset=Dataset.from_dict({"number": list(range(len(data)))}),
        data_collator=lambda rows: sft_batch(data, [row["number"] for row in rows], pad_id=pad_id),
        processing_class=data.loaded.tokenizer,
        callbacks=[callback],
    )
