"""Keeps a LLaVA from saying the ids that its conversion to transformers appended to the vocabulary."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def silence_appended_rows(network: Any, tokenizer: Any) -> int:
    """Make the ids that a conversion of LLaVA appended unsayable, and return how many ids text can have.

    The image token, the padding token and the rows that fill up the vocabulary have no meaning as answers, but take
    part in every softmax: without this all log-probabilities differ from the original's.
    """
    import torch

    config = network.config
    first = getattr(config, "image_token_index", None) if config.model_type in ("llava", "llava_next") else None
    if first is None or first < tokenizer.vocab_size:  # among the ordinary tokens: not appended
        return int(config.get_text_config().vocab_size)

    def silence(_module: Any, _inputs: Any, logits: "torch.Tensor") -> "torch.Tensor":
        logits[..., first:] = torch.finfo(logits.dtype).min
        return logits

    network.get_output_embeddings().register_forward_hook(silence)
    return int(first)
