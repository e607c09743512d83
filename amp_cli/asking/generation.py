"""From prompts to texts: prefixes are read once where the family allows, then `generate`; its numbers are checked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from amp_cli.asking.branches import NotAttended
from amp_cli.asking.prefixes import PrefixReader, Prompt, image_token_id
from amp_cli.models.load import LoadedModel
from amp_cli.models.precision import refuse_not_finite
from amp_cli.models.prompts import end_token_ids
from amp_cli.models.spec import Decoding

BEAM_LENGTH_PENALTY = 0.0
"""Beams are compared by their summed log-probability. The released code divided it by the length of prompt
and answer together, nearly the same for all beams; today's would divide by the answer's length alone."""


@dataclass(frozen=True)
class Told:
    """What a model wrote in one round, and whether it ended it itself, before the limit of tokens did."""

    text: str
    is_whole: bool


class Generator:
    """Writes a model's answers. Prefixes that prompts share are kept until `forget`."""

    def __init__(self, loaded: LoadedModel, decoding: Decoding) -> None:
        self._loaded = loaded
        self._decoding = decoding
        self._config = generation_config(loaded, decoding)
        self._prefixes = PrefixReader(loaded)

    def forget(self) -> None:
        """Let go of the keys and values of all prefixes."""
        self._prefixes.forget()

    def after_prefixes(self, prompts: Sequence[Prompt]) -> list[Told]:
        """Answer prompts; what they share is read once, and each prompt once for all of its beams."""
        with torch.inference_mode():
            try:
                return self._after_prefixes(prompts)
            except NotAttended:  # met in the first forward, so that nothing was sampled yet
                self._prefixes.copy_prefixes()
            return self._after_prefixes(prompts)

    def _after_prefixes(self, prompts: Sequence[Prompt]) -> list[Told]:
        pad_id = self._loaded.tokenizer.pad_token_id
        with self._prefixes.read(prompts, branches=self._decoding.num_beams, pad_id=pad_id) as inputs:
            return self._told(inputs)

    def plainly(self, batch: Any) -> list[Told]:
        """Answer a batch as the processor makes it, whole prompts for every beam."""
        with torch.inference_mode():
            return self._told(batch.to(self._loaded.device, dtype=self._loaded.model.dtype))

    def _told(self, inputs: Any) -> list[Told]:
        loaded, watch = self._loaded, _FiniteNumbers(self._loaded.device)
        ids = loaded.model.generate(
            **inputs, generation_config=self._config, logits_processor=LogitsProcessorList([watch])
        )
        refuse_not_finite(watch.trace, loaded.name, loaded.identity["dtype"])
        new = ids[:, inputs["input_ids"].shape[1] :]  # (prompts, new tokens)
        ends = end_token_ids(loaded)
        texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [Told(text.strip(), not ends.isdisjoint(row)) for text, row in zip(texts, new.tolist(), strict=True)]


class _FiniteNumbers(LogitsProcessor):
    """Notes scores that are not finite; they are looked at when all is written, since looking waits for the device.

    Until then noise is written in place of a text. `trace` is a number, unless a score was none.
    """

    def __init__(self, device: torch.device) -> None:
        self.trace = torch.zeros((), device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Pass on a step's scores, (sequences, vocabulary), without what sampling would stumble over."""
        bad = torch.isnan(scores) | torch.isposinf(scores)
        self.trace = self.trace + scores.masked_fill(~bad, 0.0).sum()
        return scores.masked_fill(bad, 0.0)


def generation_config(loaded: LoadedModel, decoding: Decoding) -> GenerationConfig:
    """A complete generation config: nothing is taken over from the model's own defaults but its special tokens.

    A model must never write the image token: it would be read back as an image.
    """
    settings = asdict(decoding)
    samples = settings["temperature"] > 0
    if not samples:
        del settings["temperature"], settings["top_p"]
    image = image_token_id(loaded.model)
    return GenerationConfig(
        **settings,
        length_penalty=BEAM_LENGTH_PENALTY,
        do_sample=samples,
        top_k=0 if samples else None,
        bos_token_id=loaded.model.generation_config.bos_token_id,
        eos_token_id=sorted(end_token_ids(loaded)),
        pad_token_id=loaded.tokenizer.pad_token_id,
        suppress_tokens=None if image is None else [image],
    )
