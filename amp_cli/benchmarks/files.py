"""Reads the files of benchmarks: records, answers and verdicts that exist already, images on disk or in archives."""

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from amp_cli.asking.wire import read_completion
from amp_cli.disk.entries import read_entries
from amp_cli.disk.jsonl import content_hash, write_bytes
from amp_cli.disk.parsing import UnreadableError, parse_json
from amp_cli.downloads.places import benchmark_folder, cache_folder
from amp_cli.errors import AmpError
from amp_cli.models.images import check_image, find_image, lies_below
from amp_cli.records import Answer, BenchmarkItem, Verdict


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON list or JSONL file; a line that is none is an error that names it."""
    records = []
    for number, record, reason in read_entries(path):
        if record is None:
            raise AmpError(f"'{path}', record {number}: {reason}", hint="Fix or remove that line, then run again")
        records.append(record)
    return records


def own_answers(records: Iterable[Mapping[str, Any]], path: Path) -> dict[str, Answer]:
    """Return id -> answer of our own `{"id", "answers"}` records; the same id with two answers is refused."""
    answers: dict[str, Answer] = {}
    for number, record in enumerate(records, start=1):
        try:
            answer = Answer.from_json(record)
        except AmpError as error:
            raise AmpError(
                f"'{path}', record {number}: {error.message}", hint="Correct or remove that record, then run again"
            ) from error
        add_answer(answers, answer, path)
    return answers


def add_answer(answers: dict[str, Answer], answer: Answer, path: Path) -> None:
    """Add one answer; a repetition is harmless, a second, other answer to the same id is refused."""
    earlier = answers.setdefault(answer.id, answer)
    if earlier.answers != answer.answers:
        texts = [" / ".join(one.answers)[:80] for one in (earlier, answer)]
        raise AmpError(
            f"'{path}' answers '{answer.id}' twice and differently: {texts[0]!r} and {texts[1]!r}",
            hint="Keep one of the two lines",
        )


def check_complete(items: Sequence[BenchmarkItem], answers: Mapping[str, Answer], path: Path) -> None:
    """Refuse answers that do not cover the items one to one; the message counts and shows both sides."""
    wanted = {item.id: item for item in items}
    missing = [item for item_id, item in wanted.items() if item_id not in answers]
    unknown = [item_id for item_id in answers if item_id not in wanted]
    uneven = [item for item in items if item.id in answers and len(answers[item.id].answers) != len(item.questions)]
    if uneven:
        found = len(answers[uneven[0].id].answers)
        raise AmpError(
            f"'{path}': {len(uneven):,} items do not have as many answers as questions, first "
            f"'{uneven[0].id}' with {found} for {len(uneven[0].questions)}",
            hint="Give one answer to each question, in the questions' order",
        )
    if missing:
        shown = "; ".join(_described(item) for item in missing[:3])
        raise AmpError(
            f"'{path}' has no answer to {len(missing):,} of {len(items):,} questions"
            + (f", and {len(unknown):,} answers to others" if unknown else "")
            + f". Missing first: {shown}",
            hint="Answers and --data must be of the same version of the benchmark",
        )
    if unknown:
        raise AmpError(
            f"'{path}' has {len(unknown):,} answers to questions that --data does not hold, first '{unknown[0]}'",
            hint="Answers and --data must be of the same version of the benchmark",
        )


def _described(item: BenchmarkItem) -> str:
    images = ", ".join(item.images)
    return f"{item.id} ({images} {item.questions[0]!r})" if item.questions else f"{item.id} ({images})"


_LARGEST = 200 << 20
"""Bytes. An image that unpacks to more is left where it is, and then reported as missing."""


def unpack_images(items: Sequence[BenchmarkItem], data: Path) -> Path | None:
    """Return a folder with the items' images out of the archives at or below `data`; None where none holds any.

    Members are matched by the whole path, else by a file name that the archive has once. What is unpacked stays.
    """
    names = {name for item in items for name in item.images if _stays_inside(name)}
    archives: list[tuple[Path, str, dict[str, zipfile.ZipInfo]]] = []
    for file in [data] if data.is_file() else sorted(data.rglob("*.zip")):
        if file.suffix == ".zip":
            with _opened_archive(file) as archive:
                found = _members(archive, names)
                if found:
                    archives.append((file, _identity(archive), found))
                    names -= found.keys()
    if not archives:
        return None
    folder = cache_folder() / "unpacked" / "-".join(identity for _, identity, _ in archives)
    for file, _, found in archives:
        with _opened_archive(file) as archive:
            for name, member in found.items():
                _unpack(archive, member, folder / name)
    return folder


@contextmanager
def _opened_archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise AmpError(f"'{file}' cannot be read: {error}", hint="Fetch it again, or give --image-root") from error


def _members(archive: zipfile.ZipFile, names: Iterable[str]) -> dict[str, zipfile.ZipInfo]:
    """Return name -> member: another folder's image of the same file name is not it."""
    by_base: dict[str, list[zipfile.ZipInfo]] = {}
    for member in archive.infolist():
        by_base.setdefault(PurePosixPath(member.filename).name, []).append(member)
    found = {}
    for name in names:
        alike = by_base.get(PurePosixPath(name).name, [])
        whole = [one for one in alike if _is_same_place(one.filename, name)]
        if len(chosen := whole or alike) == 1:
            found[name] = chosen[0]
    return found


def _is_same_place(one: str, other: str) -> bool:
    """Tell whether one path is the end of the other."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _identity(archive: zipfile.ZipFile) -> str:
    """Return a name for an archive's content, from its directory: names, sizes and checksums."""
    listed = "\n".join(f"{member.filename} {member.file_size} {member.CRC}" for member in archive.infolist())
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if target.is_file() or member.file_size > _LARGEST:
        return
    write_bytes(target, archive.read(member))


LARGEST_LIST = 64 << 20
"""Bytes. Larger JSON files do not hold a benchmark's questions."""


def find_list(data: Path, is_one: Callable[[Mapping[str, Any]], bool], what: str, hint: str) -> Path | None:
    """Return the JSON list at or below `data` whose first record `is_one`; None where there is none.

    Raises:
        AmpError: `data` is not there, or holds several such files that differ.
    """
    if data.is_file():
        return data if data.suffix != ".zip" else None
    if not data.is_dir():
        raise AmpError(f"There is no folder '{data}'", hint=hint)
    found = [file for file in sorted(data.rglob("*.json")) if file.is_file() and _first_fits(file, is_one)]
    if len({content_hash(file) for file in found}) > 1:
        listed = ", ".join(f"'{file.relative_to(data)}'" for file in found)
        raise AmpError(f"{len(found)} files below '{data}' hold {what}: {listed}", hint="Give one of them with --data")
    return found[0] if found else None


def _first_fits(file: Path, is_one: Callable[[Mapping[str, Any]], bool]) -> bool:
    if file.stat().st_size > LARGEST_LIST:
        return False
    try:
        records = parse_json(file.read_bytes())
    except (OSError, UnreadableError):  # some other program's file
        return False
    return isinstance(records, list) and bool(records) and isinstance(records[0], dict) and is_one(records[0])


def numbered(names: Iterable[str]) -> list[str]:
    """Return the names, the second of the same name with `-2` behind it, and so on."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def text_field(record: Mapping[str, Any], name: str, where: str) -> str:
    """Return a text of a record, or refuse the record by the field's name."""
    value = record.get(name)
    if not isinstance(value, str):
        raise AmpError(f"{where} has no text '{name}'", hint="Correct or remove that record, then run again")
    return value


def text_list(record: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Return a list of texts of a record, or refuse the record by the field's name."""
    value = record.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise AmpError(f"{where} has no list of texts '{name}'", hint="Correct or remove that record, then run again")
    return tuple(value)


def spoken(text: str) -> str:
    """Return a question as it is said: without image tags and white space around it."""
    return text.replace("<image>", "").strip()


COCO_PREFIX = "COCO_val2014_"


def image_folder(items: Sequence[BenchmarkItem], data: Path, image_root: Path | None) -> Path:
    """Return the folder that the items' image paths start from.

    That is `image_root` if given, else `data`, or the first folder up to two levels below (`val2014`, `images`) that
    holds one of the first few images.
    """
    root = image_root or (data.parent if data.is_file() else data)
    if not root.is_dir():
        raise AmpError(f"There is no folder '{root}'", hint="Give --image-root, the folder that image paths start from")
    folders = [root, *sorted(folder for pattern in ("*", "*/*") for folder in root.glob(pattern) if folder.is_dir())]
    return next((folder for folder in folders if holds_images(folder, items)), root)


def holds_images(folder: Path, items: Sequence[BenchmarkItem]) -> bool:
    """Return whether a folder holds one of the first few images."""
    names = (name for item in items[:20] for name in item.images)
    return any((folder / spelling).is_file() for name in names for spelling in _spellings(name))


def _spellings(name: str) -> tuple[str, str]:
    """Return an image's name, and the same with or without COCO's prefix: distributions differ in it."""
    path = Path(name)
    bare = path.name.removeprefix(COCO_PREFIX)
    return name, str(path.with_name(bare if bare != path.name else COCO_PREFIX + path.name))


def downloaded_images(benchmark: str, data: Path) -> Path | None:
    """Return where the downloaded images of a benchmark are, for another one whose own `data` brings none.

    Args:
        benchmark: whose images serve; "" where nobody's do.
    """
    kinds = ("jpg", "jpeg", "png")
    if not benchmark or any(next(data.glob(f"{depth}*.{kind}"), None) for depth in ("", "*/") for kind in kinds):
        return None
    images = benchmark_folder(benchmark) / "val2014"
    return images if images.is_dir() else None


def check_images(
    items: Sequence[BenchmarkItem], folder: Path, *, on_reject: Callable[[str, str], None], advance: Callable[[], None]
) -> dict[str, tuple[Path, ...]]:
    """Return id -> image files of the items whose images can all be opened; others are rejected with the reason."""
    usable: dict[str, tuple[Path, ...]] = {}
    checked: dict[str, Path | AmpError] = {}
    for item in items:
        for name in item.images:
            if name not in checked:
                checked[name] = _checked(name, folder)
        found = [checked[name] for name in item.images]
        fault = next((one for one in found if isinstance(one, AmpError)), None)
        if fault:
            on_reject(item.id, fault.message)
        else:
            usable[item.id] = tuple(one for one in found if isinstance(one, Path))
        advance()
    return usable


def image_file(name: str, folder: Path) -> Path:
    """Return an image's file, whichever way its name is spelled there.

    Raises:
        AmpError: there is none, or it lies outside the folder: a benchmark's files come from elsewhere.
    """
    found = find_image(next((one for one in _spellings(name) if (folder / one).is_file()), name), folder)
    if Path(name).is_absolute() and not lies_below(found, [folder]):
        raise AmpError(f"The image '{name}' lies outside the folder '{folder}'", hint="Give --image-root")
    return found


def _checked(name: str, folder: Path) -> Path | AmpError:
    try:
        path = image_file(name, folder)
        check_image(path)
    except AmpError as fault:
        return fault
    return path


def reply_of(response: Mapping[str, Any], item_id: str, where: str) -> Verdict:
    """Return the verdict in a chat completion's response."""
    reply = read_completion(response)
    if reply is None:
        raise AmpError(
            f"{where} is not a judge's response: it needs choices, message and content",
            hint="Give the file as the released code's `--evaluation` wrote it, or JSONL with `id` and `text`",
        )
    try:
        return Verdict(id=item_id, **{**asdict(reply), "text": reply.text or ""})
    except AmpError as error:
        raise AmpError(f"{where}: {error.message}", hint="Fix or remove that verdict, then run again") from error


def own_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read our own `{"id", "text"}` records."""
    verdicts = []
    for number, record in enumerate(records_of(path), start=1):
        if "id" not in record or not isinstance(record.get("text"), str):
            raise AmpError(
                f"'{path}', record {number}, is not a verdict: it has neither the released code's fields nor "
                "`id` and `text`",
                hint="Raw replies in another form go through --judge replay:FILE",
            )
        verdicts.append(Verdict.from_json({**record, "id": str(record["id"])}))
    check_verdicts(verdicts, items, path)
    return verdicts


def check_verdicts(verdicts: Sequence[Verdict], items: Sequence[BenchmarkItem], path: Path) -> None:
    """Refuse verdicts on unknown items, two on the same item, and items without any."""
    known = {item.id for item in items}
    keys: set[tuple[str, int]] = set()
    for one in verdicts:
        if (one.id, one.repeat) in keys:
            raise AmpError(
                f"'{path}' holds two verdicts on '{one.id}' (repeat {one.repeat})", hint="Keep one of the two lines"
            )
        keys.add((one.id, one.repeat))
    strangers = [one.id for one in verdicts if one.id not in known]
    judged = {one.id for one in verdicts}
    missing = [item.id for item in items if item.id not in judged]
    for ids, what in ((strangers, "verdicts on items that --data does not hold"), (missing, "items without a verdict")):
        if ids:
            raise AmpError(
                f"'{path}': {len(ids):,} {what}, first '{ids[0]}'",
                hint="Verdicts and --data must be of the same version of the benchmark",
            )


def refuse_missing(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict]) -> None:
    """Refuse to score officially without a verdict on every item: the official scripts read a whole file."""
    missing = [item.id for item in items if item.id not in verdicts]
    if missing:
        raise AmpError(
            f"The official script needs a verdict on every item; {len(missing):,} have none, first '{missing[0]}'",
            hint="Run the same command again to judge the rest, or use --rule strict",
        )
