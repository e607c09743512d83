"""From prompts to texts: prefixes are read once where the family allows, then `generate`; its numbers are checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from amp_cli.asking.branches import NotAttended
from amp_cli.asking.prefixes import PrefixReader, Prompt, bare_network, image_token_id
from amp_cli.models.load import LoadedModel
from amp_cli.models.precision import refuse_not_finite
from amp_cli.models.prompts import end_token_ids
from amp_cli.models.spec import Decoding
from amp_cli.records import YesOrNo

BEAM_LENGTH_PENALTY = 0.0
"""Beams are compared by their summed log-probability. The released code divided it by the length of prompt
and answer together, nearly the same for all beams; today's would divide by the answer's length alone."""


@dataclass(frozen=True)
class Told:
    """What a model wrote in one round, and whether it ended it itself, before the limit of tokens did.

    `begins` says how probable it began with yes or no; None where that was not asked, or cannot be told.
    """

    text: str
    is_whole: bool
    begins: YesOrNo | None = None


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

    def after_prefixes(self, prompts: Sequence[Prompt], *, yes_no: bool = False) -> list[Told]:
        """Answer prompts; what they share is read once, and each prompt once for all of its beams."""
        with torch.inference_mode():
            try:
                return self._after_prefixes(prompts, yes_no)
            except NotAttended:  # met in the first forward, so that nothing was sampled yet
                self._prefixes.copy_prefixes()
            return self._after_prefixes(prompts, yes_no)

    def _after_prefixes(self, prompts: Sequence[Prompt], yes_no: bool) -> list[Told]:
        pad_id = self._loaded.tokenizer.pad_token_id
        with self._prefixes.read(prompts, branches=self._decoding.num_beams, pad_id=pad_id) as inputs:
            return self._told(inputs, yes_no)

    def plainly(self, batch: Any, *, yes_no: bool = False) -> list[Told]:
        """Answer a batch as the processor makes it, whole prompts for every beam."""
        with torch.inference_mode():
            return self._told(batch.to(self._loaded.device, dtype=self._loaded.model.dtype), yes_no)

    def _told(self, inputs: Any, yes_no: bool) -> list[Told]:
        loaded, watch = self._loaded, _FiniteNumbers(self._loaded.device)
        with self._beginnings(yes_no) as beginnings:
            ids = loaded.model.generate(
                **inputs, generation_config=self._config, logits_processor=LogitsProcessorList([watch])
            )
        refuse_not_finite(watch.trace, loaded.name, loaded.identity["dtype"])
        new = ids[:, inputs["input_ids"].shape[1] :]  # (prompts, new tokens)
        ends = end_token_ids(loaded)
        texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
        begins = _rounded(beginnings[0]) if beginnings else [None] * len(texts)
        return [
            Told(text.strip(), not ends.isdisjoint(row), begin)
            for text, row, begin in zip(texts, new.tolist(), begins, strict=True)
        ]

    @cached_property
    def _yes_no_ids(self) -> tuple[list[int], list[int]] | None:
        return yes_no_ids(self._loaded.tokenizer)

    @contextmanager
    def _beginnings(self, yes_no: bool) -> Iterator[list[torch.Tensor]]:
        """Give a list that will hold (prompts, 2): log-probabilities of yes and no where the answers begin.

        They are taken from the first forward of `generate` within the block, before beams, temperature and forbidden
        tokens. The list stays empty where yes and no cannot be told apart by one token, and in families whose
        `generate` leaves their own forward aside.
        """
        kept: list[torch.Tensor] = []
        ids = self._yes_no_ids if yes_no else None
        if ids is None:
            yield kept
            return

        def keep(module: Any, inputs: Any, output: Any) -> None:
            if not kept:
                logits = output.logits[:: self._decoding.num_beams, -1].float()  # (prompts, vocabulary)
                words = [logits[:, of_word].logsumexp(dim=1) for of_word in ids]
                kept.append(torch.stack(words, dim=1) - logits.logsumexp(dim=1, keepdim=True))

        hook = bare_network(self._loaded).register_forward_hook(keep)
        try:
            yield kept
        finally:
            hook.remove()


PROBABILITY_DIGITS = 4
"""Significant digits of a stored probability: differences between processors are mostly behind the last one."""


def _rounded(beginnings: torch.Tensor) -> list[YesOrNo]:
    """Return the probabilities of (prompts, 2) log-probabilities; in float64, which Apple's GPUs do not have."""
    pairs = beginnings.cpu().double().exp().clamp(max=1.0).tolist()
    return [
        YesOrNo(**{word: float(f"{one:.{PROBABILITY_DIGITS}g}") for word, one in zip(("yes", "no"), pair, strict=True)})
        for pair in pairs
    ]


def yes_no_ids(tokenizer: Any) -> tuple[list[int], list[int]] | None:
    """Return the ids of the tokens with which an answer begins as a yes, and as a no; None where none tells.

    These are all tokens that are the word, in any case and with white space around it: "Yes", "yes", " Yes", " No".
    Only where a tokenizer has no such token, the first tokens of the word's spellings stand for it: the "Y" of "Yes"
    is that of "You" too, which the first token cannot tell apart. A token with which both words begin, as a lone blank,
    says nothing and belongs to neither; nor does one that stands for the unknown.
    """
    special = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
    yes, no = (_ids_of(tokenizer, word) - special for word in ("yes", "no"))
    yes, no = yes - no, no - yes
    return (sorted(yes), sorted(no)) if yes and no else None


def _ids_of(tokenizer: Any, word: str) -> set[int]:
    """Return the ids of tokens that are the word; else of those that its spellings begin with."""
    similar = [number for token, number in tokenizer.get_vocab().items() if word in token.lower()]
    whole = {number for number in similar if tokenizer.decode([number]).strip().lower() == word}
    spellings = [blank + case for blank in ("", " ") for case in (word, word.capitalize(), word.upper())]
    begun = (tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings)
    return whole or {ids[0] for ids in begun if ids}


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
