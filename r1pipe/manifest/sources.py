"""Sources outside the store: their ids, found once and remembered, and their paths.

A source with a config or split is the files of that part alone: they are fetched, digested, and
shown to stages as a folder of links to them.

An id is remembered with the file's size, times and inode. A file that changed within
`RACY_NS` of being read is not remembered: another change in the same tick of the file system's
clock would not show.
"""

from __future__ import annotations

import glob
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from r1pipe.errors import SourceError
from r1pipe.keys import FileEntry, JsonObject, artifact_id, digest_file, digest_json
from r1pipe.manifest import SourceNode
from r1pipe.regular import parse_json, read_regular

CACHE_NAME = "source_ids.json"
CACHE_FORMAT = 1
MAX_CACHE_BYTES = 64 << 20
RACY_NS = 2_000_000_000
VIEWS = "views"
COMMIT = re.compile(r"[0-9a-f]{40}")

Signature = list[int]


def source_id(node: SourceNode, cache_dir: Path) -> str:
    """Return the digest of a source's bytes: of a file, of a folder's files, or a hub commit."""
    if node.hf is not None:
        commit = _hub_commit(node, cache_dir)
        return digest_json({"hf": node.hf, "commit": commit, "type": _repo_type(node), **node.part})
    path = _local_path(node)
    cache = _Cache(cache_dir)
    try:
        if not path.is_dir():
            _check_part_of_file(node, path)
            identifier = cache.digest(path)
        else:
            files = _part_here(node, path) if node.part else _files_below(path)
            identifier = _tree_id(path, files, cache)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(
            f"{node.origin}: source '{node.name}': {error.filename} cannot be read: {reason}"
        ) from error
    cache.save()
    return identifier


def source_path(node: SourceNode, cache_dir: Path, views: Path | None = None) -> Path:
    """Return the path of a source on this machine; a hub repository is fetched first.

    A config or split is a folder of links to its files, in `views` (of the cache).
    """
    from r1pipe.files.layout import DESCRIBING, file_names

    if node.hf is None:
        root = _local_path(node)
        names = file_names(root) if node.part and root.is_dir() else []
    else:
        commit = _hub_commit(node, cache_dir)
        root = _fetch_snapshot(node, commit, DESCRIBING if node.part else None)
        names = _hub_files(node, commit, root)[0] if node.part else []
    if not names:
        return root
    files = _part_of(node, root, names)
    if node.hf is not None:
        wanted = [glob.escape(path.relative_to(root).as_posix()) for path in files]
        _fetch_snapshot(node, commit, wanted)
    return _view(root, files, views or cache_dir / VIEWS)


def path_here(node: SourceNode, views: Path) -> Path | None:
    """Return the path of a source if it can be read without a network, else None.

    A branch or tag of the hub is not followed: only a commit is known to be the one.
    """
    from r1pipe.files.layout import file_names

    if node.hf is None:
        root = node.path
    else:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE) / f"{_repo_type(node)}s--{node.hf.replace('/', '--')}"
        root = folder / "snapshots" / str(node.revision)
    if root is None or not root.exists():
        return None
    if not node.part or root.is_file():
        _check_part_of_file(node, root)
        return root
    names, is_complete = file_names(root), True
    if node.hf is not None:
        names, is_complete = _hub_files(node, str(node.revision), root)
    try:
        files = _part_of(node, root, names)
    except SourceError:
        if is_complete:
            raise
        return None  # that part may not have been fetched yet
    return _view(root, files, views) if all(path.exists() for path in files) else None


def _local_path(node: SourceNode) -> Path:
    assert node.path is not None, f"source {node.name} has neither path nor hf"
    try:
        is_there = node.path.exists()
    except OSError as error:
        raise SourceError(
            f"{node.origin}: source '{node.name}': {node.path} cannot be read: {error.strerror}"
        ) from error
    if not is_there:
        raise SourceError(
            f"{node.origin}: source '{node.name}': {node.path} does not exist; put the file there"
            f" or give another with --set sources.{node.name}.path=PATH"
        )
    return node.path


@contextmanager
def _named(node: SourceNode) -> Iterator[None]:
    """Put a source's place and name before what is wrong with its files."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{node.origin}: source '{node.name}': {error}") from error


def _part_of(node: SourceNode, root: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of a source's config and split, in order."""
    from r1pipe.files.layout import chosen_names

    with _named(node):
        return [root / name for name in chosen_names(root, names, node.config, node.split)]


def _part_here(node: SourceNode, root: Path) -> list[Path]:
    from r1pipe.files.layout import file_names

    return _part_of(node, root, file_names(root))


def _check_part_of_file(node: SourceNode, path: Path) -> None:
    from r1pipe.files.layout import data_files

    if node.part:
        with _named(node):
            data_files(path, node.config, node.split)


def _view(root: Path, files: Sequence[Path], views: Path) -> Path:
    """Return a folder of links to files, named after them; it is made once.

    A card in it says that they are one split in this order, whatever their names say.
    """
    from r1pipe.files.layout import CARD

    links = {path.relative_to(root).as_posix(): str(path.absolute()) for path in files}
    folder = views / digest_json(links)[:16]
    if not folder.is_dir():
        draft = views / f"{folder.name}.{uuid4().hex}"
        for name, target in links.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).symlink_to(target)
        listed = [{"config_name": "default", "data_files": [glob.escape(name) for name in links]}]
        (draft / CARD).write_text(f"---\n{json.dumps({'configs': listed})}\n---\n")
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have made it
                raise
    return folder


def _tree_id(root: Path, files: Iterable[Path], cache: _Cache) -> str:
    entries = [
        FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, cache.digest(path))
        for path in files
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
    """Return what is remembered; nothing of a file that is not, by its digest, what was written.

    Files of earlier versions are without a digest.
    """
    try:
        document = parse_json(read_regular(path, MAX_CACHE_BYTES))
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict) or document.get("format") != CACHE_FORMAT:
        return {}
    entries = document.get("entries")
    if not isinstance(entries, dict):
        return {}
    is_right = "digest" not in document or document == _cache_document(entries)
    return entries if is_right else {}


def _write_cache(path: Path, entries: JsonObject) -> None:
    """Write what is remembered; where nothing can be written only time is lost."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(_cache_document(entries)))
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def _cache_document(entries: JsonObject) -> JsonObject:
    return {"format": CACHE_FORMAT, "entries": entries, "digest": digest_json(entries)}


def _repo_type(node: SourceNode) -> str:
    return "model" if node.type == "model" else "dataset"


def _hub_commit(node: SourceNode, cache_dir: Path) -> str:
    """Return the commit of a hub revision; a branch's is looked up once and remembered."""
    revision = str(node.revision)
    if COMMIT.fullmatch(revision):
        return revision
    cache = _Cache(cache_dir)
    key = f"hf:{_repo_type(node)}:{node.hf}@{revision}"
    commit = cache.entries.get(key)
    if isinstance(commit, str) and COMMIT.fullmatch(commit):
        return commit
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(str(node.hf), revision=revision, repo_type=_repo_type(node))
    except Exception as error:  # whatever its HTTP library raises
        raise _hub_error(node, error) from error
    cache.entries[key] = str(info.sha)
    cache.is_changed = True
    cache.save()
    return str(info.sha)


def _fetch_snapshot(node: SourceNode, commit: str, names: Sequence[str] | None = None) -> Path:
    """Return the folder of a commit in the hub's cache, after fetching it, or these files of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = None if names is None else list(names)
    kind = _repo_type(node)
    try:
        return Path(
            snapshot_download(
                str(node.hf), revision=commit, repo_type=kind, allow_patterns=patterns
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _hub_error(node, error) from error


def _hub_files(node: SourceNode, commit: str, root: Path) -> tuple[list[str], bool]:
    """Return the names of a commit's files, as last seen online, else those on this machine.

    And whether there can be no others: all are known, or none can be fetched.
    """
    from huggingface_hub import get_cached_repo_tree, is_offline_mode
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    from r1pipe.files.layout import file_names

    try:
        tree = get_cached_repo_tree(str(node.hf), revision=commit, repo_type=_repo_type(node))
    except CachedRepoTreeNotFoundError:
        return file_names(root), is_offline_mode()
    return sorted(file.path for file in tree if not file.path.startswith(".")), True


def _hub_error(node: SourceNode, error: Exception) -> SourceError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return SourceError(
        f"{node.origin}: source '{node.name}': {node.hf} at {node.revision} cannot be fetched from"
        f" the hub ({reason}); check the name and the connection, or give a local folder with"
        " 'path'"
    )
