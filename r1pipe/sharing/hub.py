"""Push a parcel to a repository of the Hugging Face Hub, private unless it is said otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from r1pipe.errors import ArtifactError, R1PipeError, StoreError
from r1pipe.sharing.parcel import Parcel
from r1pipe.text import excerpt, without_passwords

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

MAX_SAID_CHARS = 300
OFFLINE = "the Hub cannot be reached because HF_HUB_OFFLINE is set; unset it, or write a folder"
NO_TOKEN = "no token of the Hub: run 'hf auth login', or set HF_TOKEN"


def push(
    parcel: Parcel, repo: str, message: str, *, public: bool = False, api: HfApi | None = None
) -> str:
    """Push in one commit, so that a reader sees all of it or nothing; return its address.

    A repository that is there keeps what else it has. Raises StoreError without token or network,
    ArtifactError for a public repository that was not said to be.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = api or HfApi()
    repo_type = "model" if parcel.type == "model" else "dataset"
    with hub_errors(repo), TemporaryDirectory(prefix="r1pipe-push-") as folder:
        if not api.token and not _stored_token():
            raise StoreError(f"{repo}: {NO_TOKEN}; --to FOLDER writes it without the Hub")
        api.create_repo(repo, repo_type=repo_type, private=not public, exist_ok=True)
        if not public and api.repo_info(repo, repo_type=repo_type).private is not True:
            raise ArtifactError(f"{repo} is public; say --public to push there, or name another")
        adds = [CommitOperationAdd(name, text) for name, text in parcel.texts.items()]
        adds += [_addition(parcel, name, Path(folder), repo, api) for name in parcel.files]
        done = api.create_commit(repo, adds, repo_type=repo_type, commit_message=message)
    return str(done.commit_url)


def _addition(parcel: Parcel, name: str, folder: Path, repo: str, api: HfApi) -> CommitOperationAdd:
    """Return a file for the commit; a stamped copy goes over at once, and then takes no disk."""
    from huggingface_hub import CommitOperationAdd

    if not parcel.is_stamped(name):
        return CommitOperationAdd(name, str(parcel.files[name]))
    copy = folder / name
    parcel.copy(name, copy)
    addition = CommitOperationAdd(name, str(copy))
    api.preupload_lfs_files(repo, [addition], repo_type="model")
    if addition.path_or_fileobj == b"":  # the Hub has it; a file that it wants in the commit stays
        copy.unlink()
    return addition


def _stored_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Say in one line what the Hub or the network refuses."""
    try:
        yield
    except R1PipeError:
        raise
    except Exception as error:
        # what fails while a large file goes over comes in a RuntimeError
        inner = error.__cause__ if isinstance(error, RuntimeError) else None
        refusal = _refusal(repo, inner or error) or _refusal(repo, error)
        if refusal is None:
            raise
        raise refusal from error


def _refusal(repo: str, error: BaseException) -> R1PipeError | None:
    """Return what to tell of an error that the client of the Hub raises; None for any other."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return StoreError(f"{repo}: {OFFLINE}")
    if isinstance(error, LocalTokenNotFoundError):
        return StoreError(f"{repo}: {NO_TOKEN}")
    if isinstance(error, HFValidationError):
        said = f"no name of a repository ({_said(error)}); give OWNER/NAME"
        return ArtifactError(f"{repo}: {said}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        advice = f"; {NO_TOKEN}" if status in (401, 403) else ""
        return StoreError(f"{repo}: the Hub refuses ({status}): {_said(error)}{advice}")
    if isinstance(error, HTTPError | ConnectionError | TimeoutError | RuntimeError):
        return StoreError(
            f"{repo}: the Hub cannot be reached ({_said(error)}); the same command tries again"
        )
    return None


def _said(error: BaseException) -> str:
    return excerpt(without_passwords(str(error)), MAX_SAID_CHARS)
