"""Pairs and labelled texts made of candidates: which rows, how many, and what is left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, stage

from r1pipe.candidates.pairing import Sides, labels_of, pairs_of
from r1pipe.errors import ArtifactError, StageError
from r1pipe.rows import read_rows, write_rows
from r1pipe.stage import Inputs


def candidate(problem: str, text: str, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{problem}#{text}",
        "problem_id": problem,
        "task": "arithmetic",
        "language": "en",
        "format": "chat",
        "prompt": f"what is {problem}?",
        "completion": text,
        "verdict": verdict,
        "finish_reason": "stop",
        "kept": verdict == "correct",
    } | more


TABLE = [
    candidate("a", "a1", "correct"),
    candidate("a", "a2", "wrong"),
    candidate("b", "b1", "wrong"),
    candidate("a", "a1", "correct"),  # a repeat
    candidate("a", "a3", "no_answer"),
    candidate("b", "b2", "wrong"),
    candidate("c", "c1", "correct"),
    candidate("c", "c2", "wrong", finish_reason="length"),
    candidate("c", "c3", "crashed"),
    candidate("a", "a4", "correct", kept=False),
    candidate("d", "d1", "unjudged"),
]


def made(tmp_path: Path, rows: list[dict[str, Any]], **params: Any) -> Any:
    write_rows(tmp_path / "candidates", rows)
    kind, context = stage("pairs"), FakeContext(tmp_path / "work")
    values: dict[str, Any] = {"seed": 1, "max_per_problem": 9}
    inputs = Inputs({"candidates": tmp_path / "candidates"})
    kind.run(context, kind.params(**(values | params)), kind.run_model(), inputs)
    return list(read_rows(context.output("rows"))), context


def test_right_meets_wrong_of_the_same_problem_and_everything_is_counted(tmp_path: Path) -> None:
    rows, context = made(tmp_path, TABLE)
    pairs = {(row["chosen"], row["rejected"]) for row in rows}
    assert pairs == {("a1", "a2"), ("a1", "a3"), ("a4", "a2"), ("a4", "a3")}
    assert len(rows) == 4
    assert {row["prompt"] for row in rows} == {"what is a?"}
    assert all(row["chosen_id"] == f"a#{row['chosen']}" for row in rows)
    assert rows[0]["format"] == "chat"
    counts = {"right": 3, "wrong": 4, "repeats": 1, "truncated": 1, "undecided": 2}
    problems = {"problems": 4, "with_both": 1, "all_right": 1, "all_wrong": 1, "with_neither": 1}
    assert context.notes == {"num_rows": 4, **counts, **problems}
    assert sum(counts.values()) == len(TABLE)


def test_what_a_filter_dropped_is_chosen_only_if_correct_is_enough(tmp_path: Path) -> None:
    rows, context = made(tmp_path, TABLE, right_if="kept")
    assert {row["chosen"] for row in rows} == {"a1"}
    assert {row["rejected"] for row in rows} == {"a2", "a3"}
    assert context.notes["dropped"] == 1


def test_labels_are_half_of_each_side_while_there_are_some(tmp_path: Path) -> None:
    rows, _ = made(tmp_path, TABLE, objective="pointwise", max_per_problem=3)
    labels = {row["completion"]: row["label"] for row in rows}
    assert len(labels) == len(rows)
    of_a = {text: label for text, label in labels.items() if text[0] == "a"}
    assert sorted(of_a.values()) == [0.0, 1.0, 1.0]
    assert all(label == float(text in ("a1", "a4")) for text, label in of_a.items())
    others = {text: label for text, label in labels.items() if text[0] != "a"}
    assert others == {"b1": 0.0, "b2": 0.0, "c1": 1.0}
    assert {row["candidate_id"] for row in rows if row["completion"] == "b1"} == {"b#b1"}


def test_pairs_are_different_and_use_every_row_before_any_a_second_time() -> None:
    for num_right, num_wrong in ((1, 1), (2, 3), (2, 4), (4, 2), (3, 3), (6, 4)):
        right, wrong = list(range(num_right)), list(range(100, 100 + num_wrong))
        sides = Sides(right, wrong)
        for limit in range(1, num_right * num_wrong + 2):
            pairs = pairs_of(sides, limit, "s")
            assert len(set(pairs)) == len(pairs) == min(limit, num_right * num_wrong)
            for side in (0, 1):
                used = Counter(pair[side] for pair in pairs)
                rows = (right, wrong)[side]
                assert max(used.values()) - min(used[row] for row in rows) <= 1
    assert pairs_of(Sides([1], []), 3, "s") == []
    both = Sides(list(range(5)), list(range(5, 10)))
    assert pairs_of(both, 3, "s") == pairs_of(both, 3, "s") != pairs_of(both, 3, "t")


@pytest.mark.parametrize(
    ("num_right", "num_wrong", "limit", "expected"),
    [(5, 5, 4, (2, 2)), (5, 5, 3, (2, 1)), (1, 5, 4, (1, 3)), (5, 1, 4, (3, 1)), (2, 1, 9, (2, 1)),
     (0, 3, 2, (0, 2)), (3, 0, 2, (2, 0))],
)  # fmt: skip
def test_labels_are_shared_out_as_worked_by_hand(
    num_right: int, num_wrong: int, limit: int, expected: tuple[int, int]
) -> None:
    sides = Sides(list(range(num_right)), list(range(100, 100 + num_wrong)))
    labels = labels_of(sides, limit, "s")
    ones = sum(label == 1.0 and number < 100 for number, label in labels.items())
    zeros = sum(label == 0.0 and number >= 100 for number, label in labels.items())
    assert (ones, zeros) == expected
    assert len(labels) == sum(expected)


def test_imported_labels_make_pairs_by_their_prompt(tmp_path: Path) -> None:
    rated = [("x", "good", 1.0), ("x", "bad", 0.0), ("y", "fine", 0.5), ("y", "poor", 0.2)]
    rows = [{"prompt": p, "completion": c, "is_safe": s} for p, c, s in rated]
    found, _ = made(tmp_path, rows)
    assert [(r["prompt"], r["chosen"], r["rejected"]) for r in found] == [
        ("x", "good", "bad"),
        ("y", "fine", "poor"),
    ]


def test_a_problem_whose_samples_lie_apart_is_still_one(tmp_path: Path) -> None:
    rows = [candidate(f"p{n}", "right", "correct") for n in range(6)]
    rows += [candidate(f"p{n}", "wrong", "wrong") for n in reversed(range(6))]
    found, _ = made(tmp_path, rows)
    assert [row["problem_id"] for row in found] == [f"p{n}" for n in reversed(range(6))]
    assert {(row["chosen"], row["rejected"]) for row in found} == {("right", "wrong")}


def test_without_a_pair_or_a_verdict_the_stage_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no problem has both .*'all_wrong': 1"):
        made(tmp_path / "one", [candidate("b", "b1", "wrong")])
    with pytest.raises(StageError, match="none of the columns verdict, label, is_safe"):
        made(tmp_path / "two", [{"prompt": "x", "completion": "y"}])
    with pytest.raises(ArtifactError, match="no column completion"):
        made(tmp_path / "three", [{"prompt": "x", "chosen": "y", "rejected": "z"}])
