"""Differences between two artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from store_world import QuietConsole, chain, halve, kind, manifest, stage, write_number

from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run
from r1pipe.stage import Inputs
from r1pipe.store.diff import ArtifactDiff, LeafDiff, diff
from r1pipe.store.preimages import ABSENT
from r1pipe.store.store import Store


def build(root: Path, made: Manifest, **options: Any) -> list[str]:
    return run(made, Store(root), QuietConsole(), **options).built


def test_a_diff_names_params_metrics_facts_and_files(tmp_path: Path) -> None:
    for number in (6, 8):
        build(tmp_path / "store", chain(number))
    store = Store(tmp_path / "store")
    old, new = sorted(
        (record for record in store.records() if record.stage_name == "first"),
        key=lambda record: record.created,
    )
    found = diff(store, old, new)
    assert [(leaf.name, leaf.old, leaf.new) for leaf in found.preimage] == [("params.number", 6, 8)]
    assert [(leaf.name, leaf.old, leaf.new) for leaf in found.metrics] == [("loss", 6.0, 8.0)]
    assert [leaf.name for leaf in found.files] == ["data/number.json"]
    assert "  params.number: 6 -> 8" in found.lines()
    assert diff(store, old, old).lines()[-1] == "no difference"


def test_a_diff_as_text_has_short_numbers_and_ids_and_no_predictions() -> None:
    leaves = [
        LeafDiff("loss", 0.33939850330352783, 0.4),
        LeafDiff("kl", 0.10000001, 0.10000002),
        LeafDiff("inputs.model", "a" * 64, "b" * 64),
        LeafDiff("predicted.seconds", [1.0, 2.0], [3.0, 4.0]),
    ]
    assert ArtifactDiff("a", "b", facts=leaves).lines() == [
        "a -> b",
        "facts",
        "  loss: 0.3394 -> 0.4",
        "  kl: 0.10000001 -> 0.10000002",
        "  inputs.model: aaaaaaaa -> bbbbbbbb",
    ]
    assert ArtifactDiff("a", "b", facts=leaves[3:]).lines() == ["a -> b", "no difference"]


def test_a_diff_as_text_has_warnings_line_by_line_and_shortens_what_is_long() -> None:
    kept = "both have this one"
    leaves = [
        LeafDiff("warnings", [kept, "flat groups. An example:\n  prompt: 1 + 1"], [kept, "cut"]),
        LeafDiff("seen", ABSENT, ["a"]),
        LeafDiff("text", "x" * 300, "y"),
        LeafDiff("numbers", [1, 2], [1]),
        LeafDiff("none", ABSENT, []),
    ]
    head, _, *lines = ArtifactDiff("a", "b", facts=leaves).lines()
    assert head == "a -> b"
    assert lines == [
        "  warnings",
        "    - flat groups. An example:",
        "        prompt: 1 + 1",
        "    + cut",
        "  seen",
        "    + a",
        f"  text: {'x' * 160} ... {'x' * 80} (300 characters) -> y",
        "  numbers: [1, 2] -> [1]",
        "  none: (absent) -> []",
    ]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_diff_of_data_sets_counts_rows_by_id(tmp_path: Path, form: str) -> None:
    def write(context: Any, params: Any, run: Any, inputs: Inputs) -> None:
        write_number(context, params, run, inputs)
        rows = [{"id": f"p{n}", "text": "x" * n} for n in range(params.number, params.number + 4)]
        rows[1]["text"] = f"changed {params.number}"
        if form == "parquet":
            from r1pipe.rows import write_rows

            write_rows(context.output("data"), rows)
        else:
            lines = "\n".join(map(json.dumps, rows))
            (context.output("data") / "rows.jsonl").write_text(lines)

    for number in (1, 2):
        build(tmp_path / "store", manifest(stage("rows", kind(write), number=number)))
    store = Store(tmp_path / "store")
    old, new = sorted(store.records(), key=lambda record: record.created)
    (rows,) = diff(store, old, new).rows
    # ids p1..p4 and p2..p5; p2 is changed in the first, p3 in the second
    assert (rows.old_rows, rows.new_rows) == (4, 4)
    assert (rows.added, rows.removed, rows.changed) == (["p5"], ["p1"], ["p2", "p3"])
    assert rows.line() == "data: 4 -> 4 rows by id: 1 added, 1 removed, 2 changed"


def test_a_halved_input_shows_as_a_changed_id(tmp_path: Path) -> None:
    for number in (6, 8):
        build(
            tmp_path / "store",
            manifest(stage("a", number=number), stage("b", kind(halve), {"a": "a"})),
        )
    store = Store(tmp_path / "store")
    old, new = sorted(
        (record for record in store.records() if record.stage_name == "b"),
        key=lambda record: record.created,
    )
    assert [leaf.name for leaf in diff(store, old, new).preimage] == ["inputs.a"]
