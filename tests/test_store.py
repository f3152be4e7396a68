"""Formats, names and seals of the store."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import QuietConsole, chain

from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.keys import FileEntry, artifact_id
from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run
from r1pipe.store import disk, roots, signatures
from r1pipe.store.actions import ActionRecord
from r1pipe.store.sealing import collect, make_seal, read_seal, seal_tree
from r1pipe.store.store import Store


def build(root: Path, made: Manifest, **options: Any) -> list[str]:
    return run(made, Store(root), QuietConsole(), **options).built


def test_a_newer_store_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "r1pipe-store.json").write_text('{"format": 9, "r1pipe": "7.0"}')
    before = disk.walk(tmp_path)
    with pytest.raises(StoreError, match=r"store format 9 \(written by r1pipe 7.0\).*upgrade"):
        Store(tmp_path)
    assert disk.walk(tmp_path) == before


def test_a_directory_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"not a store of r1pipe .*'thesis.tex'"):
        Store(tmp_path)


def test_a_folder_with_a_readme_may_become_a_store(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[1] / "artifacts" / "README.md"  # the default store
    (tmp_path / shipped.name).write_bytes(shipped.read_bytes())
    Store(tmp_path).prepare()
    assert (tmp_path / "r1pipe-store.json").exists()


def test_a_store_is_made_when_it_is_first_written_to(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert store.records() == []
    assert not (tmp_path / "new").exists()
    store.prepare()
    assert json.loads((tmp_path / "new" / "r1pipe-store.json").read_text())["format"] == 1


def test_a_store_that_another_run_makes_at_this_moment_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, plain = tmp_path / "above" / "store", disk.place_errors

    def late(path: Path) -> AbstractContextManager[None]:
        Store(root).root.mkdir(parents=True)  # the other run is first
        return plain(path)

    monkeypatch.setattr(disk, "place_errors", late)
    assert build(root, chain())
    assert Store(root).records()


def test_a_newer_record_and_a_newer_seal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"record format 3.*upgrade"):
        ActionRecord.from_json({"format": 3}, "here")
    (tmp_path / "seal.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match=r"sealed in format 2.*upgrade"):
        read_seal(tmp_path)


def test_names_resolve_like_those_of_git(tmp_path: Path) -> None:
    build(tmp_path / "store", chain(6))
    build(tmp_path / "store", chain(8))
    store = Store(tmp_path / "store")
    second = [record for record in store.records() if record.stage_name == "second"]
    old, new = sorted(second, key=lambda record: record.created)
    assert store.resolve("second") == new
    assert store.resolve(f"second@{old.artifact_id[:8]}") == old
    assert store.resolve(old.artifact_id[:10]) == old
    assert store.resolve(old.key) == old
    assert store.resolve(old.outputs["data"][:12]) == old
    roots.add_tag(store.root, "best", old.key)
    assert store.resolve("best") == old


def test_a_stage_is_the_artifact_that_its_last_run_used(tmp_path: Path) -> None:
    for number in (6, 8, 6):
        build(tmp_path / "store", chain(number))
    store = Store(tmp_path / "store")
    assert store.resolve("first").preimage["params"] == {"number": 6}


def test_an_ambiguous_prefix_lists_the_candidates(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    build(store.root, chain(6))
    build(store.root, chain(8))
    with pytest.raises(ArtifactError, match="'second@' is ambiguous; it may be") as caught:
        store.resolve("second@")
    made = [record for record in store.records() if record.stage_name == "second"]
    for record in made:
        assert f"  second@{record.artifact_id[:12]} (key {record.key[:12]}" in str(caught.value)
    assert str(caught.value).count("\n") == 2


def test_an_unknown_name_gives_the_nearest_one(tmp_path: Path) -> None:
    build(tmp_path / "store", chain())
    with pytest.raises(ArtifactError, match="no artifact 'frist'; did you mean 'first'"):
        Store(tmp_path / "store").resolve("frist")


def test_the_index_of_records_follows_the_records(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    build(store.root, chain(6))
    assert len(store.records()) == 3
    assert (store.root / "records.index").exists()
    build(store.root, chain(8))
    store = Store(store.root)
    assert len(store.records()) == 6
    gone = store.resolve("first")
    store.record_path(gone.key).unlink()
    store = Store(store.root)
    assert gone not in store.records()
    edited = store.record_path(store.resolve("second").key)
    edited.write_text(edited.read_text().replace("halve", "double"))
    assert len(Store(store.root).records()) == 4


def sealed(tmp_path: Path, files: dict[str, bytes]) -> tuple[Path, Path]:
    """Seal files below an output `data`; return the directory and its signatures."""
    source, target = tmp_path / "source", tmp_path / "sealed"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    collect({"data": source}, target)
    seal = seal_tree(target)
    root = tmp_path / seal.artifact
    target.rename(root)
    signatures.write_signatures(tmp_path / "stats", disk.walk(root)[0])
    return root, tmp_path / "stats"


def test_a_seal_is_the_id_of_its_files_and_of_each_output() -> None:
    files = [FileEntry("b/x", 1, "11"), FileEntry("a/d/y", 2, "22"), FileEntry("a/z", 3, "33")]
    seal = make_seal(files)
    assert seal.artifact == artifact_id(files)
    assert seal.outputs == {
        "a": artifact_id([FileEntry("d/y", 2, "22"), FileEntry("z", 3, "33")]),
        "b": artifact_id([FileEntry("x", 1, "11")]),
    }


def test_a_sealed_tree_is_read_only(tmp_path: Path) -> None:
    root, _ = sealed(tmp_path, {"a/b": b"1", "c": b"2"})
    modes = {path.name: path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert modes == {"data": 0o555, "a": 0o555, "b": 0o444, "c": 0o444, "seal.json": 0o444}


@given(
    name=st.sampled_from(["a", "d/b"]),
    data=st.binary(min_size=1, max_size=50),
    change=st.sampled_from(["flip", "grow", "shrink", "delete", "add"]),
)
@settings(max_examples=25, deadline=None)
def test_every_change_to_a_sealed_tree_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes, change: str
) -> None:
    root, stats = sealed(tmp_path_factory.mktemp("sealed"), {"a": data, "d/b": data})
    assert signatures.is_unchanged(root, stats)
    path = root / "data" / name
    path.parent.chmod(0o755)
    if change == "delete":
        path.unlink()
    elif change == "add":
        path.with_name("new").write_bytes(b"")
    else:
        path.chmod(0o644)
        changed = {"flip": bytes([data[0] ^ 1]) + data[1:], "grow": data + b"x"}
        path.write_bytes(changed.get(change, data[:-1]))
    assert not signatures.is_unchanged(root, stats)
    with pytest.raises(DamagedError, match=r"expected .*, found"):
        signatures.verify(root, root.name, stats)
    assert not signatures.is_unchanged(root, stats)


def test_a_touched_file_is_read_once_and_believed_again(tmp_path: Path) -> None:
    root, stats = sealed(tmp_path, {"a": b"1"})
    os.utime(root / "data" / "a", ns=(5, 5))
    assert not signatures.is_unchanged(root, stats)
    signatures.verify(root, root.name, stats)
    assert signatures.is_unchanged(root, stats)


def test_a_change_with_the_old_size_and_time_is_still_seen(tmp_path: Path) -> None:
    root, stats = sealed(tmp_path, {"a": b"1"})
    path = root / "data" / "a"
    times = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"2")
    path.chmod(0o444)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert not signatures.is_unchanged(root, stats)


def test_a_write_right_after_sealing_shows_in_the_signature(tmp_path: Path) -> None:
    for turn in range(20):
        folder = tmp_path / str(turn)
        folder.mkdir()
        root, stats = sealed(folder, {"a": b"1"})
        with (root / "data" / "a").open("r+b") as file:
            file.write(b"2")
        assert not signatures.is_unchanged(root, stats)


def test_an_edited_seal_is_damage(tmp_path: Path) -> None:
    root, stats = sealed(tmp_path, {"a": b"1"})
    path = root / "seal.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"data/a", 1', '"data/a", 2'))
    with pytest.raises(DamagedError, match=r"seal\.json: expected the digest .* was edited"):
        signatures.verify(root, root.name, stats)


def test_a_file_that_is_open_for_writing_is_published_as_a_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "closed").write_text("1")
    inode = (source / "closed").stat().st_ino
    with (source / "open").open("w") as file:
        file.write("1")
        file.flush()
        collect({"data": source}, tmp_path / "sealed")
        file.write("23")
    assert (tmp_path / "sealed/data/open").read_text() == "1"
    assert (tmp_path / "sealed/data/closed").stat().st_ino == inode
