"""Source ids: the digest of the bytes, remembered while nothing shows a change."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from r1pipe.errors import SourceError
from r1pipe.keys import FileEntry, artifact_id, digest_bytes, digest_file
from r1pipe.manifest import Origin, SourceNode, sources
from r1pipe.manifest.sources import source_id, source_path


def local(path: Path) -> SourceNode:
    return SourceNode("prompts", path, None, None, "dataset", Origin("m.yaml", 6, 3))


def hub(revision: str) -> SourceNode:
    return SourceNode("base", None, "a/b", revision, "model", Origin("m.yaml", 6, 3))


def age(path: Path, seconds: float = 60) -> None:
    """Make a file look as if it had last changed some time ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> Path:
    """Return the cache's folder; one that does not exist is not made."""
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of files whose bytes are read."""
    seen: list[Path] = []
    plain = digest_file

    def digest(path: Path) -> str:
        seen.append(path)
        return plain(path)

    monkeypatch.setattr(sources, "digest_file", digest)
    monkeypatch.setattr(sources, "RACY_NS", 0)
    return seen


def test_a_files_id_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"abc")
    assert source_id(local(path), tmp_path / "cache") == digest_bytes(b"abc")


def test_a_folders_id_is_that_of_the_same_files_in_an_artifact(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x").write_bytes(b"1")
    (root / "y").write_bytes(b"22")
    files = [FileEntry("y", 2, digest_bytes(b"22")), FileEntry("a/x", 1, digest_bytes(b"1"))]
    assert source_id(local(root), tmp_path / "cache") == artifact_id(files)


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"abc")
    ids = {source_id(local(path), tmp_path / "cache") for _ in range(3)}
    assert (ids, reads) == ({digest_bytes(b"abc")}, [path])


def test_a_change_of_the_same_size_with_the_time_put_back_is_seen(
    tmp_path: Path, reads: list[Path]
) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"abc")
    age(path)
    source_id(local(path), tmp_path / "cache")
    before = path.stat()
    path.write_bytes(b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source_id(local(path), tmp_path / "cache") == digest_bytes(b"abd")
    assert reads == [path, path]


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"abc")
    source_id(local(path), tmp_path / "cache")
    assert not (tmp_path / "cache" / sources.CACHE_NAME).exists()


def test_reading_a_source_makes_no_folder(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"abc")
    assert source_id(local(path), tmp_path / "no" / "store") == digest_bytes(b"abc")
    assert not (tmp_path / "no").exists()


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"abc")

    def digest(found: Path) -> str:
        found.write_bytes(b"longer")
        return "0" * 64

    monkeypatch.setattr(sources, "digest_file", digest)
    with pytest.raises(SourceError, match="p cannot be read: it changed while it was read"):
        source_id(local(path), tmp_path / "cache")


def test_a_torn_or_foreign_cache_is_left_aside(tmp_path: Path, reads: list[Path]) -> None:
    path, cache = tmp_path / "p", tmp_path / "cache" / sources.CACHE_NAME
    path.write_bytes(b"abc")
    source_id(local(path), cache.parent)
    for text in ('{"format": 1, "entr', '{"format": 9, "entries": {}}', "[]", '{"entries": 3}'):
        cache.write_text(text)
        assert source_id(local(path), cache.parent) == digest_bytes(b"abc")
    assert len(reads) == 5


def test_a_missing_file_names_the_place_and_what_to_do(tmp_path: Path) -> None:
    match = r"^m\.yaml:6:3: source 'prompts': .*gone does not exist; put the file there or give"
    with pytest.raises(SourceError, match=match) as error:
        source_id(local(tmp_path / "gone"), tmp_path)
    assert error.value.exit_code == 7


def test_what_is_not_a_plain_file_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    os.mkfifo(root / "pipe")
    with pytest.raises(SourceError, match=r"data/pipe cannot be read: it is not a plain file"):
        source_id(local(root), tmp_path)


def test_a_linked_folder_inside_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loop").symlink_to(tmp_path)
    with pytest.raises(SourceError, match=r"data/loop cannot be read: it is a link to a folder"):
        source_id(local(tmp_path / "data"), tmp_path)


def test_a_hub_commit_needs_no_network_and_decides_the_id(tmp_path: Path) -> None:
    one, two = source_id(hub("1" * 40), tmp_path), source_id(hub("2" * 40), tmp_path)
    assert one == source_id(hub("1" * 40), tmp_path / "elsewhere")
    assert one != two


def test_a_branch_is_resolved_once_and_then_stays(tmp_path: Path) -> None:
    entries = {"hf:model:a/b@main": "1" * 40}
    cache = {"format": sources.CACHE_FORMAT, "entries": entries}
    (tmp_path / sources.CACHE_NAME).write_text(json.dumps(cache))
    assert source_id(hub("main"), tmp_path) == source_id(hub("1" * 40), tmp_path)


def test_a_hub_that_cannot_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"m\.yaml:6:3: source 'base': a/b at main cannot be"):
        source_id(hub("main"), tmp_path)


def test_a_local_source_lies_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("x")
    assert source_path(local(path), tmp_path) == path
