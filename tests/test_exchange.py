"""Stores elsewhere: what goes over, what is checked on arrival, what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from command import Run
from fake_project import make_project
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import HfApi
from store_world import QuietConsole, assert_whole, build, chain, ids

from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.keys import digest_file
from r1pipe.pipeline.run import run as run_manifest
from r1pipe.sharing.exchange import Exchange, pull, push
from r1pipe.sharing.remote import HubRemote, Remote, open_remote
from r1pipe.store.importing import INCOMING
from r1pipe.store.sealing import read_seal
from r1pipe.store.store import Store


def quiet(text: str) -> None:
    """Tell nobody."""


def pushed(root: Path, remote: Remote) -> Exchange:
    store = Store(root)
    return push(store, remote, store.records(), quiet)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Remote]:
    build(tmp_path / "here", chain())
    return tmp_path, open_remote(f"file://{tmp_path}/there")


def test_a_pull_gives_the_same_artifacts_and_a_run_hits_them(world: tuple[Path, Remote]) -> None:
    root, remote = world
    done = pushed(root / "here", remote)
    assert (done.artifacts, done.there) == (3, 0)
    pull(Store(root / "other"), remote, (), quiet)
    assert ids(root / "other") == ids(root / "here")
    assert_whole(root / "other", chain())
    assert run_manifest(chain(), Store(root / "other"), QuietConsole()).built == []
    here, other = (Store(root / name) for name in ("here", "other"))
    assert other.metrics(other.resolve("first")) == here.metrics(here.resolve("first"))


def test_only_what_is_missing_goes_over(world: tuple[Path, Remote]) -> None:
    root, remote = world
    first = pushed(root / "here", remote)
    files = sorted((root / "there" / "blobs").rglob("*"))
    assert first.files == sum(path.is_file() for path in files)
    again = pushed(root / "here", remote)
    assert (again.artifacts, again.files, again.there) == (0, 0, 3)
    build(root / "here", chain(3))  # half of 3 is half of 1 plus one: another number each
    assert pushed(root / "here", remote).there == 3
    pull(Store(root / "other"), remote, ["first"], quiet)
    assert ids(root / "other").keys() == {"first"}
    assert pull(Store(root / "other"), remote, ["first"], quiet).there == 2


def test_what_came_along_as_a_record_goes_over_when_it_is_pushed(
    world: tuple[Path, Remote],
) -> None:
    root, remote = world
    store = Store(root / "here")
    push(store, remote, [store.resolve("third")], quiet)  # with the records of first and second
    with pytest.raises(ArtifactError, match="no artifact 'second'; there are: first, third"):
        pull(Store(root / "early"), remote, ["second"], quiet)
    done = push(store, remote, store.records(), quiet)
    assert (done.artifacts, done.there) == (1, 2), "first is the same bytes as third"
    pull(Store(root / "other"), remote, (), quiet)
    assert_whole(root / "other", chain())


def test_every_blob_is_named_by_its_digest(world: tuple[Path, Remote]) -> None:
    root, remote = world
    pushed(root / "here", remote)
    for path in (root / "there" / "blobs").rglob("*"):
        assert path.is_dir() or path.name == digest_file(path)


def test_a_changed_byte_elsewhere_is_found_on_arrival(world: tuple[Path, Remote]) -> None:
    root, remote = world
    pushed(root / "here", remote)
    blob = next(path for path in (root / "there" / "blobs").rglob("*") if path.is_file())
    blob.write_bytes(b"9" * blob.stat().st_size)
    with pytest.raises(DamagedError, match="expected digest"):
        pull(Store(root / "other"), remote, (), quiet)
    assert not list((root / "other" / INCOMING).iterdir())
    blob.unlink()
    with pytest.raises(DamagedError, match="found no such file"):
        pull(Store(root / "third"), remote, (), quiet)


def test_an_edited_record_elsewhere_is_refused(world: tuple[Path, Remote]) -> None:
    root, remote = world
    pushed(root / "here", remote)
    path = next((root / "there" / "records").iterdir())
    path.write_text(path.read_text().replace('"kind"', '"kid"', 1))
    with pytest.raises(DamagedError, match="the record was edited"):
        pull(Store(root / "other"), remote, (), quiet)


def test_a_torn_upload_goes_again(world: tuple[Path, Remote]) -> None:
    root, remote = world
    pushed(root / "here", remote)
    blob = next(path for path in (root / "there" / "blobs").rglob("*") if path.is_file())
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1])
    for path in (root / "there" / "records").iterdir():
        path.unlink()
    assert pushed(root / "here", remote).files == 1
    assert blob.read_bytes() == whole


def test_a_pull_that_broke_off_goes_on_without_the_files_that_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from handed_world import handed

    _, store = handed(tmp_path)
    remote = open_remote("memory://torn")
    push(store, remote, [store.resolve("zero")], quiet)
    other, opened = Store(tmp_path / "other"), Remote.open
    left = [3]

    def breaks(self: Remote, name: str) -> Any:
        left[0] -= name.startswith("blobs/")
        if left[0] < 0:
            raise StoreError("the network is gone")
        return opened(self, name)

    monkeypatch.setattr(Remote, "open", breaks)
    with pytest.raises(StoreError, match="the network is gone"):
        pull(other, remote, ["zero"], quiet)
    assert other.records() == []
    monkeypatch.setattr(Remote, "open", opened)
    record = store.resolve("zero")
    count = len(read_seal(store.artifact_dir(record.artifact_id)).files)
    done = pull(other, remote, ["zero"], quiet)
    assert done.files == count - 3
    other.forget(record.key)
    assert other.is_intact(record)
    assert not list((tmp_path / "other" / INCOMING).iterdir())


def test_another_result_of_a_key_is_never_overwritten(world: tuple[Path, Remote]) -> None:
    from dataclasses import replace

    root, remote = world
    pushed(root / "here", remote)
    store = Store(root / "here")
    other = replace(store.resolve("first"), artifact_id="0" * 64)
    with pytest.raises(ArtifactError, match="has another result of the key of first"):
        push(store, remote, [other], quiet)


def test_what_is_not_there_is_said_in_a_line(world: tuple[Path, Remote]) -> None:
    root, remote = world
    with pytest.raises(ArtifactError, match="holds no artifacts"):
        pull(Store(root / "other"), remote, (), quiet)
    pushed(root / "here", remote)
    with pytest.raises(ArtifactError, match="no artifact 'fist'; there are: first, second, third"):
        pull(Store(root / "other"), remote, ["fist"], quiet)
    with pytest.raises(ArtifactError, match="give an address, such as file:///mnt/store"):
        open_remote("mnt/store")
    with pytest.raises(ArtifactError, match="nosuch://x: no address of a store"):
        open_remote("nosuch://x")


class FakeHub:
    """Stands for HfApi: writes commits into a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commits: list[list[str]] = []
        self.private: list[bool] = []

    def create_repo(self, repo: str, **options: Any) -> None:
        self.private.append(options["private"])

    def create_commit(self, repo: str, operations: Any, **options: Any) -> Any:
        for each in operations:
            path = self.root / each.path_in_repo
            path.parent.mkdir(parents=True, exist_ok=True)
            with each.as_file() as file:
                path.write_bytes(file.read())
        self.commits.append([each.path_in_repo for each in operations])
        return SimpleNamespace()


def test_a_repository_of_the_hub_is_private_and_gets_few_commits(tmp_path: Path) -> None:
    build(tmp_path / "here", chain())
    fake = FakeHub(tmp_path / "hub")
    remote = HubRemote("hf://datasets/me/store", cast(HfApi, fake), LocalFileSystem())
    assert remote._root == "datasets/me/store"
    remote._root = str(tmp_path / "hub")
    pushed(tmp_path / "here", remote)
    assert len(fake.commits) == 3
    assert all(fake.private)
    assert all(commit[-1].startswith("records/") for commit in fake.commits)
    pull(Store(tmp_path / "other"), remote, (), quiet)
    assert ids(tmp_path / "other") == ids(tmp_path / "here")


def test_push_and_pull_are_commands(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    r1pipe("run", "manifests/small.yaml")
    url = f"file://{tmp_path}/there"
    code, out, _ = r1pipe("store", "push", url, "numbers", "--json")
    assert (code, json.loads(out)["artifacts"]) == (0, 1)
    code, out, err = r1pipe("store", "pull", url, "--store", "other")
    assert (code, out.partition(":")[0]) == (0, "pulled 1 artifact")
    assert err.startswith("numbers@")
    assert r1pipe("run", "manifests/small.yaml", "--store", "other", "--to", "numbers")[0] == 0
