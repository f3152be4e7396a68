"""Mixes of any parts by share: how many rows, of which kinds, and what does not go together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny import FakeContext, stage

from r1pipe.costs.work import Range, RowsInfo
from r1pipe.data.mix_parts import counts_of_shares
from r1pipe.errors import StageError
from r1pipe.rows import read_rows, write_rows
from r1pipe.stage import Inputs


def labels(name: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"problem_id": f"{name}{n}", "prompt": f"p{n}", "completion": f"{name} {n}", "label": n % 2}
        for n in range(start, start + count)
    ]


def mixed(
    folder: Path, parts: dict[str, list[dict[str, Any]]], **params: Any
) -> tuple[list[dict[str, Any]], FakeContext]:
    for name, rows in parts.items():
        write_rows(folder / name, rows)
    kind, context = stage("mix"), FakeContext(folder / "work")
    inputs = Inputs({"parts": {name: folder / name for name in parts}})
    kind.run(context, kind.params(seed=1, **params), kind.run_model(), inputs)
    return list(read_rows(context.output("rows"))), context


@pytest.mark.parametrize(
    ("available", "shares", "num_rows", "expected"),
    [
        ((90, 50), (0.9, 0.1), None, (90, 10)),
        ((90, 4), (0.9, 0.1), None, (36, 4)),
        ((100, 100), (2.0, 1.0), None, (100, 50)),
        ((100, 100), (0.9, 0.1), 20, (18, 2)),
        ((100, 100), (0.5, 0.5), 7, (4, 3)),
        ((3, 3), (0.9, 0.1), None, (3, 0)),
        ((0, 9), (0.5, 0.5), None, (0, 0)),
    ],
)
def test_shares_are_counted_as_by_hand(
    available: tuple[int, int],
    shares: tuple[float, float],
    num_rows: int | None,
    expected: tuple[int, int],
) -> None:
    named = [dict(zip(("new", "old"), pair, strict=True)) for pair in (available, shares)]
    found = counts_of_shares(named[0], named[1], num_rows)  # type: ignore[arg-type]
    assert (found["new"], found["old"]) == expected


def test_counts_never_exceed_what_there_is_and_are_near_their_shares() -> None:
    for a in range(1, 30):
        for b in range(1, 30):
            for c in (1, 7, 29):
                available = {"a": a, "b": b, "c": c}
                shares = {"a": 0.6, "b": 0.3, "c": 0.1}
                found = counts_of_shares(available, shares, None)
                total = sum(found.values())
                assert all(found[part] <= available[part] for part in available)
                assert all(abs(found[p] - total * s) < 1 for p, s in shares.items())


def test_a_replay_has_its_share_of_old_rows_and_keeps_labels(tmp_path: Path) -> None:
    parts = {"new": labels("new", 27), "old": labels("old", 40, 100)}
    rows, context = mixed(tmp_path, parts, shares={"new": 0.9, "old": 0.1})
    assert Counter(row["source"] for row in rows) == {"new": 27, "old": 3}
    assert {(row["completion"], row["label"]) for row in rows} <= {
        (row["completion"], row["label"]) for part in parts.values() for row in part
    }
    assert [row["source"] for row in rows] != sorted(row["source"] for row in rows)
    assert context.notes["old_rows"] == 3
    assert context.notes["over_quota"] == {"part old": 37}
    again, _ = mixed(
        tmp_path / "again", dict(reversed(parts.items())), shares={"old": 0.1, "new": 0.9}
    )
    assert again == rows, "the order of parts is in no key, so it decides nothing"


def test_pairs_and_steps_are_mixed_like_any_rows(tmp_path: Path) -> None:
    def pair(name: str, n: int) -> dict[str, Any]:
        return {"prompt": f"p{n}", "chosen": f"{name}{n}", "rejected": "no", "source": "elsewhere"}

    parts = {name: [pair(name, n % 4) for n in range(6)] for name in ("a", "b")}
    rows, context = mixed(tmp_path / "pairs", parts, shares={"a": 1.0, "b": 1.0})
    assert Counter(row["source"] for row in rows) == {"a": 4, "b": 4}
    assert context.notes["repeats"] == 4
    assert all(row["chosen"][0] == row["source"] and row["rejected"] == "no" for row in rows)

    def steps(name: str, n: int) -> dict[str, Any]:
        own = [{"end": n, "label": 0.5}]
        return {"prompt": "p", "completion": f"{name}{n}", "steps": own}

    parts = {name: [steps(name, n) for n in range(1, 4)] for name in ("a", "b")}
    rows, _ = mixed(tmp_path / "steps", parts, shares={"a": 1.0, "b": 1.0}, num_rows=4)
    assert sorted(row["completion"] for row in rows) == ["a1", "a2", "b1", "b2"]
    assert all(row["steps"] == [{"end": int(row["completion"][1]), "label": 0.5}] for row in rows)


def test_parts_of_three_names_and_types_that_go_together(tmp_path: Path) -> None:
    parts = {name: labels(name, 10) for name in ("a", "b", "c")}
    parts["b"] = [{**row, "label": row["label"] / 2} for row in parts["b"]]
    rows, _ = mixed(tmp_path, parts, shares={"a": 0.5, "b": 0.3, "c": 0.2})
    assert Counter(row["source"] for row in rows) == {"a": 10, "b": 6, "c": 4}
    assert {type(row["label"]) for row in rows} == {float}


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    kind = stage("mix")
    for params, text in (
        ({}, "give reasoning_rows and general_rows, or the shares"),
        ({"reasoning_rows": 1}, "give reasoning_rows and general_rows, or the shares"),
        ({"shares": {"a": 1.0}, "general_rows": 1}, "not both"),
        ({"shares": {"a": 0.0}}, "greater than 0"),
        ({"reasoning_rows": 1, "general_rows": 1, "num_rows": 3}, "or the shares of all parts"),
    ):
        with pytest.raises(ValidationError, match=text):
            kind.params(seed=1, **params)
    assert kind.params(seed=1, shares={"a": 1.0}).named_labels() == {"parts": ("a",)}
    parts = {"a": labels("a", 2), "b": labels("b", 2)}
    with pytest.raises(StageError, match="rows of a are mixed, but the inputs are a, b"):
        mixed(tmp_path / "one", parts, shares={"a": 1.0})
    parts["b"] = [{"prompt": "p", "chosen": "c", "rejected": "r"}]
    with pytest.raises(StageError, match=r"different kinds: only one .* has chosen, completion"):
        mixed(tmp_path / "two", parts, shares={"a": 1.0, "b": 1.0})
    with pytest.raises(StageError, match="rows of reasoning, general are mixed, but the inputs"):
        mixed(tmp_path / "three", {}, reasoning_rows=1, general_rows=1)
    options: dict[str, Any] = {"shares": {"a": 3.0, "b": 1.0}, "quotas": {"tasks": {"None": 0}}}
    with pytest.raises(StageError, match="no row is left"):
        mixed(tmp_path / "four", {"a": labels("a", 3), "b": labels("b", 1)}, **options)


def test_a_plan_knows_about_how_many_rows_there_will_be() -> None:
    kind = stage("mix")
    info = RowsInfo(Range(100), Range(10), Range(20))
    found = kind.cost(
        kind.params(seed=1, shares={"a": 0.9, "b": 0.1}, num_rows=150),
        kind.run_model(),
        {"parts": {"a": info, "b": info}},
    )
    assert found.outputs["rows"].num_rows == Range(15, 150)
