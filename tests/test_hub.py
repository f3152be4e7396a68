"""The Hub's protocol, spoken to a small server on loopback: push, store push and pull, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Run
from handed_world import handed
from hub_server import LARGE_BYTES, TOKEN, Hub, served
from huggingface_hub import HfFileSystem, constants
from safetensors import safe_open

from r1pipe.errors import ArtifactError, StoreError
from r1pipe.manifest import Manifest
from r1pipe.sharing import hub as sharing
from r1pipe.sharing.parcel import Parcel, make_parcel
from r1pipe.store.store import Store

STORE = "hf://datasets/me/store"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Store]:
    return handed(tmp_path_factory.mktemp("world"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub, and have this process ask it as if it were the Hub."""
    with served() as found:
        asked_at(found.url, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def asked_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    HfFileSystem.clear_instance_cache()


def parcel(world: tuple[Manifest, Store], stage: str) -> Parcel:
    manifest, store = world
    return make_parcel(manifest, store, store.resolve(stage))


def test_a_store_goes_to_a_private_repository_and_comes_back(
    tmp_path: Path, world: tuple[Manifest, Store], r1pipe: Run, hub: Hub
) -> None:
    here = ("--store", str(world[1].root))
    code, out, err = r1pipe("store", "push", STORE, "--json", *here)
    assert code == 0, err
    first = json.loads(out)
    assert (first["artifacts"], first["there"]) == (4, 0)
    assert hub.is_private == {"me/store": True}
    assert len(hub.commits) == 4, "one for each artifact"
    assert any(commit["lfsFile"] for commit in hub.commits), "weights go before the commit"
    assert all(commit["file"][-1].startswith("records/") for commit in hub.commits)
    again = json.loads(r1pipe("store", "push", STORE, "--json", *here)[1])
    assert (again["artifacts"], again["files"], again["there"]) == (0, 0, 4)
    code, out, err = r1pipe("store", "pull", STORE, "--store", str(tmp_path / "other"))
    assert (code, out.partition(":")[0]) == (0, "pulled 4 artifacts"), err
    pulled = Store(tmp_path / "other")
    assert {r.key: r.artifact_id for r in pulled.records()} == {
        r.key: r.artifact_id for r in world[1].records()
    }


def test_a_model_goes_over_in_one_commit_and_says_what_it_is(
    tmp_path: Path, world: tuple[Manifest, Store], hub: Hub
) -> None:
    made = parcel(world, "zero")
    url = sharing.push(made, "me/zero", "a message")
    assert url == f"{hub.url}/me/zero/commit/1"
    (commit,) = hub.commits
    assert "model.safetensors" in commit["lfsFile"]
    files = hub.files["me/zero"]
    assert files["README.md"] == made.texts["README.md"]
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert opened.metadata()["r1pipe.artifact"] == world[1].resolve("zero").artifact_id
    assert len(files["model.safetensors"]) >= LARGE_BYTES
    hub.full_after = 0
    sharing.push(parcel(world, "zero"), "me/zero", "again")  # what is there does not go again


def test_a_public_repository_gets_nothing_unasked(world: tuple[Manifest, Store], hub: Hub) -> None:
    hub.files["me/zero"], hub.is_private["me/zero"] = {}, False
    with pytest.raises(ArtifactError, match="me/zero is public; say --public"):
        sharing.push(parcel(world, "zero"), "me/zero", "a message")
    assert hub.files["me/zero"] == {}


def test_what_the_hub_refuses_is_one_line(
    tmp_path: Path,
    world: tuple[Manifest, Store],
    r1pipe: Run,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, other = ("--store", str(world[1].root)), ("--store", str(tmp_path / "other"))
    code, _, err = r1pipe("store", "pull", "hf://datasets/me/none", *other)
    assert (code, "me/none: holds no artifacts, or is not there" in err) == (3, True), err
    hub.full_after = 0
    with pytest.raises(StoreError, match=r"me/zero: the Hub refuses \(403\): .*storage limit"):
        sharing.push(parcel(world, "zero"), "me/zero", "a message")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StoreError, match=r"me/zero: the Hub refuses \(401\).*hf auth login"):
        sharing.push(parcel(world, "zero"), "me/zero", "a message")
    for command, where in (("push", here), ("pull", other)):
        HfFileSystem.clear_instance_cache()
        code, _, err = r1pipe("store", command, STORE, *where)
        assert (code, err.count("\n")) == (8, 1), err
        assert "run 'hf auth login'" in err
        assert "hf_wrong" not in err
