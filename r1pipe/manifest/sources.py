"""Sources outside the store: their ids, found once and remembered, and their paths.

An id is remembered with the file's size, times and inode. A file that changed within
`RACY_NS` of being read is not remembered: another change in the same tick of the file system's
clock would not show.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from r1pipe.errors import SourceError
from r1pipe.keys import FileEntry, JsonObject, artifact_id, digest_file, digest_json
from r1pipe.manifest import SourceNode

CACHE_NAME = "source_ids.json"
CACHE_FORMAT = 1
RACY_NS = 2_000_000_000
COMMIT = re.compile(r"[0-9a-f]{40}")

Signature = list[int]


def source_id(node: SourceNode, cache_dir: Path) -> str:
    """Return the digest of a source's bytes: of a file, of a folder's files, or a hub commit."""
    if node.hf is not None:
        commit = _hub_commit(node, cache_dir)
        return digest_json({"hf": node.hf, "commit": commit, "type": _repo_type(node)})
    path = source_path(node, cache_dir)
    cache = _Cache(cache_dir)
    try:
        identifier = _tree_id(path, cache) if path.is_dir() else cache.digest(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(
            f"{node.origin}: source '{node.name}': {error.filename} cannot be read: {reason}"
        ) from error
    cache.save()
    return identifier


def source_path(node: SourceNode, cache_dir: Path) -> Path:
    """Return the path of a source on this machine; a hub repository is fetched first."""
    if node.hf is not None:
        return _fetch_snapshot(node, _hub_commit(node, cache_dir))
    assert node.path is not None, f"source {node.name} has neither path nor hf"
    if not node.path.exists():
        raise SourceError(
            f"{node.origin}: source '{node.name}': {node.path} does not exist; put the file there"
            f" or give another with --set sources.{node.name}.path=PATH"
        )
    return node.path


def _tree_id(root: Path, cache: _Cache) -> str:
    entries = [
        FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, cache.digest(path))
        for path in _files_below(root)
    ]
    return artifact_id(entries)


def _files_below(root: Path) -> Iterator[Path]:
    """Yield all files below a folder; a link to a file counts as the file."""
    for folder, folders, names in os.walk(root, onerror=_raise):
        for name in folders:
            path = Path(folder, name)
            if path.is_symlink():
                raise OSError(None, "it is a link to a folder; give the folder itself", str(path))
        yield from (Path(folder, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


class _Cache:
    """Digests of files by absolute path, valid while the file's signature stays the same."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_NAME
        self.entries = _read_cache(self.path)
        self.is_changed = False

    def digest(self, path: Path) -> str:
        key = str(path.resolve())
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise OSError(None, "it is not a plain file", str(path))
        entry = self.entries.get(key)
        if isinstance(entry, list) and entry[:-1] == _signature(before):
            return str(entry[-1])
        digest = digest_file(path)
        after = path.stat()
        if _signature(before) != _signature(after):
            raise OSError(None, "it changed while it was read; try again", str(path))
        changed_ns = max(after.st_mtime_ns, after.st_ctime_ns)
        if time.time_ns() - changed_ns > RACY_NS:
            self.entries[key] = [*_signature(after), digest]
            self.is_changed = True
        elif self.entries.pop(key, None) is not None:
            self.is_changed = True
        return digest

    def save(self) -> None:
        """Write the cache if there is a store; without it only time is lost."""
        if self.is_changed and self.path.parent.is_dir():
            _write_cache(self.path, self.entries)


def _signature(found: os.stat_result) -> Signature:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read_cache(path: Path) -> JsonObject:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    is_known = isinstance(document, dict) and document.get("format") == CACHE_FORMAT
    entries = document.get("entries") if is_known else None
    return entries if isinstance(entries, dict) else {}


def _write_cache(path: Path, entries: JsonObject) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"format": CACHE_FORMAT, "entries": entries}))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _repo_type(node: SourceNode) -> str:
    return "model" if node.type == "model" else "dataset"


def _hub_commit(node: SourceNode, cache_dir: Path) -> str:
    """Return the commit of a hub revision; a branch's is looked up once and remembered."""
    revision = str(node.revision)
    if COMMIT.fullmatch(revision):
        return revision
    cache = _Cache(cache_dir)
    key = f"hf:{_repo_type(node)}:{node.hf}@{revision}"
    if isinstance(commit := cache.entries.get(key), str):
        return commit
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().repo_info(str(node.hf), revision=revision, repo_type=_repo_type(node))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise _hub_error(node, error) from error
    cache.entries[key] = str(info.sha)
    cache.is_changed = True
    cache.save()
    return str(info.sha)


def _fetch_snapshot(node: SourceNode, commit: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(node.hf), revision=commit, repo_type=_repo_type(node)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _hub_error(node, error) from error


def _hub_error(node: SourceNode, error: Exception) -> SourceError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return SourceError(
        f"{node.origin}: source '{node.name}': {node.hf} at {node.revision} cannot be fetched from"
        f" the hub ({reason}); check the name and the connection, or give a local folder with"
        " 'path'"
    )
