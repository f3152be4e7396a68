"""`r1pipe verify` and `r1pipe audit`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from r1pipe.cli.table import app


def test_verify_judges_one_answer() -> None:
    done = CliRunner().invoke(app, ["verify", r"\frac{1}{2}", "0.5"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["verdict"] == "correct"


def test_verify_judges_a_file_of_cases_in_order(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    rows = [
        {"id": "a", "gold": "5", "completion": "<think>2+3</think> <answer>5</answer>"},
        {"id": "b", "gold": "5", "completion": "<think>2+3 is 5"},
        {"id": "c", "gold": "2", "completion": r"\boxed{3}"},
    ]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["verify", "--file", str(cases)])
    judged = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["id"], row["verdict"]) for row in judged] == [
        ("a", "correct"),
        ("b", "no_answer"),
        ("c", "wrong"),
    ]


def test_verify_without_an_answer_says_what_to_give() -> None:
    done = CliRunner().invoke(app, ["verify", "5"])
    assert done.exit_code == 2
    assert "GOLD and ANSWER" in done.output
