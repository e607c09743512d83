"""Fetches repositories of the Hugging Face hub at one commit; verifies all files, and explains the hub's errors."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TypeVar

from amp_cli.addresses import shown_address
from amp_cli.disk.parsing import read_object
from amp_cli.downloads.checks import verify
from amp_cli.downloads.places import check_space, is_offline
from amp_cli.downloads.reports import FETCHED, LISTED, PRESENT, FileReport, Progress
from amp_cli.errors import AmpError

Result = TypeVar("Result")
SILENCE = 120.0
"""Seconds without a word after which the hub is given up; its library would wait for ever."""
NOT_THE_HUB = "what answered is not the hub"
IN_BETWEEN = "A proxy or a login page may stand between; check the network, and HF_ENDPOINT where it is set"


@cache
def bound_silence() -> None:
    """Have the hub's library give up a server that says nothing, from now on in this process."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def bound(request: httpx2.Request) -> None:  # the library also asks in so many words for no limit
        asked = request.extensions.get("timeout", {})
        bounds = {
            one: SILENCE if asked.get(one) is None else asked[one] for one in ("connect", "read", "write", "pool")
        }
        request.extensions = {**request.extensions, "timeout": bounds}

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], bound]}
        return made

    set_client_factory(client)


def explained(action: Callable[[], Result], repo: str, mirror: str | None = None) -> Result:
    """Run a request to the hub, or a mirror of it; its failures become sentences with what to do.

    Raises:
        AmpError: for whatever the user can mend.
    """
    import httpx2
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    bound_silence()
    try:
        return action()
    except json.JSONDecodeError as error:
        raise AmpError(f"'{repo}' could not be asked for: {NOT_THE_HUB}", hint=IN_BETWEEN) from error
    except HFValidationError as error:
        raise AmpError(
            f"'{repo}' is neither a folder nor a hub id",
            hint="Give a folder that exists, owner/name, or a name that `amp models` lists",
        ) from error
    except GatedRepoError as error:
        raise AmpError(
            f"Access to '{repo}' is restricted", hint="Accept its terms on the hub and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise AmpError(
            f"The hub has no repository '{repo}' (or it is private)", hint="Check the name; set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise AmpError(f"'{repo}' has no such revision", hint="--revision takes a branch, a tag or a commit") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise AmpError(
            f"'{repo}' is not on this disk and the hub cannot be reached",
            hint=f"With a network, `amp download {repo}` fetches it. Or copy it here and give its folder",
        ) from error
    except EntryNotFoundError as error:
        raise AmpError(
            f"'{repo}' lacks a required file on the hub: {_first_line(error, mirror)}",
            hint="Check the name, or give another --revision",
        ) from error
    except HfHubHTTPError as error:
        raise AmpError(
            f"The hub refused '{repo}' (status {error.response.status_code})",
            hint="What has arrived is kept: run the same command to continue. --mirror uses another endpoint",
        ) from error
    except (RevisionResolutionError, httpx2.TransportError, OSError) as error:
        raise AmpError(
            f"'{repo}' could not be downloaded: {_first_line(error, mirror)}",
            hint="What has arrived is kept: run the same command to continue. "
            "`amp download --mirror` uses another endpoint",
        ) from error


def _first_line(error: Exception, mirror: str | None) -> str:
    """Return the first line of what a library says, with no secret of the mirror's address."""
    said = str(error) or type(error).__name__
    return (said if mirror is None else said.replace(mirror.rstrip("/"), shown_address(mirror).rstrip("/"))).split(
        "\n"
    )[0]


SMALL = ("*.json", "*.model", "*.jinja", "*.txt", "*.tiktoken")
SAFE = ("*.safetensors",)
LARGE = 100_000_000
"""Larger files are fetched one at a time: a run that is stopped loses its unfinished files, so at most one."""

CARRIED = "carried by hand"
"""The commit of files whose origin nothing on this disk tells."""

PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "non_lora_trainables.bin", "mm_projector.bin")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of the hub. `patterns` None: a model's files; `folder` None: the library's cache.

    Attributes:
        revision: branch, tag or commit; None is the main branch. mirror: another endpoint.
    """

    id: str
    kind: str = "model"
    revision: str | None = None
    patterns: tuple[str, ...] | None = None
    folder: Path | None = None
    mirror: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file at one commit; `checksum` as the hub states it ("sha256:..." or "git:...", None if not known here)."""

    path: str
    bytes: int
    checksum: str | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A repository's chosen files at one commit, and the folder they lie in (or will)."""

    repository: Repository
    commit: str
    folder: Path
    files: tuple[HubFile, ...]


def choose_files(paths: Sequence[str], patterns: tuple[str, ...] | None) -> list[str]:
    """Return which files of a repository are taken: pickled weights only where there are no safe ones.

    Code is taken only where a pattern is its very name; it is read, never run (MMHal's holds the judge's prompt).
    """
    paths = [path for path in paths if not path.endswith(".py") or path in (patterns or ())]
    if patterns is not None:
        return [path for path in paths if _matches(path, patterns)]
    top = [path for path in paths if "/" not in path]
    safe = [path for path in top if _matches(path, SAFE)]
    weights = safe or [path for path in top if _matches(path, PICKLES)]
    unused = () if not safe else ("*.bin.index.json",)
    return [path for path in top if path in weights or (_matches(path, SMALL) and not _matches(path, unused))]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def list_snapshot(repository: Repository) -> Snapshot:
    """Ask the hub (offline: the cache) which commit is meant and what it holds.

    Raises:
        AmpError: no such repository or revision, access refused, or offline and never fetched.
    """
    if is_offline():
        return _cached_snapshot(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> Snapshot:
        api = HfApi(endpoint=repository.mirror)
        revision = api.resolve_revision(repository.id, repo_type=repository.kind, revision=repository.revision)
        commit = revision.resolved
        tree = api.list_repo_tree(repository.id, recursive=True, revision=commit, repo_type=repository.kind)
        files = {
            entry.path: HubFile(
                path=entry.path,
                bytes=entry.size,
                checksum=f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}",
            )
            for entry in tree
            if isinstance(entry, RepoFile)
        }
        return _snapshot(repository, commit, files)

    return explained(ask, repository.id, repository.mirror)


def fetch_snapshot(snapshot: Snapshot, progress: Progress) -> list[FileReport]:
    """Download what is missing (resumed where it stopped), then compare every file with what the hub states.

    Raises:
        AmpError: no room, no connection, or a file is not what the hub says; that file is removed.
    """
    repository = snapshot.repository
    missing = [file for file in snapshot.files if not (snapshot.folder / file.path).is_file()]
    if missing and is_offline():
        raise AmpError(
            f"'{repository.id}' is incomplete on this disk: '{missing[0].path}' is missing"
            + (f" ({len(missing)} files are missing)" if len(missing) > 1 else ""),
            hint=_carry_hint(repository),
        )
    if missing:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        check_space(snapshot.folder, sum(file.bytes for file in missing))
        explained(
            lambda: snapshot_download(
                repository.id,
                repo_type=repository.kind,
                revision=snapshot.commit,
                local_dir=repository.folder,
                allow_patterns=[_literal(file.path) for file in snapshot.files],
                endpoint=repository.mirror,
                max_workers=1 if any(file.bytes > LARGE for file in missing) else 8,
            ),
            repository.id,
            repository.mirror,
        )
    fetched = {file.path for file in missing}
    with progress(f"Verifying {repository.id}", sum(file.bytes for file in snapshot.files), 0) as advance:
        reports = []
        for file in snapshot.files:
            reports.append(_verified(snapshot, file, FETCHED if file.path in fetched else PRESENT))
            advance(file.bytes)
    return reports


def list_files(snapshot: Snapshot) -> list[FileReport]:
    """Return what `fetch_snapshot` would bring, without fetching."""
    return [_report(snapshot, file, LISTED) for file in snapshot.files]


def _report(snapshot: Snapshot, file: HubFile, state: str) -> FileReport:
    from huggingface_hub import hf_hub_url

    repository = snapshot.repository
    url = hf_hub_url(
        repository.id,
        file.path,
        repo_type=repository.kind,
        revision=snapshot.commit,
        endpoint=None if repository.mirror is None else shown_address(repository.mirror),
    )
    place = snapshot.folder / file.path
    return FileReport(file=file.path, url=url, place=place, bytes=file.bytes, expected=file.checksum, state=state)


def _verified(snapshot: Snapshot, file: HubFile, state: str) -> FileReport:
    place = snapshot.folder / file.path
    try:
        found = verify(place, file.bytes, file.checksum)
    except AmpError as error:
        place.resolve().unlink()  # in the cache, `place` is a link to the content
        place.unlink(missing_ok=True)
        raise AmpError(
            f"A file of '{snapshot.repository.id}' does not match the hub: {error.message}",
            hint="The file was removed. Run the same command again",
        ) from error
    how = found.how if file.checksum else "size"
    return replace(_report(snapshot, file, state), sha256=found.sha256, verified=how)


def _literal(path: str) -> str:
    """Return a pattern that matches just this file."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _snapshot(repository: Repository, commit: str, files: dict[str, HubFile]) -> Snapshot:
    chosen = choose_files(list(files), repository.patterns)
    if not chosen:
        raise AmpError(
            f"'{repository.id}' has none of the required files",
            hint="Check the name: `amp models` lists those that are known",
        )
    folder = repository.folder or _cache_folder(repository) / "snapshots" / commit
    return Snapshot(
        repository=repository, commit=commit, folder=folder, files=tuple(files[path] for path in sorted(chosen))
    )


def _cache_folder(repository: Repository) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{repository.kind}s--{repository.id.replace('/', '--')}"


def _cached_snapshot(repository: Repository) -> Snapshot:
    """Return what the cache knows of a repository: its file list, kept by an earlier download, or the files there."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    commit = _cached_commit(repository)
    root = repository.folder or _cache_folder(repository) / "snapshots" / commit
    try:
        tree = get_cached_repo_tree(
            repository.id, repo_type=repository.kind, revision=commit, local_dir=repository.folder
        )
        sizes = {entry.path: entry.size for entry in tree}
    except CachedRepoTreeNotFoundError:
        sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in root.rglob("*") if file.is_file()}
        _refuse_missing_parts(repository, root)
    files = {path: HubFile(path=path, bytes=size, checksum=_link_name(root / path)) for path, size in sizes.items()}
    return _snapshot(repository, commit, files)


def _cached_commit(repository: Repository) -> str:
    cache = _cache_folder(repository)
    revision = repository.revision or "main"
    reference = cache / "refs" / revision
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    if (cache / "snapshots" / revision).is_dir():
        return revision
    if repository.folder is not None and repository.folder.is_dir():
        return CARRIED
    raise AmpError(
        f"'{repository.id}' is not on this disk, and amp is offline",
        hint=_carry_hint(repository),
    )


def _refuse_missing_parts(repository: Repository, folder: Path) -> None:
    for index in folder.glob("*.index.json"):
        for part in sorted(set(read_object(index, weight_map=dict)["weight_map"].values())):
            if not (folder / part).is_file():
                raise AmpError(
                    f"'{repository.id}' is incomplete on this disk: '{part}' is missing", hint=_carry_hint(repository)
                )


def _link_name(place: Path) -> str | None:
    """Return the checksum that the cache's own link states: it calls each content by its SHA-256 or git blob id."""
    if not place.is_symlink():
        return None
    name = place.readlink().name
    return {64: f"sha256:{name}", 40: f"git:{name}"}.get(len(name))


def _carry_hint(repository: Repository) -> str:
    if repository.folder is not None:
        return f"Put the repository's files into '{repository.folder}', or run without --offline"
    return "Run without --offline, or put the repository's files into a folder and give that folder as --model"
