"""Brings a model or a benchmark to this disk: what belongs together, in the order in which it is needed."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from amp_cli.downloads.http_files import fetch_file
from amp_cli.downloads.hub_files import Repository, Snapshot, fetch_snapshot, list_files, list_snapshot
from amp_cli.downloads.places import benchmark_folder, check_space, is_offline, shown_source
from amp_cli.downloads.remote_zip import fetch_members
from amp_cli.downloads.reports import Download, FileReport, Progress
from amp_cli.downloads.sources import BENCHMARK_FILES, BenchmarkFiles, find_benchmark
from amp_cli.downloads.zoo import KNOWN, KnownModel, find_model, needed_with
from amp_cli.errors import AmpError

CARRY_NOTE = "On a machine without network, put these files into one folder and give that folder as --model"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to fetch. `why` says for whom, where it was not asked for itself."""

    name: str
    benchmark: BenchmarkFiles | None = None
    hub_id: str | None = None
    why: str | None = None


def resolve_targets(names: list[str]) -> list[Target]:
    """Return what the names mean, with what they cannot run without, each thing once.

    Raises:
        AmpError: a name that is no model, benchmark or hub id.
    """
    targets: dict[str, Target] = {}
    for name in names:
        for target in _targets_of(name):
            targets.setdefault(target.name, target)
    return list(targets.values())


def _targets_of(name: str) -> list[Target]:
    if benchmark := find_benchmark(name):
        return [Target(name=name, benchmark=benchmark)]
    model = find_model(name)
    if model is None:
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return [Target(name=name, hub_id=name)]
        raise AmpError(f"'{name}' is not a known model or benchmark", hint=_nearest(name))
    if model.obstacle:
        raise AmpError(f"'{model.name}' cannot be run: {model.obstacle}", hint="`amp models` shows which models can")
    return [_model_target(model), *(_model_target(other, for_=model) for other in needed_with(model))]


def _model_target(model: KnownModel, for_: KnownModel | None = None) -> Target:
    why = None
    if for_ is not None:
        why = f"the base of {for_.name}" if model.name == for_.base else f"the vision tower that {for_.name} needs"
    return Target(name=model.name, hub_id=model.hub_id, why=why)


def _nearest(name: str) -> str:
    known = [benchmark.name for benchmark in BENCHMARK_FILES] + [model.name for model in KNOWN]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return (f"Did you mean {', '.join(near)}? " if near else "") + "`amp download` lists them; owner/name is a hub id"


def fetch_target(target: Target, *, mirror: str | None, revision: str | None, progress: Progress) -> Download:
    """Bring one target to this disk, or find that it is there.

    Raises:
        AmpError: what is finished is kept.
    """
    if target.benchmark is not None:
        return _fetch_benchmark(target.benchmark, mirror, revision, progress)
    if target.hub_id is None:
        return _embedded(target.name)
    snapshot = list_snapshot(Repository(id=target.hub_id, revision=revision, mirror=mirror))
    return _hub_download(target.name, "model", snapshot, fetch_snapshot(snapshot, progress))


def list_target(target: Target, *, mirror: str | None, revision: str | None) -> Download:
    """Return the files of one target, with addresses and places; nothing is fetched but the hub's file list."""
    if target.benchmark is not None:
        return _list_benchmark(target.benchmark, mirror, revision)
    if target.hub_id is None:
        return _embedded(target.name)
    repository = Repository(id=target.hub_id, revision=revision, mirror=mirror)
    snapshot = _listed(repository)
    if snapshot is None:
        return _unlisted(target.name, "model", repository)
    return _hub_download(target.name, "model", snapshot, list_files(snapshot), CARRY_NOTE)


def _embedded(name: str) -> Download:
    note = f"'{name}' comes with amp; there is nothing to fetch"
    return Download(name=name, kind="model", source="this program", folder=Path(), files=(), notes=(note,))


def _hub_download(name: str, kind: str, snapshot: Snapshot, files: list[FileReport], *notes: str) -> Download:
    repository = snapshot.repository
    if repository.revision is not None and repository.folder is None:
        notes += (f"To use this revision: --model {snapshot.folder}",)
    return Download(
        name=name,
        kind=kind,
        source=repository.id,
        revision=snapshot.commit,
        folder=snapshot.folder,
        files=tuple(files),
        notes=notes,
    )


def _repository(benchmark: BenchmarkFiles, mirror: str | None, revision: str | None) -> Repository:
    data = benchmark.data
    assert data is not None
    folder = benchmark_folder(benchmark.name)
    return Repository(
        id=data.repo, kind="dataset", revision=revision, patterns=data.patterns, folder=folder, mirror=mirror
    )


def _fetch_benchmark(
    benchmark: BenchmarkFiles, mirror: str | None, revision: str | None, progress: Progress
) -> Download:
    folder = benchmark_folder(benchmark.name)
    notes = _notes(benchmark, folder)
    if benchmark.data is not None:
        snapshot = list_snapshot(_repository(benchmark, mirror, revision))
        return _hub_download(benchmark.name, "benchmark", snapshot, fetch_snapshot(snapshot, progress), *notes)
    missing = [file for file in benchmark.files if not (folder / file.path).is_file()]
    check_space(folder, sum(file.bytes or 0 for file in missing))
    files = [fetch_file(file, folder, mirror, progress) for file in benchmark.files]
    if benchmark.members is not None:
        members = benchmark.members
        files.append(fetch_members(members.archive, members.wanted(folder), folder, mirror, progress))
    return Download(
        name=benchmark.name,
        kind="benchmark",
        source=_source(benchmark),
        folder=folder,
        files=tuple(files),
        notes=notes,
    )


def _notes(benchmark: BenchmarkFiles, folder: Path) -> tuple[str, ...]:
    return (benchmark.note.format(folder=folder),) if benchmark.note else ()


def _source(benchmark: BenchmarkFiles) -> str:
    addresses = [file.url for file in benchmark.files] + ([benchmark.members.archive.url] if benchmark.members else [])
    return ", ".join(dict.fromkeys(address.split("/")[2] for address in addresses))


def _list_benchmark(benchmark: BenchmarkFiles, mirror: str | None, revision: str | None) -> Download:
    folder = benchmark_folder(benchmark.name)
    notes = _notes(benchmark, folder)
    if benchmark.data is not None:
        repository = _repository(benchmark, mirror, revision)
        snapshot = _listed(repository)
        if snapshot is None:
            return _unlisted(benchmark.name, "benchmark", repository)
        return _hub_download(benchmark.name, "benchmark", snapshot, list_files(snapshot), *notes)
    files = [
        FileReport(
            file=file.path,
            url=shown_source(file.url, mirror),
            place=folder / file.path,
            bytes=file.bytes,
            expected=file.checksum,
        )
        for file in benchmark.files
    ]
    if benchmark.members is not None:
        archive = benchmark.members.archive
        files.append(
            FileReport(
                file=archive.file,
                url=shown_source(archive.url, mirror),
                place=folder / archive.file,
                bytes=archive.bytes,
                expected=archive.checksum,
            )
        )
        notes += (
            f"Of {archive.file} only the files that the benchmark needs are kept: "
            f"`amp --offline download {benchmark.name}` extracts them from the copied archive; then you can delete it",
        )
    return Download(
        name=benchmark.name,
        kind="benchmark",
        source=_source(benchmark),
        folder=folder,
        files=tuple(files),
        notes=notes,
    )


def _listed(repository: Repository) -> Snapshot | None:
    """Return the repository's file list; None where only the hub could tell and may not be asked."""
    try:
        return list_snapshot(repository)
    except AmpError:
        if is_offline():
            return None
        raise


def _unlisted(name: str, kind: str, repository: Repository) -> Download:
    """Say what is known of a repository whose files cannot be listed offline."""
    folder = repository.folder
    patterns = ", ".join(repository.patterns or ("*.json", "*.safetensors (else *.bin)", "*.model", "*.jinja", "*.txt"))
    address = f"https://huggingface.co/{'datasets/' if repository.kind == 'dataset' else ''}{repository.id}"
    how = f"Put them into '{folder}'" if folder else "Put them into one folder and give that folder as --model"
    return Download(
        name=name,
        kind=kind,
        source=repository.id,
        folder=folder or Path(),
        files=(),
        notes=(f"Offline, its files cannot be listed. Fetch from {address}: {patterns}. {how}",),
    )
