"""What the models are asked: images of the command line, data with standard answers, or a benchmark's questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.asking.answerer import Request
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.answering import folder_of_images
from amp_cli.benchmarks.benchmark import Benchmark
from amp_cli.benchmarks.files import check_images, numbered
from amp_cli.benchmarks.runner import loaded_benchmark
from amp_cli.benchmarks.sampling import BY_ITEM, take
from amp_cli.benchmarks.settings import settings_of
from amp_cli.compare.sides import DESCRIBE, CompareSettings
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.left_out import LeftOut
from amp_cli.disk.one_file import first_record
from amp_cli.downloads.places import benchmark_folder
from amp_cli.errors import AmpError
from amp_cli.models.images import check_image
from amp_cli.preferences.experts import request_of
from amp_cli.preferences.reading import find_images, image_root, read_items
from amp_cli.preferences.sources import read_sources
from amp_cli.records import BenchmarkItem, PreferenceItem


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One item: what is asked, and what is known of the image.

    Attributes:
        standard: a reference answer to each question; none where there is no reference.
        item: what a benchmark scores the answers by.
    """

    request: Request
    standard: tuple[str, ...] = ()
    item: BenchmarkItem | None = None


@dataclass(frozen=True, kw_only=True)
class ComparedQuestions:
    """The items, and where they come from.

    Attributes:
        total: how many there were to draw from. refused: what could not be used. benchmark: whose questions they are.
        identity: the content of the data, for `run.json`. inputs: all that was read.
        rule: by which the benchmark scores.
    """

    wanted: tuple[Wanted, ...]
    total: int
    refused: tuple[LeftOut, ...]
    identity: dict[str, Any]
    inputs: tuple[Path | None, ...]
    benchmark: Benchmark[Any] | None = None
    rule: str = ""


def find_data(word: str) -> tuple[Path, str | None]:
    """Return what `--data` means: a file, or the folder of a benchmark and its name.

    Raises:
        AmpError: there is no such place, or it cannot be told which benchmark's it is.
    """
    path = Path(word)
    if path.is_file():
        return path, None
    if path.is_dir():
        return path, _benchmark_in(path)
    name, equals, place = word.partition("=")
    if name not in BENCHMARKS:
        raise AmpError(
            f"There is no file or folder '{word}'",
            hint=f"Give a data file, a benchmark's folder, or NAME=DIR with one of {', '.join(BENCHMARKS)}",
        )
    folder = Path(place) if equals else benchmark_folder(name)
    if not folder.exists():
        hint = "Give NAME=DIR, a folder that exists" if equals else f"Run `amp download {name}`, or give {name}=DIR"
        raise AmpError(f"There is no folder '{folder}'", hint=hint)
    return folder, name


def _benchmark_in(folder: Path) -> str:
    found = [
        name
        for name, one in BENCHMARKS.items()
        if one.files and all(next(folder.rglob(pattern), None) for pattern in one.files)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise AmpError(
            f"It cannot be told which benchmark's files '{folder}' holds",
            hint=f"Say it: --data NAME={folder} with one of {', '.join(BENCHMARKS)}; or give a file of questions",
        )
    raise AmpError(f"'{folder}' holds files of {' and '.join(found)}", hint=f"Say which: --data {found[0]}={folder}")


def read_questions(settings: CompareSettings) -> ComparedQuestions:
    """Read and check what is to be asked.

    Raises:
        AmpError: an image or a file cannot be used, or nothing is left to ask.
    """
    if settings.data is None:
        return _of_images(settings)
    if settings.benchmark is not None:
        return _of_benchmark(settings, settings.benchmark, settings.data)
    record = first_record(settings.data)
    is_ranked = record is not None and "levels" in record
    return _of_preferences(settings, settings.data) if is_ranked else _of_sources(settings, settings.data)


def _of_images(settings: CompareSettings) -> ComparedQuestions:
    hashes = {}
    for path in settings.image:
        if not path.is_file():
            raise AmpError(f"There is no image '{path}'", hint="Give --image a file that exists")
        check_image(path)
        hashes[str(path)] = content_hash(path)
    asked = [(path, question) for path in settings.image for question in settings.ask or (DESCRIBE,)]
    ids = numbered(path.name for path, _ in asked)
    wanted = [
        Wanted(request=Request(id=item_id, images=(path.resolve(),), questions=(question,)))
        for item_id, (path, question) in zip(ids, asked, strict=True)
    ]
    identity = {"image_hashes": sorted(hashes.values())}
    return ComparedQuestions(
        wanted=tuple(wanted), total=len(wanted), refused=(), identity=identity, inputs=tuple(settings.image)
    )


def _of_sources(settings: CompareSettings, data: Path) -> ComparedQuestions:
    sources = read_sources(data, image_root=settings.image_root)
    items = take(sources.items, BY_ITEM, settings.limit, settings.running.seed)
    wanted = [Wanted(request=request_of(item), standard=item.answers) for item in items]
    return _of_file(settings, data, wanted, len(sources.items), sources.refused)


def _of_preferences(settings: CompareSettings, data: Path) -> ComparedQuestions:
    """Read a preference file: the answers of an item's best level are its reference."""
    items: list[PreferenceItem] = []
    refused: list[LeftOut] = []
    for one in read_items(str(data), image_root=settings.image_root):
        refused.append(one) if isinstance(one, LeftOut) else items.append(one)
    wanted = []
    for item in take(items, BY_ITEM, settings.limit, settings.running.seed):
        try:
            images = find_images(item, image_root(str(data), settings.image_root))
            for image in images:
                check_image(image)
        except AmpError as error:
            refused.append(LeftOut(id=item.id, reason=error.message))
            continue
        request = Request(id=item.id, images=images, questions=item.questions, frame=item.frame)
        wanted.append(Wanted(request=request, standard=item.levels[0].answers))
    return _of_file(settings, data, wanted, len(items), refused)


def _of_file(
    settings: CompareSettings, data: Path, wanted: Sequence[Wanted], total: int, refused: Sequence[LeftOut]
) -> ComparedQuestions:
    if not wanted:
        first = next((one.reason for one in refused), "there are none")
        raise AmpError(f"No item of '{data}' can be asked: {first}", hint="See: amp prefs check, or give --image-root")
    return ComparedQuestions(
        wanted=tuple(wanted),
        total=total,
        refused=tuple(refused),
        identity={"data_hash": content_hash(data)},
        inputs=(data, settings.image_root),
    )


def _of_benchmark(settings: CompareSettings, name: str, data: Path) -> ComparedQuestions:
    given = {"data": data, "image_root": settings.image_root, "out": settings.out or Path()}
    found, benchmark, loaded = loaded_benchmark(settings_of(name, given))
    for warning in loaded.warnings:
        ui.warn(warning)
    # each question for itself: what is looked at need not be scored, so nothing has to be asked as a whole
    sampling = replace(benchmark.sampling or BY_ITEM, whole=BY_ITEM.whole, unit="")
    items = take(loaded.items, sampling, settings.limit, settings.running.seed)
    folder = folder_of_images(items, data, found.image_root)
    refused: list[LeftOut] = []
    with ui.progress("checking images", len(items)) as advance:
        usable = check_images(
            items,
            folder,
            on_reject=lambda item, reason: refused.append(LeftOut(id=item, reason=reason)),
            advance=advance,
        )
    if not usable:
        raise AmpError(
            f"None of the images of {len(items):,} items can be used. The first: {refused[0].reason}",
            hint="Give --image-root, the folder that image paths start from",
        )
    wanted = [
        Wanted(
            request=Request(id=item.id, images=usable[item.id], questions=benchmark.ask(item, found)),
            standard=tuple(item.reference.get("answers", ())) if benchmark.judge is not None else (),
            item=item,
        )
        for item in items
        if item.id in usable
    ]
    return ComparedQuestions(
        wanted=tuple(wanted),
        total=len(loaded.items),
        refused=tuple(refused),
        identity={"data_files": {file.name: content_hash(file) for file in loaded.files}},
        inputs=(data, settings.image_root, *loaded.files),
        benchmark=benchmark,
        rule=found.rule,
    )


def of_authors(settings: CompareSettings, benchmark: Benchmark[Any] | None) -> CompareSettings:
    """Return the settings with the chat template that a benchmark's authors ask with, where none was chosen."""
    if benchmark is None or settings.loading.template != "auto":
        return settings
    return replace(settings, loading=replace(settings.loading, template=benchmark.template))
