"""`r1pipe audit`: labelled pairs from a file, both verifiers, and what the report says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from r1pipe.audit.audit import Rate, _in_step, audit, audit_lines, plain_stream
from r1pipe.audit.pairs import LABELS, Pair, chosen_columns, labelled_pairs
from r1pipe.cli.table import app
from r1pipe.errors import R1PipeError
from r1pipe.records import Problem
from r1pipe.verify import close_shared
from r1pipe.verify.checkers import WINDOW, verify_stream

ROWS: list[dict[str, Any]] = [
    {"gold": "5", "answer": "5.0", "label": "right", "kind": "integer"},
    {"gold": "5", "completion": "The answer is 6.", "label": "wrong", "kind": "integer"},
    {"gold": "(1,2)", "answer": "(2,1)", "label": "right", "kind": "tuple"},
    {"gold": "2", "completion": "<answer>2</answer>", "label": "wrong", "kind": "tuple"},
]
"""Two labels are false on purpose: one disagreement of each direction."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def typed(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    if isinstance(done.exception, R1PipeError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def test_an_audit_counts_both_errors_of_both_verifiers_by_kind(tmp_path: Path) -> None:
    code, said = typed("--file", write_rows(tmp_path / "a.jsonl", ROWS), "--json")
    report = json.loads(said)
    assert (code, report["num_pairs"], report["num_disagreements"]) == (0, 4, 2)
    for name in ("r1pipe", "math-verify"):
        assert counts(report["kinds"]["integer"][name]) == (0, 1, 0, 1)
        assert counts(report["total"][name])[2:] == (1, 2)
        assert report["seconds"][name] > 0
    assert counts(report["kinds"]["tuple"]["r1pipe"]) == (1, 1, 1, 1)
    low, high = Rate(1, 2).interval()
    total = report["total"]["r1pipe"]["false_positive"]
    assert (total["rate"], total["low"], total["high"]) == (0.5, low, high)
    assert [row["place"] for row in report["disagreements"]] == ["a.jsonl:3", "a.jsonl:4"]
    assert (
        report["disagreements"][0]
        | {
            "label": "right",
            "extracted": "(2,1)",
            "r1pipe": "wrong",
            "math-verify": "wrong",
        }
        == report["disagreements"][0]
    )


def counts(rates: dict[str, dict[str, float]]) -> tuple[float, ...]:
    both = rates["false_positive"], rates["false_negative"]
    return tuple(rate[name] for rate in both for name in ("errors", "cases"))


def test_the_text_names_kinds_totals_seconds_and_the_first_disagreements(tmp_path: Path) -> None:
    code, said = typed("--file", write_rows(tmp_path / "a.jsonl", ROWS), "--show", "1")
    assert code == 0
    lines = said.splitlines()
    assert lines[1].startswith("integer")
    assert lines[3].startswith("total")
    assert "1/2 50.00% [9.45, 90.55]" in lines[3]
    assert "2 of 4 pairs where r1pipe disagrees with the label; the first 1:" in lines
    assert "  a.jsonl:3 [tuple] right, r1pipe: wrong; math-verify: wrong" in lines
    assert "a.jsonl:4" not in said


def test_model_text_is_escaped_on_the_terminal(tmp_path: Path) -> None:
    row = {"gold": "5", "answer": "6\x1b[31m", "label": "right", "kind": "\x1b[2J"}
    _, said = typed("--file", write_rows(tmp_path / "a.jsonl", [row]))
    assert "\x1b" not in said
    assert "\\x1b[31m" in said


def test_pairs_come_from_csv_and_parquet_under_names_of_their_own(tmp_path: Path) -> None:
    table = {"reference": ["1/2", "3"], "reply": ["0.5", "4"], "ok": [True, False]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("reference,reply,ok\n1/2,0.5,1\n3,4,0\n")
    columns = chosen_columns(["gold=reference", "answer=reply", "label=ok"])
    for name in ("a.parquet", "a.csv"):
        pairs = list(labelled_pairs(tmp_path / name, columns))
        assert [(p.problem.gold, p.completion, p.is_right, p.kind) for p in pairs] == [
            ("1/2", r"\boxed{0.5}", True, "all"),
            ("3", r"\boxed{4}", False, "all"),
        ]


@pytest.mark.parametrize("label", [*LABELS, True, False, 1, 0, 1.0, " Right "])
def test_labels_are_words_booleans_or_digits(tmp_path: Path, label: object) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"gold": "5", "answer": "5", "label": label}])
    (pair,) = labelled_pairs(path)
    assert pair.is_right is (str(label).strip().lower() in (*list(LABELS)[:5], "1.0"))


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"gold": "5", "answer": "5"}, (), "a.jsonl:2: no column 'label'; there are answer, gold;"),
        ({"gold": "5", "answer": "5", "label": "rihgt"}, (), "a.jsonl:2: label 'rihgt' is neither"),
        ({"gold": "5", "label": True}, (), "a.jsonl:2: no column 'completion'"),
        ({"gold": "5", "completion": None, "label": True}, (), "a.jsonl:2: the completion is no t"),
        ({"answer": "5", "label": True}, (), "a.jsonl:2: gold missing"),
        (
            ROWS[0],
            ("--column", "gold=q"),
            "a.jsonl:1: no column 'q' for gold; there are answer, gold",
        ),
        (ROWS[0], ("--column", "gold=glod"), "did you mean 'gold'?"),
        (ROWS[0], ("--column", "glod=a"), "did you mean 'gold=...'?"),
        (ROWS[0], ("--column", "gold=gold", "--column", "gold=kind"), "is given twice"),
        (ROWS[0], ("--column", "answer=a", "--column", "completion=b"), "are both given"),
        (ROWS[0] | {"task": "maths"}, (), "a.jsonl:2: unknown task 'maths'; did you mean 'math'?"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_with_its_place(
    tmp_path: Path, row: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [ROWS[0], row])
    code, said = typed("--file", path, *options)
    assert code in (1, 7)
    assert message in said


def test_columns_without_a_file_are_refused() -> None:
    code, said = typed("--column", "gold=reference")
    assert code == 2
    assert "--file" in said


def test_a_verifier_that_is_late_or_fails_has_refused() -> None:
    hostile = Pair(Problem("", "math", "", "5"), r"\boxed{9^{9^{9^{9}}}}", True, "all", "a:1")
    report = audit(lambda: iter([hostile]), timeout_s=1.0)
    assert report["verdicts"]["math-verify"] == {"timeout": 1}
    assert counts(report["total"]["math-verify"]) == (0, 0, 1, 1)
    close_shared()


def test_math_verify_is_not_asked_of_tasks_that_it_does_not_know() -> None:
    problem = Problem("", "word", "", "even", checker="word")
    report = audit(lambda: iter([Pair(problem, r"\boxed{even}", True, "all", "a:1")]))
    assert report["num_not_asked"] == {"r1pipe": 0, "math-verify": 1}
    assert counts(report["total"]["math-verify"]) == (0, 0, 0, 0)
    assert any(line.startswith("math-verify: 1 not asked; ") for line in audit_lines(report))


def test_plain_math_verify_in_a_worker_says_what_it_says_alone() -> None:
    from math_verify import parse, verify

    cases = [("5", r"\boxed{5.0}"), ("x+3", r"\boxed{x+3c}"), ("1/2", "so 0.5"), ("2", "none")]
    alone = [verify(parse(f"\\boxed{{{gold}}}"), parse(text)) for gold, text in cases]
    pairs = [(Problem("", "math", "", gold), text) for gold, text in cases]
    assert [said == "correct" for said in plain_stream(pairs, 1, 3.0)] == alone
    assert set(alone) == {True, False}


def test_an_audit_holds_a_window_of_the_pairs_however_many_there_are() -> None:
    problem, read, most = Problem("", "math", "", "5"), 0, 0

    def pairs() -> Iterator[Pair]:
        nonlocal read
        for read in range(1, 3 * WINDOW + 1):  # noqa: B007 - the count is looked at below
            yield Pair(problem, r"\boxed{5}", True, "all", "a:1")

    for number, _, _ in _in_step(pairs, verify_stream):
        most = max(most, read - number)
    assert read == 3 * WINDOW
    assert most <= WINDOW + 1


def test_rates_come_with_wilson_intervals() -> None:
    # 1 error in 10: Wilson 95 % is 0.0179 to 0.4042 (Newcombe 1998, formula 3)
    assert Rate(1, 10).interval() == pytest.approx((0.0179, 0.4042), abs=5e-5)
    assert Rate(0, 10).interval() == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert Rate(0, 0).row()["rate"] == 0.0
