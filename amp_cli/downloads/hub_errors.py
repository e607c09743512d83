"""Turns what the hub's library raises into sentences that say what to do."""

from collections.abc import Callable
from typing import TypeVar

from amp_cli.addresses import shown_address
from amp_cli.errors import AmpError

Result = TypeVar("Result")


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

    try:
        return action()
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
