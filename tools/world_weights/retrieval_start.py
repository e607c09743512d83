"""The language model's start: two of its heads look a word up among the picture's tokens from the first step on.

From a random start a model this small never finds, in minutes of one core, that a word and a picture token can mean the
same thing. So all word embeddings share one direction (`word`), all picture tokens another (`picture`), and in the
first two layers two heads compare what is left, the content, in the low-frequency (nearly position-free) part of the
rotary dimensions. The token <s> carries the picture direction without content: what a head attends to when nothing
matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaAttention

from tools.world_weights.architecture import BOS_ID, PAD_ID


@dataclass(frozen=True, kw_only=True, eq=False)
class ContentSpace:
    """The two directions that tell words from picture tokens."""

    word: torch.Tensor  # (hidden,)
    picture: torch.Tensor  # (hidden,)


@torch.no_grad()
def apply_retrieval_start(model: LlavaForConditionalGeneration) -> ContentSpace:
    """Set embeddings and the first two layers in place; return the directions that tell words from picture tokens."""
    language_model = model.model.language_model
    embeddings = model.get_input_embeddings().weight  # (vocabulary, hidden)
    hidden = embeddings.shape[1]
    directions = torch.linalg.qr(torch.randn(hidden, 2)).Q.T * 4  # (2, hidden)
    space = ContentSpace(word=directions[0].clone(), picture=directions[1].clone())
    embeddings.normal_(0, 0.7)
    embeddings.add_(space.word)
    embeddings[PAD_ID] = 0
    embeddings[BOS_ID] += 1.5 * space.picture
    for layer in language_model.layers:
        layer.self_attn.o_proj.weight.mul_(0.5)
        layer.mlp.down_proj.weight.mul_(0.35)
    for layer in language_model.layers[:2]:
        for head in range(2):
            _make_retrieval_head(layer.self_attn, head=head, space=space)
    return space


def _make_retrieval_head(attention: LlamaAttention, *, head: int, space: ContentSpace) -> None:
    head_dim: int = attention.head_dim
    hidden = space.word.shape[0]
    half = head_dim // 2
    # Rotary dimensions with a long wavelength hardly turn with the distance; the slowest one carries the two markers.
    slow = [dim for dim in range(head_dim) if 5 <= dim % half < half - 1]
    content = 1.7 * torch.linalg.qr(torch.randn(hidden, len(slow))).Q.T  # (slow dims, hidden)
    for direction in (space.word, space.picture):  # each direction has squared length 16
        content = content - (content @ direction)[:, None] * direction / 16
    query = torch.zeros(head_dim, hidden)
    query[slow] = content
    key = query.clone()
    query[half - 1] += 1.5 * space.word / 4
    key[half - 1] += 1.5 * space.picture / 4
    rows = slice(head * head_dim, (head + 1) * head_dim)
    attention.q_proj.weight[rows] = query
    attention.k_proj.weight[rows] = key
    attention.v_proj.weight[rows] = torch.linalg.qr(torch.randn(hidden, head_dim)).Q.T
