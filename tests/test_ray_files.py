"""A model's files where they are not seen: fetched once for all engines of a node."""

from __future__ import annotations

import fcntl
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1pipe.errors import StageError
from r1pipe.generate import ray_files
from r1pipe.generate.ray_files import ModelFile, ModelFiles, listed, model_here, own_cache, shared


class Reader:
    """Reads files here, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, list[str]()

    def __call__(self, file: ModelFile) -> Iterator[bytes]:
        self.names.append(file.name)
        yield (self.folder / file.name).read_bytes()


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, ModelFiles]:
    """Write files as a model has them, one of them in a folder of its own."""
    folder = tmp_path / "model"
    (folder / "extra").mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"1234567")
    (folder / "extra" / "b.json").write_bytes(b"{}")
    return folder, listed(folder, "node")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_a_folder_is_seen_if_all_its_files_are_as_they_are_for_the_run(
    model: tuple[Path, ModelFiles], tmp_path: Path
) -> None:
    folder, files = model
    assert [(file.name, file.size) for file in files.files] == [
        ("a.safetensors", 7),
        ("extra/b.json", 2),
    ]
    assert files.are_in(folder)
    shutil.copytree(folder, tmp_path / "copy")  # with the times of the files
    assert files.are_in(tmp_path / "copy")
    (tmp_path / "copy" / "a.safetensors").write_bytes(b"7654321")
    assert not files.are_in(tmp_path / "copy"), "of the same size, but changed since"
    (folder / "extra" / "b.json").unlink()
    assert not files.are_in(folder)


def test_engines_of_a_node_wait_for_one_that_fetches_and_share_what_it_has(
    model: tuple[Path, ModelFiles], cache: Path
) -> None:
    (folder, files), found = model, list[int]()
    read, begun, go_on = Reader(folder), threading.Event(), threading.Event()
    together = threading.Barrier(3)

    def slow(file: ModelFile) -> Iterator[bytes]:
        begun.set()
        assert go_on.wait(10)
        assert not (cache / files.key).exists(), "whole or not there"
        yield from read(file)

    def fetch() -> None:
        with shared(files, cache, slow) as (place, size):
            assert (place / "a.safetensors").read_bytes() == b"1234567"
            found.append(size)
            together.wait(10)  # an engine keeps it for as long as it lives

    threads = [threading.Thread(target=fetch, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == [0, 0, 9]
    with shared(files, cache, slow) as (_, size):
        assert size == 0, "a later one"
    assert read.names == ["a.safetensors", "extra/b.json"], "each once"


def test_a_fetch_removes_models_that_no_process_has_and_what_a_killed_one_left(
    model: tuple[Path, ModelFiles], cache: Path
) -> None:
    folder, files = model
    for name in ("held", "held.part-z", "free", "free.part-x", f"{files.key}.part-y"):
        (cache / name).mkdir()
    with (cache / "held.held").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with shared(files, cache, Reader(folder)) as (_, size):
            assert size == 9
    there = {path.name for path in cache.iterdir() if path.is_dir()}
    assert there == {"held", "held.part-z", files.key}
    (cache / files.key / "a.safetensors").write_bytes(b"")
    with shared(files, cache, Reader(folder)) as (place, size):
        assert size == 9, "a damaged one is fetched again"
        assert files.are_in(place)
        with (cache / (files.key + ".held")).open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_model_that_cannot_come_is_an_error_that_says_what_to_do(
    model: tuple[Path, ModelFiles], cache: Path
) -> None:
    folder, files = model
    huge = ModelFiles("host", "node", str(folder), (ModelFile("a", 1 << 60, 1),))
    with (
        pytest.raises(StageError, match=r"cannot be kept in .* are free; put.*TMPDIR"),
        shared(huge, cache, Reader(folder)),
    ):
        pass
    assert not list(cache.glob("*.part-*"))
    outside = ModelFiles("host", None, str(folder), huge.files)
    with (
        pytest.raises(StageError, match="outside of the cluster's nodes; put the store on a"),
        model_here(outside, is_spanning=False),
    ):
        pass
    with (
        pytest.raises(StageError, match="over several nodes reads it there; put the store on"),
        model_here(huge, is_spanning=True),
    ):
        pass
    assert ray_files.part_of(str(folder), files.files[0], 3) == b"4567"
    (folder / "a.safetensors").write_bytes(b"7654321")
    with pytest.raises(StageError, match=r"a\.safetensors is gone or was changed while"):
        ray_files.part_of(str(folder), files.files[0], 0)


def test_a_cache_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    place = own_cache()
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    with pytest.raises(StageError, match=r"others can write .*TMPDIR"):
        own_cache()
