"""A run that keeps going: stages that do not need a failed one are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store_world import QuietConsole, halve, kind, manifest, read_number, stage

from r1pipe.errors import (
    Interrupted,
    Paused,
    R1PipeError,
    SourceError,
    StageError,
    StoreError,
)
from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run
from r1pipe.store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def failing(error: Exception) -> Any:
    def fail(context: Any, params: Any, run: Any, inputs: Any) -> None:
        raise type(error)(*error.args)

    return kind(fail)


def forked(error: Exception) -> Manifest:
    """Return `first`, then `bad` and `after` it, and beside them `good`."""
    return manifest(
        stage("first", number=6),
        stage("bad", failing(error), {"a": "first"}),
        stage("after", kind(halve), {"a": "bad"}),
        stage("last", kind(halve), {"a": "after"}),
        stage("good", kind(halve), {"a": "first"}),
    )


def test_a_failed_stage_ends_the_run_unless_it_is_to_keep_going(root: Path) -> None:
    made = forked(StageError("no rows"))
    with pytest.raises(StageError, match="no rows"):
        run(made, Store(root), QuietConsole())
    assert [record.stage_name for record in Store(root).records()] == ["first"]
    console = QuietConsole()
    with pytest.raises(StageError) as caught:
        run(made, Store(root), console, keep_going=True)
    assert str(caught.value) == (
        "failed: bad (told above); not run, since they need them: after, last; the results of all"
        " others are in the store"
    )
    store = Store(root)
    assert read_number(store.output_dir(store.resolve("good"), "data")) == 3
    command = f"r1pipe run tiny.yaml --profile laptop --store {root} --keep-going"
    told = [event[1] for event in console.events if event[0] == "message"]
    assert told == [
        "bad: no rows\nbad: what it has done is kept; when that is put right, go on with: "
        + command,
        "after: not run: it needs bad",
        "last: not run: it needs after",
    ]


@pytest.mark.parametrize(("error", "code"), [(Paused("flat"), 4), (SourceError("gone"), 7)])
def test_a_run_that_kept_going_ends_with_the_code_of_what_failed(
    root: Path, error: R1PipeError, code: int
) -> None:
    with pytest.raises(StageError) as caught:
        run(forked(error), Store(root), QuietConsole(), keep_going=True)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    "error", [StoreError("disk full"), Interrupted("asked"), ValueError("bug")]
)
def test_what_is_no_fault_of_a_stage_ends_the_run_in_any_case(root: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        run(forked(error), Store(root), QuietConsole(), keep_going=True)
    assert "good" not in {record.stage_name for record in Store(root).records()}
