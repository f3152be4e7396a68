"""A store elsewhere: a folder of fsspec (file, memory, s3, gs, ...) or a repository of the Hub.

    blobs/<2 digits>/<digest>    files of artifacts by their digest, each once
    artifacts/<artifact id>      seals: which files an artifact has
    logs/<name>/<file>           metrics, samples, facts
    records/<key>                action records, the last thing that is written

A record that can be seen has all that it names. Names say the content, so that pushes of several
people do not disturb one another.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from r1pipe.errors import ArtifactError, R1PipeError, StoreError
from r1pipe.sharing.hub import hub_errors
from r1pipe.store import disk
from r1pipe.text import excerpt, without_passwords

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hf://"
BUCKETS = frozenset({"s3", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "obs", "tos"})
"""Kinds of file systems whose folders are only names. To make a folder could make a bucket."""
FILES_PER_COMMIT = 50
MAX_SAID_CHARS = 300
Content = Path | bytes


class Remote:
    """The files of a store elsewhere, by name."""

    def __init__(self, url: str) -> None:
        self.url = without_passwords(url)
        with self._reached():
            import fsspec

            self._files, self._root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url))

    def names(self, folder: str) -> dict[str, int]:
        """Return the files below a folder with their sizes, by their last names."""
        with self._reached():
            try:
                found: Mapping[str, Any] = self._files.find(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                self._check_bucket()
                return {}
            return {path.rpartition("/")[2]: int(info["size"]) for path, info in found.items()}

    def _check_bucket(self) -> None:
        """Raise ArtifactError for a bucket that is not there: none is ever made."""
        bucket = self._root.partition("/")[0]
        if not BUCKETS.isdisjoint(_protocols(self._files)) and not self._files.exists(bucket):
            raise ArtifactError(f"{self.url}: there is no bucket '{bucket}'; make it first")

    def open(self, name: str) -> tuple[IO[bytes], int] | None:
        """Open a file; return it with its size, or None where there is none."""
        path = f"{self._root}/{name}"
        with self._reached():
            try:
                size = int(self._files.info(path)["size"])
                return cast("IO[bytes]", _Reached(self, self._files.open(path, "rb"))), size
            except FileNotFoundError:
                return None

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return a file that has at most so many bytes; None where there is none."""
        found = self.open(name)
        if found is None:
            return None
        stream, size = found
        with stream:
            if size > max_bytes:
                raise StoreError(f"{self.url}/{name}: {size:,} bytes, more than {max_bytes:,}")
            return stream.read(size)

    def put(self, files: Mapping[str, Content]) -> None:
        """Write files in their order; each is there whole or not at all."""
        for name, content in files.items():
            self._put(f"{self._root}/{name}", content)

    def _put(self, path: str, content: Content) -> None:
        """Write beside the place and rename, but where a write is whole already."""
        protocols = _protocols(self._files)
        is_local = "file" in protocols
        draft = f"{path}.{disk.token()}.part" if is_local else path
        with self._reached():
            if BUCKETS.isdisjoint(protocols):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(content, bytes):
                self._files.pipe_file(draft, content)
            else:
                self._files.put_file(str(content), draft)
            if is_local:
                self._files.mv(draft, path)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say that a place cannot be reached: each kind of it raises errors of its own."""
        try:
            yield
        except R1PipeError:
            raise
        except ImportError as error:
            raise ArtifactError(f"{self.url}: {error}; install that package first") from error
        except PermissionError as error:
            raise StoreError(
                f"{self.url}: is not permitted: {_said(error)}; check the rights there, or the keys"
                " that are used"
            ) from error
        except ValueError as error:
            raise ArtifactError(f"{self.url}: no address of a store: {_said(error)}") from error
        except Exception as error:
            raise StoreError(
                f"{self.url}: cannot be read or written: {_said(error)}; the same command goes on"
            ) from error


class HubRemote(Remote):
    """A repository of the Hub; many files go over in one commit."""

    def __init__(self, url: str, api: HfApi | None = None, files: object = None) -> None:
        from huggingface_hub import HfApi, HfFileSystem

        kind, _, name = url.removeprefix(HUB).strip("/").partition("/")
        self._type = kind.removesuffix("s") if kind in ("datasets", "models") else "model"
        self._repo = name if kind in ("datasets", "models") else f"{kind}/{name}"
        self.url = url
        self._api = api or HfApi()
        self._files: Any = files or HfFileSystem()
        self._root = f"datasets/{self._repo}" if self._type == "dataset" else self._repo

    def put(self, files: Mapping[str, Content]) -> None:
        """Write files in commits of many, in their order; the repository is made private."""
        from huggingface_hub import CommitOperationAdd

        items = list(files.items())
        with hub_errors(self._repo):
            if items:
                self._api.create_repo(self._repo, repo_type=self._type, private=True, exist_ok=True)
            for start in range(0, len(items), FILES_PER_COMMIT):
                adds = [
                    CommitOperationAdd(
                        name, content if isinstance(content, bytes) else str(content)
                    )
                    for name, content in items[start : start + FILES_PER_COMMIT]
                ]
                self._api.create_commit(
                    self._repo, adds, repo_type=self._type, commit_message="r1pipe store push"
                )
        self._files.invalidate_cache()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say what the Hub refuses, such as a token."""
        with super()._reached(), hub_errors(self._repo):
            yield


class _Reached:
    """A stream of a store elsewhere whose failures are said like all others."""

    def __init__(self, remote: Remote, stream: IO[bytes]) -> None:
        self._remote, self._stream = remote, stream

    def read(self, size: int = -1) -> bytes:
        with self._remote._reached():
            return self._stream.read(size)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Reached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_remote(url: str) -> Remote:
    """Return the store at an address: hf://datasets/OWNER/NAME, or any that fsspec knows."""
    if "://" not in url:
        raise ArtifactError(
            f"{url}: give an address, such as file:///mnt/store, s3://bucket/store or"
            " hf://datasets/OWNER/NAME"
        )
    return HubRemote(url) if url.startswith(HUB) else Remote(url)


def as_stream(data: bytes) -> tuple[IO[bytes], int]:
    """Return bytes as an open file with its size."""
    return io.BytesIO(data), len(data)


def _protocols(files: Any) -> tuple[str, ...]:
    found = files.protocol
    return (found,) if isinstance(found, str) else tuple(found)


def _said(error: Exception) -> str:
    return excerpt(without_passwords(str(error) or type(error).__name__), MAX_SAID_CHARS)
