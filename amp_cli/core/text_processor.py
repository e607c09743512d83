"""Lets a plain language model's tokenizer stand where a vision-language model has its processor."""

from collections.abc import Mapping, Sequence
from typing import Any

from amp_cli.core.checkpoints.layout import says_original


def is_language_model(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a plain language model, which takes no pictures."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    speaks = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return speaks and not says_original(config)


class TextProcessor:
    """A tokenizer with the interface of a processor; there are no pictures."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template

    def __call__(self, *, images: None, text: Sequence[str], **options: Any) -> Any:
        """Encode texts as a processor would."""
        from transformers import BatchFeature

        assert images is None, "a language model takes no pictures"
        return BatchFeature(dict(self.tokenizer(text, return_token_type_ids=False, **options)))

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        """Render a dialogue; templates of language models expect each content as one text."""
        plain = [{**message, "content": "".join(part["text"] for part in message["content"])} for message in messages]
        return self.tokenizer.apply_chat_template(plain, **options)
