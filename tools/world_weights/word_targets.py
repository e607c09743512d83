"""What a picture token should be: the sum of the embeddings of the words for what is in its cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from amp_cli.world.language import COLUMNS, ROWS
from amp_cli.world.scenes import CATEGORIES, CELLS, COLOURS, Scene
from tools.world_weights.retrieval_start import ContentSpace

_NO_COLOUR = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class CellLabels:
    """What each cell holds."""

    category: torch.Tensor  # (scenes, 9), 0 for nothing, else 1 + index in CATEGORIES
    colour: torch.Tensor  # (scenes, 9), index in COLOURS, -1 where there is nothing
    present: torch.Tensor  # (scenes, 16), 1.0 for the categories of the scene

    def of(self, chosen: torch.Tensor) -> CellLabels:
        """The labels of some of the scenes."""
        return CellLabels(category=self.category[chosen], colour=self.colour[chosen], present=self.present[chosen])


class WordTargets:
    """Turns cell labels into target embeddings, with the model's own (later trained) word embeddings."""

    def __init__(
        self, *, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, space: ContentSpace
    ) -> None:
        self._embeddings = model.get_input_embeddings().weight
        self._space = space
        self._categories = torch.tensor(tokenizer.convert_tokens_to_ids(["nothing", *CATEGORIES]))
        self._colours = torch.tensor(tokenizer.convert_tokens_to_ids(list(COLOURS)))
        self._rows = torch.tensor(tokenizer.convert_tokens_to_ids(list(ROWS)))
        self._columns = torch.tensor(tokenizer.convert_tokens_to_ids(list(COLUMNS)))

    def labels(self, scenes: Sequence[Scene]) -> CellLabels:
        """Read the scenes' truth, cell by cell."""
        category = torch.zeros(len(scenes), CELLS * CELLS, dtype=torch.long)
        colour = torch.full((len(scenes), CELLS * CELLS), _NO_COLOUR)
        present = torch.zeros(len(scenes), len(CATEGORIES))
        for index, scene in enumerate(scenes):
            for thing in scene.objects:
                present[index, CATEGORIES.index(thing.category)] = 1.0
                for instance in thing.instances:
                    cell = instance.row * CELLS + instance.column
                    category[index, cell] = 1 + CATEGORIES.index(thing.category)
                    colour[index, cell] = COLOURS.index(thing.colour)
        return CellLabels(category=category, colour=colour, present=present)

    def loss(self, picture_tokens: torch.Tensor, labels: CellLabels) -> torch.Tensor:
        """Squared distance of picture tokens (batch, 1 + 9, hidden) from their words; the first stands for them all."""
        content = self._content()
        coloured = (labels.colour != _NO_COLOUR)[..., None]
        colour = torch.where(coloured, content[self._colours][labels.colour.clamp(min=0)], 0.0)
        cells = content[self._categories][labels.category] + colour + self._frame(content)  # (batch, 9, hidden)
        whole = 0.6 * labels.present @ content[self._categories[1:]]  # (batch, hidden)
        of_cells = functional.mse_loss(picture_tokens[:, 1:], cells)
        return 3 * (of_cells + functional.mse_loss(picture_tokens[:, 0], whole))

    @torch.no_grad()
    def objects_right(self, picture_tokens: torch.Tensor, labels: CellLabels) -> float:
        """The share of full cells whose token lies nearest to the right category."""
        content = self._content()
        closeness = (picture_tokens[:, 1:] - self._frame(content)) @ content[self._categories].T  # (batch, 9, 17)
        full = labels.category > 0
        return float((closeness.argmax(-1) == labels.category)[full].float().mean())

    def _content(self) -> torch.Tensor:
        """The word embeddings without what all words share, (vocabulary, hidden)."""
        content: torch.Tensor = self._embeddings.detach() - self._space.word
        return content

    def _frame(self, content: torch.Tensor) -> torch.Tensor:
        """What a cell's token holds whatever is in it: its place, and that it is of a picture; (9, hidden)."""
        places = content[self._rows][:, None] + content[self._columns][None]  # (rows, columns, hidden)
        framed: torch.Tensor = 0.5 * places.reshape(CELLS * CELLS, -1) + self._space.picture
        return framed
