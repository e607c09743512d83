"""Finds the items that can be trained on before the first step, without reading a pixel or, mostly, a token.

Hardly an item is anywhere near `max_length`, and that shows in its letters: a token stands for at least one byte. Only
where the bytes are too many are tokens counted, and only where those are too many is the item encoded, to be sure.

    bytes of the longest level + tokens of the images <= max_length     usable, for all that is known
    tokens                     + tokens of the images <= max_length     usable
    encoded, with pixels                              <= max_length     usable, else rejected

What is wrong with an item beyond that (an image whose data end early, a border that the tokenizer blurs) shows when
its turn comes; it is left out then. The first items are encoded at once, so that a fault of all of them ends the run.

Processes look at pieces in turn, and each keeps what it has found of a piece: a killed command looks at it no more.
"""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from amp_cli.disk.jsonl import RecordLog, write_json
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError, RecordError
from amp_cli.launching import report
from amp_cli.models.images import image_size
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import TextRules, image_tokens, shown_size, text_length
from amp_cli.training.data import REJECTED, SYSTEMATIC, EncodedItems, answers_of, refuse_systematic, unusable

ENCODABLE = "encodable.json"
LOOKED = "looked.{}.jsonl"
PIECE = 512
"""Items that a process looks at before it notes them."""
SILENT = 3.0
"""Seconds after which a bar is shown."""

Found = dict[int, dict[int, str]]
"""By piece: the items that are of no use, and why."""


def usable_items(data: EncodedItems, run_folder: Path) -> EncodedItems:
    """Return the items that can be encoded within `data.max_length` tokens; the others are rejected with the reason.

    Every process must call it. Done once: the outcome is kept in the run folder, so a resumed run sees the same items.

    Raises:
        AmpError: no item is usable, or the first ones all fail.
    """
    state = PartialState()
    known = run_folder / ENCODABLE
    told: list[Any] = [
        read_plain_object(known, numbers=list)["numbers"] if state.is_main_process and known.exists() else None
    ]
    numbers = broadcast_object_list(told)[0]
    if numbers is None:
        own = _look(data, run_folder, process=state.process_index, processes=state.num_processes)
        reasons = {
            number: reason
            for found in gather_object([own])
            for piece in found.values()
            for number, reason in piece.items()
        }
        numbers = [number for number in range(len(data)) if number not in reasons]
        if state.is_main_process:
            _keep(data, run_folder, reasons, numbers)
        if not numbers:
            raise unusable("No item can be used for training", _last(data, reasons))
        state.wait_for_everyone()
    return data.only(numbers)


def _keep(data: EncodedItems, run_folder: Path, reasons: Mapping[int, str], numbers: list[int]) -> None:
    rejections = LeftOutLog.open(run_folder / REJECTED)
    for number in sorted(reasons):
        rejections.note(data.items[number].id, reasons[number])
    if numbers:
        write_json(run_folder / ENCODABLE, {"numbers": numbers, "max_length": data.max_length})
        for path in run_folder.glob(LOOKED.format("*")):
            path.unlink()


def _last(data: EncodedItems, reasons: Mapping[int, str]) -> tuple[str, AmpError]:
    number = max(reasons)
    return data.items[number].id, RecordError(reasons[number])


def _look(data: EncodedItems, run_folder: Path, *, process: int, processes: int) -> Found:
    """Return what this process finds in its pieces; what an earlier one has found is taken over."""
    known = _known(run_folder)
    log = RecordLog(run_folder / LOOKED.format(process))
    bounds = Bounds(data)
    rejections = LeftOutLog.open(run_folder / REJECTED)
    found: Found = {}
    pieces = range(process, -(-len(data) // PIECE), processes)
    bar = LateBar("Checking items", total=len(pieces), unit=f"x {PIECE} items") if process == 0 else None
    for piece in pieces:
        if piece in known:
            found[piece] = known[piece]
        else:
            found[piece] = reasons = {}
            for number in range(piece * PIECE, min(len(data), (piece + 1) * PIECE)):
                try:
                    bounds.look(number)
                except AmpError as error:
                    reasons[number] = error.message
                    if piece == 0 and len(reasons) == number + 1:  # nothing but these so far
                        item = data.items[number]
                        rejections.note(item.id, error.message)
                        refuse_systematic(rejections, 0, run_folder, (item.id, error))
            log.append({"piece": piece, "left_out": {str(key): reasons[key] for key in reasons}})
        if bar is not None:
            bar.advance()
    return found


def _known(run_folder: Path) -> Found:
    """Return what earlier processes, however many, have found."""
    found: Found = {}
    for path in run_folder.glob(LOOKED.format("*")):
        for record in RecordLog(path).read():
            found[record["piece"]] = {int(number): reason for number, reason in record["left_out"].items()}
    return found


class LateBar:
    """A bar in the parent's terminal, shown once the work has taken long enough to be wondered about."""

    def __init__(self, label: str, *, total: int, unit: str) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = 0
        self._start = time.perf_counter()
        self.is_shown = False

    def advance(self) -> None:
        """Count one more."""
        self._done += 1
        if self.is_shown:
            report(step=self._done)
        elif time.perf_counter() - self._start > SILENT:
            self.is_shown = True
            report(total=self._total, done=self._done, label=self._label, unit=self._unit)


class Bounds:
    """Tells whether items are within `data.max_length` at the least cost."""

    def __init__(self, data: EncodedItems) -> None:
        self._data = data

    @cached_property
    def _rules(self) -> TextRules:
        return TextRules.of(self._data.loaded)

    @cached_property
    def _images(self) -> "ImageTokens":
        return ImageTokens(self._data.loaded)

    def look(self, number: int) -> None:
        """Refuse an item that is of no use, as far as that can be told without pixels.

        Raises:
            AmpError: its texts cannot be trained on, its image is not there, or it is too long.
        """
        if number < SYSTEMATIC:
            self._data[number]
            return
        item, limit = self._data.items[number], self._data.max_length
        levels = answers_of(item, self._data.method)
        self._rules.refuse(item.questions, levels, item.frame)
        images = sum(self._images.of(Path(name)) for name in item.images)
        if (
            limit is None
            or images + self._rules.most_tokens(item.questions, levels, len(item.images), item.frame) <= limit
        ):
            return
        texts = max(text_length(self._data.loaded, item.questions, one, len(item.images), item.frame) for one in levels)
        if images + texts > limit:
            self._data[number]


class ImageTokens:
    """How many tokens an image adds, by its size; without looking at it where all add the same.

    A blank image of the size is encoded to find out. Most processors can also tell without one; they are believed when
    they are right about images of very different shapes, but for a constant.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._by_size: dict[tuple[int, int], int] = {}
        tried = {size: image_tokens(loaded, size) for size in TRIED}
        self._always = tried[TRIED[0]] if len(set(tried.values())) == 1 else None
        beside = {tokens - self._told(size) for size, tokens in tried.items()}
        self._beside = beside.pop() if len(beside) == 1 else None

    def of(self, path: Path) -> int:
        """Return the tokens of the image in a file.

        Raises:
            AmpError: its header cannot be read.
        """
        if self._always is not None:
            return self._always
        size = image_size(path)
        if self._beside is not None:
            return self._told(size) + self._beside
        if size not in self._by_size:
            self._by_size[size] = image_tokens(self._loaded, size)
        return self._by_size[size]

    def _told(self, size: tuple[int, int]) -> int:
        """Return what the processor says of an image of this (width, height); 0 where it says nothing."""
        width, height = shown_size(self._loaded, size)
        try:
            told = self._loaded.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        except (AttributeError, KeyError, TypeError, ValueError):  # many lack it, or lack what it looks at
            return 0
        return int(told["num_image_tokens"][0])


TRIED = ((64, 1000), (1000, 64), (640, 480), (30, 20))
"""Sizes of very different shapes, (width, height)."""
