"""The training items as the model reads them, encoded when asked for, the last few kept."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch.utils.data import Dataset

from amp_cli.core.images import open_image
from amp_cli.core.models import LoadedModel
from amp_cli.core.prompts import EncodedItem, encode_item
from amp_cli.core.store import Rejections, read_json, write_json
from amp_cli.errors import AmpError
from amp_cli.training.data import REJECTED, TrainItem, answers_of, refuse_systematic

ENCODABLE = "encodable.json"
KEPT_ENCODED = 256
"""A 336-pixel picture takes 1.4 MB, so at most about 350 MB; the picture world fits in whole."""


class EncodedItems(Dataset[EncodedItem]):
    """Items by number, each with the levels that the method trains on."""

    def __init__(self, loaded: LoadedModel, items: Sequence[TrainItem], *, method: str) -> None:
        self.loaded = loaded
        self.items = items
        self.method = method
        self._kept = lru_cache(maxsize=KEPT_ENCODED)(self._encode)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> EncodedItem:
        return self._kept(number)

    def _encode(self, number: int) -> EncodedItem:
        item = self.items[number]
        images = [open_image(Path(name)) for name in item.images]
        return encode_item(self.loaded, item.questions, answers_of(item, self.method), images)

    def only(self, numbers: Sequence[int]) -> "EncodedItems":
        """Return the same data with some items alone."""
        if len(numbers) == len(self.items):
            return self
        return EncodedItems(self.loaded, [self.items[number] for number in numbers], method=self.method)


def usable_items(data: EncodedItems, run_folder: Path, *, max_length: int) -> EncodedItems:
    """Return the items that can be encoded within `max_length` tokens; the others are rejected with the reason.

    Done once: the outcome is kept in the run folder, so a resumed run sees the same items at once.

    Raises:
        AmpError: no item is usable, or the first ones all fail.
    """
    known = run_folder / ENCODABLE
    if known.exists():
        return data.only(read_json(known)["numbers"])
    rejections = Rejections(run_folder / REJECTED)
    numbers = []
    for number, item in enumerate(data.items):
        try:
            encoded = data[number]
            length = max(len(response.input_ids) for response in encoded.responses)
            if length > max_length:
                raise AmpError(f"the item has {length} tokens; max_length is {max_length}")
            numbers.append(number)
        except AmpError as error:
            rejections.add(item.id, error.message)
            refuse_systematic(rejections, len(numbers), run_folder, error)
    if not numbers:
        reason = next(reversed(rejections.reasons().values()))
        raise AmpError(f"No item can be trained on; the last: {reason}", hint="See rejected.jsonl in the run folder")
    write_json(known, {"numbers": numbers, "max_length": max_length})
    return data.only(numbers)
