"""Finds the files behind a source (file, folder or hub id), tells their format, and yields drafts of the records."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from amp_cli.dialogues.named_images import Record
from amp_cli.dialogues.turns import own_id, refuse_other_media
from amp_cli.disk.data_files import open_records
from amp_cli.disk.entries import Entry, entries_of
from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.draft import KEY, Choices, Draft, Format
from amp_cli.preferences.formats.formats import LOOKED_AT, detect_format, find_format
from amp_cli.preferences.formats.tables import arrow_entries, hub_entries, parquet_entries

SUFFIXES = (".json", ".jsonl", ".parquet", ".arrow")
NOT_DATA = {
    "run.json", "rejected.jsonl", "stats.json", "config.json", "state.json", "dataset_info.json", "dataset_infos.json",
    "dataset_dict.json",
}  # fmt: skip
OURS = "preferences.jsonl"
_SPLIT = re.compile(r"(train|training|test|validation|valid|val|dev|eval)(?:[-_.].*)?", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(kw_only=True)
class Source:
    """Records of one format, to be read once. `position` counts the bytes read so far, for a progress bar."""

    name: str
    files: tuple[Path, ...]  # none for a hub id
    format: Format
    choices: Choices
    image_root: Path | None
    split: str | None = None
    position: int = 0

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where they are not here."""
        return sum(file.stat().st_size for file in self.files) if self.files else None

    def drafts(self) -> Iterator[tuple[Draft | LeftOut, Path]]:
        """Yield what the records give, each with the folder that its images' paths start from."""
        if not self.files:
            root = self.image_root or Path.cwd()
            for entry in hub_entries(self.name, self.split):
                yield from ((draft, root) for draft in self._of(entry, self.name.rpartition("/")[2]))
            return
        before = 0
        for file in self.files:
            root = self.image_root or file.parent
            for entry, place in _entries_with_place(file):
                self.position = before + place
                yield from ((draft, root) for draft in self._of(entry, file.stem))
            before += file.stat().st_size
            self.position = before

    def _of(self, entry: Entry, stem: str) -> list[Draft | LeftOut]:
        number, record, reason = entry
        place = f"{stem}-{number}"
        if record is None:
            return [LeftOut(id=place, reason=reason)]
        try:
            refuse_other_media(record)
            drafts = [_with_system(draft, record) for draft in self.format.convert(record, self.choices)]
        except AmpError as error:
            return [LeftOut(id=_shown_id(record) or place, reason=error.message)]
        except RecursionError:
            return [LeftOut(id=place, reason="the record is nested too deeply")]
        if self.format.name == "amp":  # an own file's nameless items have always been known by their place
            return [draft if draft.id else _named(draft, place) for draft in drafts]
        return list(drafts)


def open_source(
    source: str | Path,
    *,
    format: str = "auto",
    image_root: Path | None = None,
    split: str | None = None,
    choices: Choices | None = None,
) -> Source:
    """Find the source's files and their format.

    Args:
        source: a file, a folder of such, or a hub id (owner/name).
        format: a name of `FORMATS`, or `auto`: told by the first records of each file.
        split: which part of a folder or hub data set, where it has several.

    Raises:
        AmpError: no such source, an unknown format, or files of several formats.
    """
    path = Path(source)
    files = _files_of(path, split)
    if format == "auto":
        found = _common_format(files) if files else _hub_format(str(source), split)
    else:
        found = find_format(format)
    return Source(
        name=str(source),
        files=files,
        format=found,
        choices=choices or Choices(),
        image_root=image_root,
        split=split,
    )


def _files_of(path: Path, split: str | None) -> tuple[Path, ...]:
    """Return the data files of a path, none for a hub id."""
    if path.is_dir():
        return _files_of_folder(path, split)
    if path.is_file():
        if split is not None:
            raise AmpError(f"'{path}' is one file, so there is no split '{split}' in it", hint="Leave out --split")
        return (path,)
    if _kind(path) not in SUFFIXES and _HUB_ID.fullmatch(str(path)):
        return ()
    raise AmpError(f"There is no file or folder '{path}'", hint="Give a file, a folder, or a hub id (owner/name)")


def _files_of_folder(folder: Path, split: str | None) -> tuple[Path, ...]:
    if (folder / OURS).is_file():
        return (folder / OURS,)
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if _kind(file) in SUFFIXES
        and file.name not in NOT_DATA
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file, folder), []).append(file)
    if split is not None:
        if split not in splits:
            raise AmpError(
                f"'{folder}' has no split '{split}'", hint=f"It has: {', '.join(filter(None, splits)) or 'none'}"
            )
        return tuple(splits[split])
    if len(named := [name for name in splits if name]) > 1:
        raise AmpError(f"'{folder}' has the splits {', '.join(named)}", hint=f"Name one with --split {named[0]}")
    if not files:
        raise AmpError(f"'{folder}' holds no data", hint=f"Files that can be read: {', '.join(SUFFIXES)}")
    return tuple(files)


def _kind(file: Path) -> str:
    """Return the ending that says what a file holds; of a gzip file that is the one before."""
    return Path(file.stem).suffix if file.suffix == ".gz" else file.suffix


def _split_of(file: Path, folder: Path) -> str:
    """Return the split that a file's name or folder says, '' for none."""
    for part in (file.stem, *reversed(file.relative_to(folder).parts[:-1])):
        if found := _SPLIT.fullmatch(part):
            return found[1].lower()
    return ""


def _common_format(files: tuple[Path, ...]) -> Format:
    formats = {file: _format_of(file) for file in files}
    first = files[0]
    for file, found in formats.items():
        if found.name != formats[first].name:
            raise AmpError(
                f"'{first}' is {formats[first].name}, but '{file}' is {found.name}",
                hint="Give one file after the other, or name the format of all with --format",
            )
    return formats[first]


def _format_of(file: Path) -> Format:
    first = [entry for entry, _ in islice(_entries_with_place(file), LOOKED_AT)]
    return detect_format(_records(iter(first)), str(file), first[0][2] if first else "")


def _hub_format(name: str, split: str | None) -> Format:
    return detect_format(_records(islice(hub_entries(name, split), LOOKED_AT)), name)


def _records(entries: Iterator[Entry]) -> list[Record]:
    return [record for _, record, _ in entries if record is not None]


def _entries_with_place(file: Path) -> Iterator[tuple[Entry, int]]:
    """Yield a file's entries, each with the bytes read so far (0 where that is not known)."""
    if file.suffix in (".parquet", ".arrow"):
        yield from ((entry, 0) for entry in (parquet_entries if file.suffix == ".parquet" else arrow_entries)(file))
        return
    with open_records(file) as (stream, place):
        for entry in entries_of(file, stream, key=KEY):
            yield entry, place.tell()


def _shown_id(record: Record) -> str | None:
    found = own_id(record, "id", "idx", "image_id")
    return found and found.encode("utf-8", "replace").decode()


def _with_system(draft: Draft, record: Record) -> Draft:
    """Return the draft with the record's system message, where its turns bring none."""
    system = record.get("system")
    if draft.frame.system is not None or not isinstance(system, str) or not system.strip():
        return draft
    return replace(draft, frame=replace(draft.frame, system=system))


def _named(draft: Draft, place: str) -> Draft:
    return replace(draft, id=place)
