"""The peers of our step: the released arithmetic re-created, and the real TRL DPOTrainer on all pairs of levels."""

import copy
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from mdpo_setting import Example, Setting, adapter_parameters, pair_texts
from mdpo_variants import BETA, PENALTY, mixed_precision
from torch.nn.utils.rnn import pad_sequence

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.loss import mdpo_loss
from amp_cli.training.rows.attention import use_attention


@dataclass(kw_only=True)
class Released:
    """What the authors' released code computes: two model copies, a padded row per level, the tower for every row.

    All logits of a row are made, then their log-softmax, then the answers' tokens are picked out.
    """

    policy: Any
    reference: Any
    item: EncodedItem
    pad_id: int
    key: str = "released"
    what: str = "released arithmetic: two copies, K padded rows, tower per row"
    penalty: float = PENALTY
    is_mixed: bool = False

    def networks(self) -> list[Any]:
        return [self.policy.get_base_model(), self.reference]

    def trained(self) -> Any:
        return self.policy

    def prepare(self) -> None:
        for network in self.networks():
            use_attention(network, "sdpa")
        self.policy.train()

    def step(self) -> float:
        device = next(self.policy.parameters()).device
        responses = self.item.responses
        ids = pad_sequence([one.input_ids for one in responses], batch_first=True, padding_value=self.pad_id)
        mask = pad_sequence([torch.ones_like(one.input_ids) for one in responses], batch_first=True)
        answers = pad_sequence([one.supervised for one in responses], batch_first=True)  # (levels, length)
        pixels = self.item.image_inputs["pixel_values"].repeat(len(responses), 1, 1, 1)
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
        given = {name: value.to(device) for name, value in inputs.items()}
        answers = answers.to(device)
        with mixed_precision(self.policy, self.is_mixed):
            policy = self._logps(self.policy, given, answers)
            with torch.no_grad():
                reference = self._logps(self.reference, given, answers)
        found = mdpo_loss(policy[None], reference[None], beta=BETA, penalty=self.penalty, reduction="mean")
        found.loss.backward()
        return float(found.loss.detach())

    @staticmethod
    def _logps(model: Any, given: dict[str, torch.Tensor], answers: torch.Tensor) -> torch.Tensor:
        """Return the (levels,) sums of log-probabilities, nats."""
        logits = model(**given, use_cache=False).logits[:, :-1]  # (levels, length - 1, vocabulary)
        table = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        tokens = table.gather(2, given["input_ids"][:, 1:, None])[..., 0]  # (levels, length - 1)
        return (tokens * answers[:, 1:]).sum(-1)


class TrlPairs:
    """The real DPOTrainer: a new LoRA given by its config (so that the reference is the base), our adapter's numbers.

    Pairs are tokenised and their images prepared by TRL's collator, before anything is measured.
    """

    def __init__(
        self, trainer: Any, batches: Sequence[dict[str, Any]], *, key: str, what: str, as_on_gpu: bool
    ) -> None:
        self.trainer = trainer
        self.batches = batches
        self.key = key
        self.what = what
        self.as_on_gpu = as_on_gpu

    def networks(self) -> list[Any]:
        return [self.trainer.model.get_base_model()]

    def trained(self) -> Any:
        return self.trainer.model

    def prepare(self) -> None:
        self.trainer.model.train()

    def step(self) -> float:
        """On a GPU TRL's head runs at answer places alone, on a CPU at all; `as_on_gpu` takes the former here too."""
        total = 0.0
        places = patch("trl.trainer.utils._use_triton", lambda _: True) if self.as_on_gpu else nullcontext()
        with places:
            for batch in self.batches:
                loss = self.trainer.compute_loss(self.trainer.model, dict(batch)) / len(self.batches)
                loss.backward()
                total += float(loss.detach())
        return total


def trl_variants(setting: Setting, example: Example) -> list[TrlPairs]:
    """Return TRL on all pairs in one batch, and pair by pair with the gradients added up.

    Raises:
        ValueError: TRL would not read the very tokens that we read, or not train from the very adapter.
    """
    trainer, pairs = _trainer(setting, example)
    whole = trainer.data_collator([dict(pair) for pair in pairs])
    _refuse_other_tokens(whole, example.encoded)
    single = [trainer.data_collator([dict(pair)]) for pair in pairs]
    count = len(pairs)
    return [
        TrlPairs(trainer, [whole], key="trl_pairs", what=f"TRL DPOTrainer, {count} pairs in a batch", as_on_gpu=False),
        TrlPairs(
            trainer,
            single,
            key="trl_pairs_micro",
            what=f"TRL DPOTrainer, 1 pair x {count}, head as on a GPU",
            as_on_gpu=True,
        ),
    ]


def _trainer(setting: Setting, example: Example) -> tuple[Any, list[dict[str, Any]]]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = pair_texts(setting, example)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(pairs),
            beta=BETA,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = DPOTrainer(
            model=copy.deepcopy(setting.base),
            args=arguments,
            train_dataset=Dataset.from_list(pairs),
            processing_class=setting.loaded.processor,
            peft_config=copy.deepcopy(setting.lora),
        )
    wanted = {name: one for name, one in setting.policy.named_parameters() if one.requires_grad}
    found = {name: one for name, one in trainer.model.named_parameters() if one.requires_grad}
    if wanted.keys() != found.keys() or "ref" in trainer.model.peft_config:
        raise ValueError("TRL does not train the same adapter against the base")
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(wanted[name])
    return trainer, pairs


def _refuse_other_tokens(batch: dict[str, Any], item: EncodedItem) -> None:
    numbers = list(itertools.combinations(range(len(item.responses)), 2))
    order = [better for better, _ in numbers] + [worse for _, worse in numbers]
    rows = zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], order, strict=True)
    for ids, seen, completion, number in rows:
        ours = item.responses[number]
        inside = seen.bool()
        if not torch.equal(ids[inside], ours.input_ids) or not torch.equal(completion[inside].bool(), ours.supervised):
            raise ValueError(f"TRL reads level {number} as other tokens than we do")


def gradient(model: Any) -> torch.Tensor:
    """Return the adapter's gradients as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in adapter_parameters(model)])


def forget_gradient(model: Any) -> None:
    for parameter in adapter_parameters(model):
        parameter.grad = None
