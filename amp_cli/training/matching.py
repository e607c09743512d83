"""Counts the tokens that the first updates of a training send through the model, so that others can be given as many.

What is in an update is known before: the order of the items is drawn from the seed, and each item is encoded as the
trainer encodes it. A token that is trained on goes forward and backward (3 units), one that only the reference reads
goes forward (1 unit); of a reference that is kept on disk every item is read once, before the first update.
"""

from contextlib import redirect_stdout
from functools import cached_property, lru_cache
from io import StringIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from amp_cli.errors import AmpError
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import EncodedItem
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import EncodedItems, load_items, prepare_items
from amp_cli.training.feeding import EpochShares
from amp_cli.training.looking import usable_items
from amp_cli.training.reference import choose_reference
from amp_cli.training.rows.families import why_not_shared
from amp_cli.training.rows.layout import unique_tokens

TRAINED, READ = 3, 1
"""Units of a token: forward and backward through the policy; forward alone, through the reference."""


class FedTokens:
    """The tokens of a training's updates, one update after the other.

    Args:
        outline: the base without weights, as `load_outline` gives it.
        prefs: what `amp train --prefs` would be given.
    """

    def __init__(self, config: TrainConfig, outline: LoadedModel, prefs: Path, image_root: Path | None = None) -> None:
        self._config = config
        self._shares_prefix = any(
            why_not_shared(outline.model, max_length=config.max_length, dense_mask=dense) is None
            for dense in (False, True)
        )
        # the bars of `usable_items` are events for a parent that reads stdout, and here there is none
        with TemporaryDirectory(prefix="amp-tokens-") as place, redirect_stdout(StringIO()):
            prepare_items(
                prefs,
                Path(place),
                image_root=image_root,
                method=config.method,
                held_out=config.held_out,
                seed=config.seed,
            )
            items = load_items(Path(place), config.method)
            encoded = EncodedItems.for_training(outline, items, config)
            self._data = usable_items(encoded, Path(place))
        self._data.first_usable(range(len(self._data)), 1)
        self._tokens = lru_cache(maxsize=None)(self._count)
        self._trained = [0]  # by number of updates

    def _count(self, number: int) -> int:
        """Return the tokens of an item; none where it turns out to be unusable, and is left out of its update."""
        try:
            return self._of(self._data[number])
        except AmpError:
            return 0

    def _of(self, item: EncodedItem) -> int:
        return unique_tokens(item) if self._shares_prefix else sum(len(one.input_ids) for one in item.all_responses)

    def of(self, steps: int) -> int:
        """Return the units of the first `steps` updates, the reference's included."""
        self._feed(steps)
        trained = self._trained[steps]
        if self._config.method == "sft":
            return TRAINED * trained
        items, visits = len(self._data), steps * self._config.global_batch_size
        is_kept, _ = choose_reference(self._config.reference, items=items, visits=visits)
        return TRAINED * trained + READ * (self._whole if is_kept else trained)

    @cached_property
    def _whole(self) -> int:
        return sum(map(self._tokens, range(len(self._data))))

    def steps_for(self, units: int) -> int:
        """Return after how many updates, at least one, the units are nearest to `units`."""
        steps = next(steps for steps in count(1) if self.of(steps) >= units)
        return steps - 1 if steps > 1 and units - self.of(steps - 1) < self.of(steps) - units else steps

    def _feed(self, steps: int) -> None:
        """Take in further updates, in the trainer's own order."""
        size = self._config.global_batch_size
        shares = EpochShares(len(self._data), seed=self._config.seed, process=0, processes=1, at_once=size)
        while len(self._trained) <= steps:
            epoch, done = divmod(len(self._trained) - 1, len(shares))
            shares.set_epoch(epoch)
            for numbers in list(shares)[done:]:
                self._trained.append(self._trained[-1] + sum(map(self._tokens, numbers)))
