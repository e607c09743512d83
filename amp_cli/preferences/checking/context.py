"""Counts the tokens of items against a model's context, with the model's tokenizer file but without its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.core.checkpoints.layout import says_original
from amp_cli.core.hub import fetch_file, is_folder_name, model_config, model_place
from amp_cli.errors import AmpError
from amp_cli.records import PreferenceItem

SYSTEM_TOKENS = 40
ROUND_TOKENS = 10
"""What a chat template adds, at the start and for each round: Vicuna's, rounded up."""
LLAVA_PICTURE = 576
CHARACTERS_A_TOKEN = 4.0
"""English in Llama's vocabulary; where no model is given the count is an estimate."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """A limit in tokens, and how to count: `tokens` counts those of a text, `picture` those of one picture."""

    limit: int
    tokens: Callable[[str], int]
    picture: int
    described: str

    def length(self, item: PreferenceItem) -> int:
        """Return the tokens of the item's longest level, chat template and pictures included (a few too many)."""
        fixed = SYSTEM_TOKENS + ROUND_TOKENS * len(item.questions) + self.picture * len(item.images)
        longest = max(sum(len(answer.encode()) for answer in level.answers) for level in item.levels)
        most = fixed + longest + sum(len(question.encode()) for question in item.questions)
        if most <= self.limit:  # no vocabulary makes more tokens than bytes
            return most
        asked = sum(self.tokens(question) for question in item.questions)
        said = max(sum(self.tokens(answer) for answer in level.answers) for level in item.levels)
        return fixed + asked + said


def open_context(model: str | None, max_length: int | None) -> Context | None:
    """Return what to count with; None where neither a model nor a limit is given.

    Raises:
        AmpError: no such model, or one without a tokenizer file or a known context.
    """
    if model is None:
        if max_length is None:
            return None
        return Context(
            limit=max_length,
            tokens=lambda text: round(len(text) / CHARACTERS_A_TOKEN),
            picture=LLAVA_PICTURE,
            described=f"estimated: {CHARACTERS_A_TOKEN:g} characters a token, {LLAVA_PICTURE} tokens a picture",
        )
    config, folder = model_config(model)
    positions = _positions(config)
    limits = [limit for limit in (positions, max_length) if limit is not None]
    if not limits:
        raise AmpError(f"'{model}' does not say how long its context is", hint="Give --max-length, in tokens")
    picture = _picture_tokens(config)
    told = f"{picture} tokens a picture" if picture else "tokens of pictures not counted"
    return Context(
        limit=min(limits),
        tokens=_tokenizer(model, folder, config),
        picture=picture,
        described=f"tokenizer of '{model}', {told}",
    )


def _positions(config: Mapping[str, Any]) -> int | None:
    value = config.get("text_config", config).get("max_position_embeddings")
    return value if isinstance(value, int) else None


def _picture_tokens(config: Mapping[str, Any]) -> int:
    """Return the tokens of one picture where every picture has the same number, else 0."""
    if isinstance(config.get("image_seq_length"), int):
        return int(config["image_seq_length"])
    if says_original(config) or config.get("model_type") == "llava":
        return LLAVA_PICTURE
    return 0


def _tokenizer(model: str, folder: Path, config: Mapping[str, Any]) -> Callable[[str], int]:
    place = model_place(model)
    names = ("tokenizer.json", "tokenizer.model")
    if is_folder_name(place):
        files = [folder / name for name in names if (folder / name).is_file()]
    else:
        files = [fetch_file(place, names[says_original(config)])]
    if not files:
        raise AmpError(f"'{model}' has no {' and no '.join(names)}", hint="Give --max-length without --model")
    if files[0].name == "tokenizer.json":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(files[0]))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(files[0]))
    return lambda text: len(processor.encode(text))
