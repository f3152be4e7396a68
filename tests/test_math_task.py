"""The math task: problems from local files, with every row accounted for."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1pipe.errors import SourceError, StageError
from r1pipe.records import Verdict
from r1pipe.tasks.math import MathProblems, load_math, split_gold
from r1pipe.verify import verify

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"

ROWS = [
    {"question": "What is 2+3?", "answer": "2+3=<<2+3=5>>5 apples.\n#### 5"},
    {"question": "What is 4+4?", "answer": "It is 8.\n#### 8"},
    {"question": "What is 2+3?", "answer": "Another way.\n#### 5"},
    {"question": "Half of x?", "answer": "Divide.\n#### x/2"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(source: Path, **more: Any) -> MathProblems:
    settings: dict[str, Any] = {
        "split": None,
        "prompt_column": "question",
        "answer_column": "answer",
        "gold": "hash",
        "language": "en",
        "limit": None,
        "seed": 0,
    }
    return load_math(source, **(settings | more))


def test_gold_and_solution_are_split_and_duplicates_dropped(tmp_path: Path) -> None:
    problems = load(write_lines(tmp_path / "a.jsonl", ROWS))
    assert [p.prompt for p in problems] == ["What is 2+3?", "What is 4+4?", "Half of x?"]
    assert [p.gold for p in problems] == ["5", "8", "x/2"]
    assert problems[0].solution == "2+3=5 apples."  # calculator marks are gone
    assert [p.checker for p in problems] == ["number", "number", "math"]
    report = problems.report
    assert (report.num_read, report.num_kept, report.num_duplicates) == (4, 3, 1)


def test_every_format_gives_the_same_problems(tmp_path: Path) -> None:
    lines = load(write_lines(tmp_path / "a.jsonl", ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert load(tmp_path / "a.parquet") == lines
    assert load(tmp_path / "a.csv") == lines


def test_ids_survive_reordering(tmp_path: Path) -> None:
    forward = load(write_lines(tmp_path / "a.jsonl", ROWS))
    backward = load(write_lines(tmp_path / "b.jsonl", ROWS[::-1]))
    assert {p.id for p in forward} == {p.id for p in backward}
    assert len({p.id for p in forward}) == 3


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}?", "answer": f"#### {i}"} for i in range(50)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    first = load(path, limit=10, seed=1)
    assert first == load(path, limit=10, seed=1)
    assert first != load(path, limit=10, seed=2)
    assert [int(p.gold) for p in first] == sorted(int(p.gold) for p in first)
    assert first.report.num_past_limit == 40


SPLITS = [
    ("a\n#### 1,000", "hash", ("a", "1,000", "")),
    ("#### 7", "hash", (None, "7", "")),
    ("no mark", "hash", (None, "", "no #### in the answer")),
    ("a ####  ", "hash", ("a", "", "empty gold answer")),
    (r"so \boxed{\frac{1}{2}}.", "boxed", (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "")),
    ("no box", "boxed", (None, "", "no box in the answer")),
    (" 12 ", "column", (None, "12", "")),
    ("$ $", "column", (None, "$ $", "empty gold answer")),
]


@pytest.mark.parametrize(("answer", "gold", "expected"), SPLITS)
def test_gold_answers_are_taken_from_their_place(answer: str, gold: Any, expected: Any) -> None:
    assert split_gold(answer, gold) == expected


def test_unusable_golds_are_counted_or_stop_the_stage(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, {"question": "Q", "answer": "no mark"}])
    problems = load(path, max_unusable_frac=0.2)
    assert problems.report.unusable == {"no #### in the answer": 1}
    assert problems.report.examples[0]["row"] == 5
    with pytest.raises(StageError, match=r"1 of 5 rows have no usable gold .*first at row 5"):
        load(path, max_unusable_frac=0.19)


def test_a_wrong_column_lists_those_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(
        SourceError, match=r"row 1 has no column 'problem'; it has answer, question"
    ):
        load(path, prompt_column="problem")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing.jsonl: no such file"):
        load(tmp_path / "nothing.jsonl")


def test_an_unknown_suffix_lists_those_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"cannot read '.xlsx' files; use one of .jsonl"):
        load(tmp_path / "a.xlsx")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_every_gsm8k_gold_verifies_against_itself_and_its_solution() -> None:
    for name, count in (("train", 7473), ("test", 1319)):
        problems = load(SHARED / "gsm8k" / f"{name}.jsonl")
        assert len(problems) == count
        for problem in problems:
            assert verify(problem, rf"\boxed{{{problem.gold}}}") is Verdict.CORRECT
            whole = f"<think>{problem.solution}</think>\n{problem.solution}\n#### {problem.gold}"
            assert verify(problem, whole) is Verdict.CORRECT
