"""Puts files into a repository of the Hugging Face hub, in one commit; what has arrived is not sent again."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from amp_cli import ui
from amp_cli.downloads.hub_files import IN_BETWEEN, NOT_THE_HUB, bound_silence
from amp_cli.downloads.places import is_offline
from amp_cli.errors import AmpError
from amp_cli.push.files import Upload

Result = TypeVar("Result")
TOKEN = "HF_TOKEN"
WRITE_TOKEN = f"Set {TOKEN} to a token that may write (hub: Settings, Access Tokens)"
MAIN = "main"
REPLACED_FREELY = ("README.md", "report.json", "report.html", ".gitattributes")
"""What a push may replace without being told to: it says nothing that the weights do not."""


@dataclass(frozen=True, kw_only=True)
class PushedRepository:
    """Where the files go. `overwrite` lets files of other content be replaced."""

    repo: str
    private: bool = False
    revision: str | None = None
    overwrite: bool = False
    message: str = "Upload with amp push"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where the files are now. `commit` is the branch's last one; `is_new` tells whether the repository was made."""

    url: str
    commit: str
    is_new: bool


def token_from_environment() -> str:
    """Return the token; it is handed to the hub's library and goes nowhere else.

    Raises:
        AmpError: there is none, or amp is offline.
    """
    if is_offline():
        raise AmpError("amp is offline, and a push needs the hub", hint="Leave out --offline, and unset HF_HUB_OFFLINE")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise AmpError(f"A push needs a token, and {TOKEN} is not set", hint=WRITE_TOKEN)
    return token


def refuse_strange_name(repo: str) -> None:
    """Refuse what cannot be a repository's name before anything is read.

    Raises:
        AmpError: it is not OWNER/NAME.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise AmpError(f"'{repo}' is not a name for a repository", hint="Give OWNER/NAME") from error
    if repo.count("/") != 1:
        raise AmpError(f"'{repo}' does not say whose repository it is", hint=f"Give OWNER/{repo}")


def push_files(target: PushedRepository, uploads: Sequence[Upload], token: str) -> Pushed:
    """Upload the files; the repository and the branch are made where they are not there.

    Raises:
        AmpError: the token may not, the name is taken by other files or is none, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token)

    def existing() -> Any:
        try:
            return api.repo_info(target.repo)
        except RepositoryNotFoundError:
            return None  # or the token is no good, which shows when it is made

    def push() -> Pushed:
        info = existing()
        if info is None:
            api.create_repo(target.repo, private=target.private, exist_ok=True)
        else:
            _refuse_public(target, info)
        if target.revision not in (None, MAIN):
            api.create_branch(target.repo, branch=str(target.revision), exist_ok=True)
        if info is not None:
            _refuse_other_files(target, uploads, api)
        with ui.busy(f"Uploading {len(uploads)} files to '{target.repo}'"):
            commit = api.create_commit(
                target.repo,
                [CommitOperationAdd(path_in_repo=one.path, path_or_fileobj=_content(one)) for one in uploads],
                commit_message=target.message,
                revision=target.revision,
            )
        return Pushed(url=f"{api.endpoint}/{target.repo}", commit=str(commit.oid), is_new=info is None)

    return explained_push(push, target)


def _content(upload: Upload) -> str | bytes:
    return upload.content if isinstance(upload.content, bytes) else str(upload.content)


def _refuse_public(target: PushedRepository, info: Any) -> None:
    if target.private and not info.private:
        raise AmpError(
            f"The repository '{target.repo}' is there already, and it is public",
            hint="Choose another name, make it private on the hub first, or leave out --private",
        )


def _refuse_other_files(target: PushedRepository, uploads: Sequence[Upload], api: Any) -> None:
    """Refuse to replace files with another content: a name may be taken by another model.

    Raises:
        AmpError: naming them.
    """
    if target.overwrite:
        return
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(target.repo, recursive=True, revision=target.revision)
    there = {one.path: one for one in tree if isinstance(one, RepoFile)}
    others = [
        one.path
        for one in uploads
        if one.path in there and one.path not in REPLACED_FREELY and not _is_same(one, there[one.path])
    ]
    if others:
        raise AmpError(
            f"'{target.repo}' holds {len(others)} of these files with another content, first '{others[0]}'",
            hint="Choose another name or --revision BRANCH, or replace them with --overwrite",
        )


def _is_same(upload: Upload, there: Any) -> bool:
    if there.size != upload.bytes:
        return False
    if there.lfs is not None:
        digest = hashlib.sha256()
        for block in _blocks(upload):
            digest.update(block)
        return bool(digest.hexdigest() == there.lfs.sha256)
    blob = hashlib.sha1(b"blob %d\0" % upload.bytes, usedforsecurity=False)
    for block in _blocks(upload):
        blob.update(block)
    return bool(blob.hexdigest() == there.blob_id)


def _blocks(upload: Upload) -> Any:
    if isinstance(upload.content, bytes):
        yield upload.content
        return
    with Path(upload.content).open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def explained_push(action: Callable[[], Result], target: PushedRepository) -> Result:
    """Run requests that write to the hub; their failures become sentences with what to do.

    Raises:
        AmpError: for whatever the user can mend.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    bound_silence()
    try:
        return action()
    except json.JSONDecodeError as error:
        raise AmpError(f"Nothing was pushed: {NOT_THE_HUB}", hint=IN_BETWEEN) from error
    except HFValidationError as error:
        raise AmpError(f"'{target.repo}' is not a name for a repository", hint="Give OWNER/NAME") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.TransportError, RuntimeError, ValueError, OSError) as error:
        found = _chain_of(error, HfHubHTTPError)
        if found is not None and found.response is not None:
            raise _refused(found, target) from error
        if _chain_of(error, (httpx2.TransportError, OfflineModeIsEnabled, OSError)) is None:
            raise
        raise AmpError(
            f"The hub could not be reached, or the connection to it broke: {str(error).splitlines()[0]:.200}",
            hint="What has arrived there is kept: the same command goes on",
        ) from error


def _chain_of(error: BaseException | None, kinds: Any) -> Any:
    while error is not None:
        if isinstance(error, kinds):
            return error
        error = error.__cause__ or error.__context__
    return None


def _refused(error: Any, target: PushedRepository) -> AmpError:
    status = error.response.status_code
    owner = target.repo.partition("/")[0]
    if status == 401:
        return AmpError(f"The hub does not know the token in {TOKEN}", hint=WRITE_TOKEN)
    if status == 403:
        return AmpError(
            f"The token in {TOKEN} may not write to '{target.repo}'",
            hint=f"Give it write access, and check that '{owner}' is you or your organisation",
        )
    if status == 404:
        return AmpError(
            f"The hub has no '{target.repo}'" + (f" with a branch '{target.revision}'" if target.revision else ""),
            hint="Check the name, and that the token may see it",
        )
    return AmpError(
        f"The hub refused the upload to '{target.repo}' (status {status})",
        hint="What has arrived there is kept: the same command goes on",
    )
