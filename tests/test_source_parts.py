"""Configs and splits of sources, from a folder or the hub; what is read is what was digested."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from data_forms import lines, place
from store_world import QuietConsole, kind, manifest, stage, write_number

from r1pipe.errors import ManifestError, SourceError
from r1pipe.files import records
from r1pipe.manifest import Origin, SourceNode, load_manifest
from r1pipe.manifest.sources import path_here, source_id, source_path
from r1pipe.pipeline.run import run
from r1pipe.store.store import Store

COMMIT = "c" * 40
FILES = {
    "README.md": b"# no header\n",
    "main/train-00000-of-00001.jsonl": lines([{"a": 1}]),
    "main/test-00000-of-00001.jsonl": lines([{"a": 2}]),
    "socratic/train-00000-of-00001.jsonl": lines([{"a": 3}]),
}
PARTS = [("main", "train", 1), ("main", "test", 2), ("socratic", "train", 3)]


def source(path: Path | None, config: str | None = None, split: str | None = None) -> SourceNode:
    hf, revision = (None, None) if path else ("me/d", COMMIT)
    place = Origin("m.yaml", 6, 3)
    return SourceNode("x", path, hf, revision, "dataset", place, config=config, split=split)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the snapshot of a data set in a hub cache without a network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return place(cache / "datasets--me--d" / "snapshots" / COMMIT, FILES)


@pytest.mark.parametrize(("config", "split", "value"), PARTS)
@pytest.mark.parametrize("is_hub", [True, False])
def test_a_config_and_split_give_their_rows_alone(
    tmp_path: Path, hub: Path, is_hub: bool, config: str, split: str, value: int
) -> None:
    node = source(None if is_hub else hub, config, split)
    path = source_path(node, tmp_path)
    assert [record.values for record in records(path)] == [{"a": value}]
    assert source_path(node, tmp_path) == path
    here = path_here(node, tmp_path / "views")
    assert here is not None
    assert [record.values for record in records(here)] == [{"a": value}]


def test_a_part_stays_one_whatever_its_files_are_called(tmp_path: Path) -> None:
    named = b"[b_test.jsonl, 'a[[]1]_train.jsonl']"
    card = b"---\nconfigs:\n- {config_name: all, data_files: " + named + b"}\n---\n"
    files = {"README.md": card}
    files |= {"b_test.jsonl": lines([{"a": 1}]), "a[1]_train.jsonl": lines([{"a": 2}])}
    node = source(place(tmp_path / "data", files), "all", "train")
    found = [record.values for record in records(source_path(node, tmp_path))]
    assert found == [{"a": 1}, {"a": 2}]


def test_ids_differ_by_part_and_stay_without_one(tmp_path: Path, hub: Path) -> None:
    for path in (hub, None):
        nodes = [source(path), *(source(path, config, split) for config, split, _ in PARTS)]
        assert len({source_id(node, tmp_path) for node in nodes}) == 4


def test_a_local_part_is_its_files_and_nothing_else(tmp_path: Path, hub: Path) -> None:
    before = source_id(source(hub, "main", "train"), tmp_path)
    (hub / "main" / "test-00000-of-00001.jsonl").write_bytes(lines([{"a": 9}]))
    assert source_id(source(hub, "main", "train"), tmp_path) == before
    (hub / "main" / "train-00000-of-00001.jsonl").write_bytes(lines([{"a": 9}]))
    assert source_id(source(hub, "main", "train"), tmp_path) != before


@pytest.mark.parametrize("is_hub", [True, False])
def test_an_unknown_part_names_the_source_and_the_nearest(
    tmp_path: Path, hub: Path, is_hub: bool
) -> None:
    node = source(None if is_hub else hub, "main", "tset")
    match = r"^m\.yaml:6:3: source 'x': .*no split 'tset'; did you mean 'test'\?"
    with pytest.raises(SourceError, match=match):
        source_path(node, tmp_path)


def test_only_the_files_of_a_part_are_fetched(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetch(*args: object, allow_patterns: object, **options: object) -> str:
        asked.append(allow_patterns)
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    source_path(source(None, "main", "test"), tmp_path)
    assert asked[-1] == ["main/test-00000-of-00001.jsonl"]
    assert "README.md" in asked[0]
    source_path(source(None), tmp_path)
    assert asked[-1] is None


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "r1pipe: 1\nname: m\nsources: {x: {path: y, as: model, split: train}}\n"
        "stages: {c: {kind: corpus, params: {seed: 1, num_rows: 1, format: chat}}}\n"
    )
    with pytest.raises(ManifestError, match="'config' and 'split' go with rows, problems and"):
        load_manifest(path)


@pytest.mark.parametrize("is_late", [True, False])
def test_a_source_that_changes_under_a_run_gives_no_result(tmp_path: Path, is_late: bool) -> None:
    """Before the stage reads it, or behind its back: the key is not that of the bytes."""
    path, root = tmp_path / "x.jsonl", tmp_path / "store"
    path.write_bytes(lines([{"a": 1}]))
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns

    def change() -> None:
        path.write_bytes(lines([{"a": 2}]))
        os.utime(path, ns=times)

    def reading(context: Any, params: Any, run: Any, inputs: Any) -> None:
        write_number(context, params, run, inputs)
        if is_late:
            change()

    class Console(QuietConsole):
        def plan(self, found: Any) -> None:
            if not is_late:
                change()

    made = manifest(stage("s", kind(reading), {"a": "@x"}), sources={"x": path})
    match = r"^tiny\.yaml:5:3: source 'x' has changed since the run began, so the result of 's'"
    with pytest.raises(SourceError, match=match):
        run(made, Store(root), Console())
    assert list(Store(root).records()) == []
    if is_late:
        assert not any((root / "attempts").iterdir())


def look(tmp_path: Path, config: str, split: str) -> Path | None:
    return path_here(source(None, config, split), tmp_path / "views")


def test_a_part_that_may_yet_be_fetched_is_not_here_and_no_mistake(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert look(tmp_path, "main", "validation") is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"no split 'validation'; there are test, train"):
        look(tmp_path, "main", "validation")
    files = [*FILES, "main/validation-00000-of-00001.jsonl"]
    tree = [SimpleNamespace(path=name) for name in files]
    monkeypatch.setattr("huggingface_hub.get_cached_repo_tree", lambda *a, **k: tree)
    assert look(tmp_path, "main", "validation") is None
    with pytest.raises(SourceError, match="no split 'valid'; did you mean 'validation'"):
        look(tmp_path, "main", "valid")
