"""Reads the training items, checks every one of them and its images, and keeps the good ones in the run folder."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.utils.data import Dataset

from amp_cli import ui
from amp_cli.dialogues.pair_style import length_lesson
from amp_cli.disk.entries import read_entries
from amp_cli.disk.jsonl import write_text
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.errors import CORRECT_IT, AmpError, RecordError
from amp_cli.models.images import find_image, hold_out, look_at_image, open_image
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import EncodedItem, encode_item
from amp_cli.records import PreferenceItem, SourceItem
from amp_cli.training.config import TrainConfig
from amp_cli.training.image_pairs import OtherImages
from amp_cli.training.pair_weights import PairWeights

TrainItem = PreferenceItem | SourceItem

ITEMS, HELD_OUT = "items.jsonl", "held_out.jsonl"
REJECTED = "rejected.jsonl"
SYSTEMATIC = 20
"""When the first so many items all fail, the fault is not in the items."""
TELL_SECONDS = 3.0
"""How long the reading of a file is silent."""


def prepare_items(
    source: Path,
    run_folder: Path,
    *,
    image_root: Path | None,
    method: str,
    eval_source: tuple[Path, Path | None] | None = None,
    held_out: float = 0.0,
    seed: int = 0,
    pairs: str | None = None,
) -> int:
    """Write the usable items of `source` to the run folder's `items.jsonl`, the others to `rejected.jsonl`.

    Image paths become absolute. Done once: a resumed run keeps its items.

    Args:
        eval_source: a file with items to evaluate, and the folder that their images' paths start from.
        held_out: share of the items of `source` that goes to `held_out.jsonl` instead, by image, drawn with `seed`.
        pairs: the pairs that are trained on: warn where they would teach length.

    Returns:
        The number of items to train on.

    Raises:
        AmpError: a file cannot be read, no item is usable or left, or the first items all fail.
    """
    kept = run_folder / ITEMS
    if kept.exists():
        return len(load_items(run_folder, method))
    rejections = LeftOutLog.open(run_folder / REJECTED)
    items = list(usable_of(source, rejections, image_root=image_root, method=method).values())
    if eval_source is not None:
        file, root = eval_source
        aside = list(usable_of(file, rejections, image_root=root, method=method).values())
        _warn_of_shared_images(items, aside)
        _write_items(run_folder / HELD_OUT, aside)
    elif held_out:
        numbers = hold_out([[Path(name) for name in item.images] for item in items], held_out, seed)
        _refuse_lopsided(len(numbers), len(items), held_out)
        _write_items(run_folder / HELD_OUT, [item for number, item in enumerate(items) if number in numbers])
        items = [item for number, item in enumerate(items) if number not in numbers]
    _write_items(kept, items)
    if pairs is not None:
        _warn_of_length([item for item in items if isinstance(item, PreferenceItem)], pairs)
    return len(items)


def _warn_of_length(items: Sequence[PreferenceItem], pairs: str) -> None:
    if (lesson := length_lesson(items, pairs)) is not None:
        what, helps = lesson
        ui.warn(f"{what}. What may help: {helps}")


def _write_items(path: Path, items: Sequence[TrainItem]) -> None:
    write_text(path, "".join(json.dumps(item.to_json(), ensure_ascii=False) + "\n" for item in items))


def _warn_of_shared_images(items: Sequence[TrainItem], aside: Sequence[TrainItem]) -> None:
    seen = {image for item in items for image in item.images}
    if shared := sum(not seen.isdisjoint(item.images) for item in aside):
        ui.warn(
            f"{shared:,} of {len(aside):,} items to evaluate show images that are trained on too, so the evaluation "
            "says little about new images; --held-out 0.05 or `amp prefs mix --held-out 0.05` keeps images apart"
        )


def _refuse_lopsided(held: int, items: int, share: float) -> None:
    if not held:
        raise AmpError(
            f"held_out {share:g} of {items:,} items holds none out: items that share an image stay together",
            hint="Give a larger --held-out, or a file of its own with --eval-prefs",
        )
    if held == items:
        raise AmpError(f"held_out {share:g} of {items:,} items leaves none to train on", hint="Give a smaller one")


def usable_of(source: Path, rejections: LeftOutLog, *, image_root: Path | None, method: str) -> dict[str, TrainItem]:
    """Return the usable items of `source` by id, each image looked at once; the others are noted.

    Raises:
        AmpError: the file cannot be read, no item is usable, or the first items all fail.
    """
    images = Images(image_root or source.resolve().parent)
    items: dict[str, TrainItem] = {}
    last: tuple[str, AmpError] = ("", RecordError("the file is empty"))
    told = time.perf_counter()
    for number, record, reason in read_entries(source):
        if time.perf_counter() - told > TELL_SECONDS:
            told = time.perf_counter()
            ui.note(f"Reading '{source}': {number:,} items so far")
        item_id = _id_of(record, number, source)
        try:
            if record is None:
                raise RecordError(reason)
            if item_id in items:
                raise RecordError(f"the id '{item_id}' occurs twice; the first item is kept")
            items[item_id] = _usable({**record, "id": item_id}, images, method)
        except AmpError as error:
            last = (item_id, error)
            rejections.note(item_id if item_id not in items else f"{item_id} (entry {number})", error.message)
            refuse_systematic(rejections, len(items), source, last)
    if not items:
        raise unusable(f"'{source}' has no usable items", last)
    return items


def load_items(run_folder: Path, method: str, name: str = ITEMS) -> list[TrainItem]:
    """Read the items that `prepare_items` kept in the file of this name."""
    items = []
    for _, record, reason in read_entries(run_folder / name):
        if record is None:
            raise AmpError(f"'{run_folder / name}' is damaged: {reason}", hint="Start afresh with --overwrite")
        items.append(parse_item(record, method))
    return items


def parse_item(record: dict[str, object], method: str) -> TrainItem:
    """Return a preference item, or for `sft` also an item that has only the standard answers."""
    if method == "sft" and "levels" not in record:
        return SourceItem.from_json(record)
    return PreferenceItem.from_json(record)


def refuse_unfit_items(items: Sequence[TrainItem], config: TrainConfig) -> None:
    """Refuse settings of the loss for which items lack images or auto-check's numbers.

    Raises:
        AmpError: naming the setting.
    """
    OtherImages.among(items, kind=config.image_pairs, seed=config.seed)
    preferences = [item for item in items if isinstance(item, PreferenceItem)]
    PairWeights.measured(preferences, pairs=config.pairs, gap=config.gap_weight, balance=0.0, tokenizer=None)


def answers_of(item: TrainItem, method: str) -> list[tuple[str, ...]]:
    """Return the responses to train on: every level, or for `sft` the best one alone."""
    if isinstance(item, SourceItem):
        return [item.answers]
    levels = item.levels[:1] if method == "sft" else item.levels
    return [level.answers for level in levels]


def refuse_systematic(rejections: LeftOutLog, usable: int, source: Path, last: tuple[str, AmpError]) -> None:
    """Stop when nothing but rejected items has come so far; `last` is the id of the last one, and why.

    Raises:
        AmpError: the first `SYSTEMATIC` items were all rejected.
    """
    if not usable and rejections.count >= SYSTEMATIC:
        what = f"None of the first {rejections.count} items of '{source}' is usable"
        raise unusable(what, last)


def unusable(what: str, last: tuple[str, AmpError]) -> AmpError:
    item_id, error = last
    who = f"the last one, '{item_id}'" if item_id else "the reason"
    more = f"All reasons are in {REJECTED} in the run folder"
    return AmpError(f"{what}; {who}: {error.message}", hint=more if error.hint == CORRECT_IT else error.hint)


def _id_of(record: dict[str, object] | None, number: int, source: Path) -> str:
    """Return the item's id; one without gets the file's name and its place in it."""
    given = (record or {}).get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, str) and given.strip():
        return given
    return f"{source.stem}-{number}"


class Images:
    """Finds the files of images below `root` and looks at each once; what is damaged inside shows when it is read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, str] = {}

    def path_of(self, name: str) -> str:
        """Return the absolute path.

        Raises:
            AmpError: no such file, or its header or end show that it cannot be used.
        """
        if name not in self._known:
            path = find_image(name, self._root)
            look_at_image(path)
            self._known[name] = str(path.resolve())
        return self._known[name]


def _usable(record: dict[str, object], images: Images, method: str) -> TrainItem:
    item = parse_item(record, method)
    return replace(item, images=tuple(images.path_of(name) for name in item.images))


KEPT_ENCODED = 256
"""A 336-pixel image takes 1.4 MB, so at most about 350 MB; the picture world fits in whole."""


class EncodedItems(Dataset[EncodedItem]):
    """Items by number, each with the levels that the method trains on.

    A data worker that is not forked is sent a copy without the model, which encoding does not need.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        items: Sequence[TrainItem],
        *,
        method: str,
        max_length: int | None = None,
        other_images: OtherImages | None = None,
        weights: PairWeights | None = None,
    ) -> None:
        self.loaded = loaded
        self.items = items
        self.method = method
        self.max_length = max_length
        self.other_images = other_images
        self.weights = weights
        self._keep()

    @classmethod
    def for_training(cls, loaded: LoadedModel, items: Sequence[TrainItem], config: TrainConfig) -> "EncodedItems":
        """Return items as they are trained on with these settings, before pairs are weighed.

        Raises:
            AmpError: image pairs are wanted, and there are no images for them.
        """
        images = OtherImages.among(items, kind=config.image_pairs, seed=config.seed)
        return cls(loaded, items, method=config.method, max_length=config.max_length, other_images=images)

    def _keep(self) -> None:
        # where they do not fit, those that were read last come again too late
        kept = KEPT_ENCODED if len(self.items) <= KEPT_ENCODED else KEPT_ENCODED // 8
        self._kept = lru_cache(maxsize=kept)(self._encode)

    def __getstate__(self) -> dict[str, Any]:
        told = SimpleNamespace(generation_config=self.loaded.model.generation_config)
        return {name: value for name, value in vars(self).items() if name != "_kept"} | {
            "loaded": replace(self.loaded, model=told)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._keep()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> EncodedItem:
        """Return an item as the model reads it.

        Raises:
            AmpError: an image cannot be read, the item has more than `max_length` tokens, or it cannot be encoded.
        """
        return self._kept(number)

    def _encode(self, number: int) -> EncodedItem:
        item = self.items[number]
        images = [open_image(Path(name)) for name in item.images]
        encoded = encode_item(self.loaded, item.questions, answers_of(item, self.method), images, item.frame)
        if self.other_images is not None and images:
            best, others = answers_of(item, self.method)[:1], self.other_images.of(item, images)
            beside = encode_item(self.loaded, item.questions, best, others, item.frame)
            encoded = replace(encoded, beside_other_images=beside)
        if self.weights is not None and isinstance(item, PreferenceItem):
            encoded = replace(encoded, pair_weights=self.weights.of(item))
        length = max(len(response.input_ids) for response in encoded.all_responses)
        if self.max_length is not None and length > self.max_length:
            raise RecordError(f"the item has {length} tokens; max_length is {self.max_length}")
        return encoded

    def first_usable(self, numbers: Iterable[int], count: int) -> list[EncodedItem]:
        """Return up to `count` of the items `numbers`, those left aside that turn out to be unusable.

        Raises:
            AmpError: none is usable, or the first ones are all unusable.
        """
        found: list[EncodedItem] = []
        last: tuple[str, AmpError] = ("", RecordError("there are none"))
        for tried, number in enumerate(numbers):
            if len(found) == count or (not found and tried == SYSTEMATIC):
                break
            try:
                found.append(self[number])
            except AmpError as error:
                last = (self.items[number].id, error)
        if not found:
            raise unusable("No item can be used for training", last)
        return found

    def only(self, numbers: Sequence[int]) -> "EncodedItems":
        """Return the same data with some items alone."""
        if len(numbers) == len(self.items):
            return self
        return self._with(items=[self.items[number] for number in numbers])

    def weighed(self, weights: PairWeights | None) -> "EncodedItems":
        """Return the same data with pairs that weigh so."""
        return self if weights is None else self._with(weights=weights)

    def beside(self, items: Sequence[TrainItem]) -> "EncodedItems":
        """Return other items, with the same settings."""
        return self._with(items=items)

    def _with(self, **changed: Any) -> "EncodedItems":
        names = ("loaded", "items", "method", "max_length", "other_images", "weights")
        return EncodedItems(**{name: getattr(self, name) for name in names} | changed)
