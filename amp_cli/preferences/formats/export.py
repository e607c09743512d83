"""Streams preference items into a file of another program, or into a folder for the hub."""

import filecmp
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from amp_cli.dialogues.turns import IMAGE_TOKEN
from amp_cli.disk.jsonl import write_json
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.one_file import alone_writing, first_record, is_rejected_list, refuse_foreign_file
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError, RecordError
from amp_cli.models.images import image_content
from amp_cli.preferences.formats.source import open_source
from amp_cli.preferences.formats.tables import is_written_parquet, written_parquet
from amp_cli.preferences.reading import (
    find_images,
    image_root,
    name_from,
    publishable_folders,
    read_items,
    refuse_unnamed_folders,
    written_beside,
)
from amp_cli.records import PAIR_SETS, PreferenceItem, pairs_of

ENDINGS = {
    "trl": (".parquet", ".jsonl"),
    "ms-swift": (".jsonl",),
    "llama-factory": (".jsonl",),
    "amp-authors": (".json",),
}
"""The files that each layout is written to; for TRL, Parquet holds the images themselves."""
CUTS_PAIRS = ("trl", "ms-swift", "llama-factory")
DATASET_INFO = "dataset_info.json"


class Writer(Protocol):
    """Takes one record after the other and counts them."""

    count: int

    def write(self, record: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What to export, in which layout, and where to."""

    source: str
    to: str
    out: Path
    pairs: str = "all"
    image_root: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.pairs not in PAIR_SETS:
            raise AmpError(f"There is no pairing '{self.pairs}'", hint=f"Use {', '.join(PAIR_SETS)}")
        if self.to not in (*ENDINGS, "hub"):
            raise AmpError(f"There is no layout '{self.to}'", hint=f"Use {', '.join(ENDINGS)} or hub")

    @property
    def root(self) -> Path:
        return image_root(self.source, self.image_root)

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Where images may lie whose content is published."""
        return publishable_folders(self.source, self.image_root)


@dataclass(kw_only=True)
class Exported:
    """What was written; `rejected` holds id and reason of items that have no place in the layout."""

    out: Path
    items: int = 0
    records: int = 0
    levels: Counter[int] = field(default_factory=Counter)
    images: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rejections(self) -> Path:
        """The file beside the result that lists what was left out."""
        return self.out.with_name(f"{self.out.name}.rejected.jsonl")

    def take(self, item: PreferenceItem, records: int) -> None:
        self.items += 1
        self.records += records
        self.levels[len(item.levels)] += 1


def export_file(settings: ExportSettings) -> Exported:
    """Write the items to one file of the layout, one at a time; the same export once more leaves the file as it is.

    Raises:
        AmpError: the place is taken by something else or of the wrong kind, the source cannot be read, or no item can
            be written.
    """
    _refuse_place(settings)
    inputs = [Path(settings.source), *open_source(settings.source, image_root=settings.image_root).files]
    result = Exported(out=settings.out)
    again = settings.out.with_name(f"{settings.out.name}.again")
    with alone_writing(settings.out, command="prefs export", is_ours=_is_export, inputs=inputs):
        refuse_foreign_file(result.rejections, is_ours=is_rejected_list, inputs=inputs)
        is_there = settings.out.exists() and not settings.overwrite
        _export(settings, result, again if is_there else settings.out)
        if is_there:
            _refuse_difference(again, settings.out)
        list_rejected(result)
        if settings.to == "llama-factory":
            _describe_to_factory(settings.out)
    return result


def _export(settings: ExportSettings, result: Exported, place: Path) -> None:
    with _writer(place, settings.out.suffix) as writer:
        for item in sound_items(settings, result):
            try:
                records = _records(item, settings)
            except AmpError as error:
                result.rejected.append((item.id, error.message))
                continue
            for record in records:
                writer.write(record)
            result.take(item, len(records))
        refuse_nothing(result, settings.source)


def _is_export(file: Path) -> bool:
    """Tell a file that an export wrote: its rows name their levels, or are whole dialogues under an id, a line each."""
    if file.suffix == ".parquet":
        return is_written_parquet(file)
    record = first_record(file) or {}
    return "pair" in record if file.suffix == ".jsonl" else {"id", "output_1", "output_2"} <= {*record}


def sound_items(settings: ExportSettings, result: Exported) -> Iterator[PreferenceItem]:
    """Yield the source's items; entries that are none are noted."""
    for item in read_items(settings.source, image_root=settings.image_root):
        if isinstance(item, LeftOut):
            result.rejected.append((item.id, item.reason))
        else:
            yield item


def refuse_nothing(result: Exported, source: str) -> None:
    """Refuse a result without items, with the first reason."""
    if result.items == 0:
        first = f"; the first of {len(result.rejected)}: {result.rejected[0][1]}" if result.rejected else ""
        raise AmpError(
            f"'{source}' has no item that can be exported{first}", hint=f"Look at `amp prefs check {source}`"
        )


def list_rejected(result: Exported) -> None:
    """Write the list of what was left out, or remove an older one."""
    if not result.rejected:
        if result.rejections.is_file() and is_rejected_list(result.rejections):
            result.rejections.unlink()
        return
    with written_beside(result.rejections) as writer:
        for item_id, reason in result.rejected:
            writer.write({"id": item_id, "reason": reason})


def _refuse_place(settings: ExportSettings) -> None:
    out, endings = settings.out, ENDINGS[settings.to]
    if out.suffix not in endings or out.is_dir():
        raise AmpError(
            f"'{out}' is not a file name for {settings.to}",
            hint=f"Give --out a name that ends in {' or '.join(endings)}",
        )
    if settings.to == "llama-factory":
        _factory_entries(out)


def _refuse_difference(again: Path, out: Path) -> None:
    """Keep a file that this very export wrote before, as when it was killed after its last step; refuse another."""
    is_same = filecmp.cmp(again, out, shallow=False)
    again.unlink()
    if not is_same:
        raise AmpError(
            f"'{out}' exists, and holds something else",
            hint="Choose another file with --out, or replace it with --overwrite",
        )


def _writer(place: Path, ending: str) -> AbstractContextManager[Writer]:
    if ending == ".parquet":
        return written_parquet(place)
    return written_beside(place, as_list=ending == ".json")


def _records(item: PreferenceItem, settings: ExportSettings) -> list[dict[str, Any]]:
    """Return the item's records; it is written whole or not at all."""
    refuse_image_tokens(item)
    files = find_images(item, settings.root)
    if settings.to == "amp-authors":
        return [authors_record(item, [str(file) for file in files])]
    record: Callable[[Pair, Sequence[Any]], dict[str, Any]]
    images: list[Any] = [str(file) for file in files]
    if settings.to == "trl":
        record = trl_record
        if settings.out.suffix == ".parquet":
            refuse_unnamed_folders(files, settings.folders)
            images = [{"bytes": image_content(file)[0], "path": file.name} for file in files]
    elif settings.to == "ms-swift":
        record = swift_record
    else:
        record = factory_record
        images = [name_from(settings.out.parent, file) for file in files]
    return [record(pair, images) for pair in cut_pairs(item, settings.pairs)]


def _describe_to_factory(out: Path) -> None:
    """Add the file's entry to the `dataset_info.json` beside it, where LLaMA-Factory looks names up."""
    entries = _factory_entries(out)
    entries[out.stem] = {
        "file_name": out.name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
    }
    write_json(out.parent / DATASET_INFO, entries)


def _factory_entries(out: Path) -> dict[str, Any]:
    """Return what `dataset_info.json` beside the file holds; refuse to overwrite another file's entry of that name."""
    info = out.parent / DATASET_INFO
    entries = read_json(info) if info.exists() else {}
    if not isinstance(entries, dict):
        raise AmpError(f"'{info}' is not a LLaMA-Factory dataset list", hint="Choose another folder with --out")
    entry = entries.get(out.stem)
    if entry is not None and not (isinstance(entry, dict) and entry.get("file_name") == out.name):
        raise AmpError(f"'{info}' has another entry '{out.stem}'", hint="Choose another file name with --out")
    return entries


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two levels of an item; `better` and `worse` are their places in the quality order, from 0."""

    item: PreferenceItem
    better: int
    worse: int

    def __post_init__(self) -> None:
        if not 0 <= self.better < self.worse < len(self.item.levels):
            raise RecordError(f"there is no pair of levels {self.better} and {self.worse}")

    @property
    def id(self) -> str:
        """The item's id; where it gives more pairs than one, with the two levels behind it."""
        return self.item.id if len(self.item.levels) == 2 else f"{self.item.id}-{self.better}-{self.worse}"

    @property
    def chosen(self) -> tuple[str, ...]:
        return self.item.levels[self.better].answers

    @property
    def rejected(self) -> tuple[str, ...]:
        return self.item.levels[self.worse].answers

    @property
    def shared_rounds(self) -> int:
        """How many rounds from the start have the same answer on both sides; the last round is never counted."""
        count = 0
        while count < len(self.item.questions) - 1 and self.chosen[count] == self.rejected[count]:
            count += 1
        return count


def cut_pairs(item: PreferenceItem, pairing: str) -> Iterator[Pair]:
    """Yield the item's pairs: `all` of them, `adjacent` levels only, or the best level with each other one."""
    for better, worse in pairs_of(len(item.levels), pairing):
        yield Pair(item=item, better=better, worse=worse)


def refuse_image_tokens(item: PreferenceItem) -> None:
    """Refuse texts that hold the marker of an image's place: every reader would look for one image more."""
    answers = [answer for level in item.levels for answer in level.answers]
    held = next((text for text in (*item.questions, *answers) if IMAGE_TOKEN in text), None)
    if held is not None:
        raise RecordError(f"a text holds '{IMAGE_TOKEN}', which marks an image's place: {held!r:.80}")


def trl_record(pair: Pair, images: Sequence[Any]) -> dict[str, Any]:
    """Return a row of TRL's conversational preference data with images.

    The prompt ends with the first question that is answered differently; what follows stands in both completions.
    """
    open_at = pair.shared_rounds
    return {
        "id": pair.id,
        "pair": [pair.better, pair.worse],
        "images": list(images),
        "prompt": _blocks(_turns(pair.item.questions[: open_at + 1], pair.chosen[:open_at]), len(images)),
        "chosen": _blocks(_completion(pair.item.questions, pair.chosen, open_at), 0),
        "rejected": _blocks(_completion(pair.item.questions, pair.rejected, open_at), 0),
    }


def swift_record(pair: Pair, images: Sequence[str]) -> dict[str, Any]:
    """Return a line of ms-swift's standard preference data.

    Where answers before the last differ, `rejected_messages` holds the worse dialogue (ms-swift 3.8 or newer).
    """
    questions = _marked(pair.item.questions, len(images), separator="")
    record: dict[str, Any] = {
        "id": pair.id,
        "pair": [pair.better, pair.worse],
        "messages": _turns(questions, pair.chosen),
    }
    if pair.shared_rounds == len(questions) - 1:
        record["rejected_response"] = pair.rejected[-1]
    else:
        record["rejected_messages"] = _turns(questions, pair.rejected)
        if images:
            record["rejected_images"] = list(images)
    if images:
        record["images"] = list(images)
    return record


def factory_record(pair: Pair, images: Sequence[str]) -> dict[str, Any]:
    """Return an entry of LLaMA-Factory's sharegpt preference data.

    Raises:
        AmpError: answers before the last differ; the layout has one history for both sides.
    """
    if pair.shared_rounds != len(pair.item.questions) - 1:
        raise RecordError(
            f"levels {pair.better} and {pair.worse} differ before the last round; LLaMA-Factory has one history"
        )
    questions = _marked(pair.item.questions, len(images), separator="")
    return {
        "id": pair.id,
        "pair": [pair.better, pair.worse],
        "conversations": _said(_turns(questions, pair.chosen[:-1])),
        "chosen": {"from": "gpt", "value": pair.chosen[-1]},
        "rejected": {"from": "gpt", "value": pair.rejected[-1]},
        "images": list(images),
    }


def authors_record(item: PreferenceItem, images: Sequence[str]) -> dict[str, Any]:
    """Return an entry of the AMP authors' training JSON: `output_1` (best) to `output_K`, each a whole dialogue.

    Raises:
        AmpError: more than one image; the layout has one.
    """
    if len(images) > 1:
        raise RecordError(f"the item has {len(images)} images; the AMP authors' layout has one")
    questions = _marked(item.questions, len(images), separator="\n")
    record: dict[str, Any] = {"id": item.id, **({"image": images[0]} if images else {})}
    for number, level in enumerate(item.levels, start=1):
        record[f"output_{number}"] = _said(_turns(questions, level.answers))
    return record


def _turns(questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    """Return the dialogue as messages; with fewer answers than questions the last turn is left open."""
    turns = []
    for number, question in enumerate(questions[: len(answers) + 1]):
        turns.append({"role": "user", "content": question})
        if number < len(answers):
            turns.append({"role": "assistant", "content": answers[number]})
    return turns


def _completion(questions: Sequence[str], answers: Sequence[str], start: int) -> list[dict[str, str]]:
    """Return what follows the question of round `start`: its answer, and the later rounds."""
    return _turns(questions, answers)[2 * start + 1 :]


def _blocks(turns: Sequence[dict[str, str]], images: int) -> list[dict[str, Any]]:
    """Return the messages with content as blocks; the images come first of all."""
    places: list[dict[str, str]] = [{"type": "image"}] * images
    return [
        {
            "role": turn["role"],
            "content": [*(places if number == 0 else []), {"type": "text", "text": turn["content"]}],
        }
        for number, turn in enumerate(turns)
    ]


def _said(turns: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return messages in LLaVA's words."""
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def _marked(questions: Sequence[str], images: int, *, separator: str) -> tuple[str, ...]:
    """Return the questions with one image token for each image before the first."""
    return (f"{IMAGE_TOKEN}{separator}" * images + questions[0], *questions[1:])
