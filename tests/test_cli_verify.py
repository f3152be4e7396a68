"""`r1pipe verify` and `r1pipe audit`, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
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


def verify_file(path: Path, data: bytes) -> tuple[int, str]:
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "r1pipe", "verify", "--file", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


CASE = '{"gold": "5", "completion": "caf\u00e9 \\\\boxed{5}"}\n'


def test_a_file_of_cases_may_have_a_byte_order_mark_and_is_utf_8(tmp_path: Path) -> None:
    code, said = verify_file(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + CASE.encode())
    assert (code, json.loads(said)["verdict"]) == (0, "correct")
    code, said = verify_file(tmp_path / "b.jsonl", CASE.encode("latin-1"))
    assert code == 7
    assert "b.jsonl: row 1: byte 0xe9 (number 33 of the row) is not UTF-8; save it as" in said


def test_a_misspelt_task_of_a_case_is_refused(tmp_path: Path) -> None:
    case = '{"gold": "6", "completion": "6", "task": "coutdown"}'
    code, said = verify_file(tmp_path / "a.jsonl", case.encode())
    assert code == 1
    assert "a.jsonl:1: unknown task 'coutdown'; did you mean 'countdown'?" in said
