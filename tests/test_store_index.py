"""The index of records is a cache: it may be old, torn or gone, and nothing is decided by it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_world import QuietConsole, chain

from r1pipe.errors import DamagedError
from r1pipe.keys import key_of
from r1pipe.pipeline.run import run
from r1pipe.pipeline.why import explain
from r1pipe.store import index
from r1pipe.store.actions import ActionRecord
from r1pipe.store.index import INDEX_NAME
from r1pipe.store.preimages import ABSENT, UNKNOWN, distance
from r1pipe.store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with two results of each of three stages, and its index."""
    root = tmp_path / "store"
    for number in (6, 8):
        run(chain(number), Store(root), QuietConsole())
    assert len(Store(root).records()) == 6
    return root


def from_files(root: Path) -> list[ActionRecord]:
    """Return the records without an index."""
    store = Store(root)
    found = [store.lookup(path.stem) for path in sorted(store.records_dir.glob("*.json"))]
    return [record for record in found if record is not None]


def edit(root: Path, key: str, old: str, new: str) -> None:
    """Change a record in its place; the folder keeps its times."""
    path = Store(root).record_path(key)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("state", ["written", "gone", "torn", "of another layout", "not ours"])
def test_an_index_gives_what_the_files_give(root: Path, state: str) -> None:
    path = root / INDEX_NAME
    whole = path.read_text()
    if state == "gone":
        path.unlink()
    elif state == "torn":
        path.write_text(whole[:-40])
    elif state == "of another layout":
        other = whole.replace(index.LAYOUT, index.LAYOUT.replace("kind", "sort"), 1)
        assert other != whole
        path.write_text(other)
    elif state == "not ours":
        path.write_bytes(b"\xff\x00[[1]]\n")
    wanted = from_files(root)
    assert len(wanted) == 6
    assert Store(root).known() == wanted
    assert Store(root).records() == wanted
    assert path.read_text() == whole


def test_records_that_come_and_go_are_seen_by_name(root: Path) -> None:
    run(chain(10), Store(root), QuietConsole())
    assert Store(root).known() == from_files(root)
    assert len(Store(root).known()) == 9
    Store(root).record_path(Store(root).resolve("second").key).unlink()
    assert Store(root).known() == from_files(root)
    assert len(Store(root).known()) == 8


def test_a_record_of_a_stage_with_plugins_is_in_the_index(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Store(root).resolve("second")
    preimage = plain.preimage | {"plugins": {"rewards": {"brevity": "0" * 64}}}
    record = replace(plain, preimage=preimage, key=key_of(preimage))
    Store(root).record_path(record.key).write_text(json.dumps(record.to_json()))
    wanted = Store(root).records()  # the index is written again
    assert record in wanted
    monkeypatch.setattr(index, "read_record", lambda path, _: pytest.fail(f"{path} was read"))
    assert Store(root).known() == wanted
    assert Store(root).records() == wanted


def test_a_record_edited_in_its_place_is_found_before_use(root: Path) -> None:
    key = Store(root).resolve("second").key
    edit(root, key, '"second"', '"sekond"')
    assert len(Store(root).records()) == 5
    was = {record.key: record for record in Store(root).known()}[key]
    assert was.stage_name == "second"  # as it was when it was checked
    with pytest.raises(DamagedError, match="the record was edited"):
        Store(root).resolve("second")
    assert Store(root).readable(key) is None


def test_why_compares_with_the_nearest_record_that_is_whole(root: Path) -> None:
    nearest = explain(chain(12), Store(root), "first").nearest
    assert nearest is not None
    edit(root, nearest, '"first"', '"fyrst"')
    other = explain(chain(12), Store(root), "first").nearest
    assert other not in (None, nearest)
    assert {record.key for record in from_files_of(root, "first")} == {other}


def from_files_of(root: Path, stage: str) -> list[ActionRecord]:
    return [record for record in Store(root).records() if record.stage_name == stage]


def slow_distance(old: Any, new: Any) -> int:
    """Count different leaves one by one; a branch that faces a leaf or nothing counts once."""
    if new is UNKNOWN:
        return 0
    if isinstance(old, dict) and isinstance(new, dict):
        names = {*old, *new}
        return sum(slow_distance(old.get(n, ABSENT), new.get(n, ABSENT)) for n in names)
    return 0 if old == new else 1


def test_distance_counts_leaves() -> None:
    old = {"a": 1, "b": {"x": 1, "y": 2}, "c": {"z": 1}, "d": 4}
    new = {"a": 1, "b": {"x": 3, "w": 2}, "c": 7, "e": 5, "f": UNKNOWN}
    # b.x, b.y and b.w; c, a branch that became a leaf; d and e; f is not known
    assert distance(old, new) == 6


def test_distance_agrees_with_counting_one_by_one() -> None:
    rng = random.Random(5)

    def value(depth: int, leaves: list[Any]) -> Any:
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(leaves)
        return {name: value(depth - 1, leaves) for name in "abcd" if rng.random() < 0.7}

    for _ in range(500):
        old, new = value(3, [1, 2, [1], None]), value(3, [1, 2, [1], None, UNKNOWN])
        assert distance(old, new) == slow_distance(old, new), (old, new)
