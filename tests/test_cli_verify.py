"""`r1pipe verify` and `r1pipe audit`, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from r1pipe.cli.table import app
from r1pipe.records import Problem, Verdict
from r1pipe.verify import verify
from r1pipe.verify.workers.pool import Promise


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
    assert code == 1
    assert "b.jsonl:1: byte 0xe9 (number 33 of the row) is not UTF-8; save it as" in said


def test_a_misspelt_task_of_a_case_is_refused(tmp_path: Path) -> None:
    case = '{"gold": "6", "completion": "6", "task": "coutdown"}'
    code, said = verify_file(tmp_path / "a.jsonl", case.encode())
    assert code == 1
    assert "a.jsonl:1: unknown task 'coutdown'; did you mean 'countdown'?" in said


GOOD = {"gold": "5", "completion": "\\boxed{5}"}
COUNTDOWN = {
    "task": "countdown",
    "gold": "",
    "numbers": [3, 4],
    "target": 7,
    "completion": "\\boxed{3+4}",
}
PROGRAM = "```python\nprint(input())\n```"
CODE = {"task": "code", "gold": "", "completion": PROGRAM}
TESTS = [{"input": "5", "output": "5"}]
BAD_LINES: list[tuple[bytes | dict[str, Any], str]] = [
    (b'{"a":' * 50_000 + b"}" * 50_000, "it is nested too deeply"),
    (b"[" * 100_000, "it is nested too deeply"),
    (b'{"gold": "5", "completion": "caf\xe9"}', "byte 0xe9 (number 33 of the row) is not UTF-8"),
    (b'{"gold": "5", "completion": "\xff\xfe"}', "is not UTF-8"),
    (b'{"gold": "5", "completion": "\\ud83d"}', "half of a character"),
    (b'{"gold": "5", "completion"', "it is not JSON"),
    (b'{"gold": ' + b"9" * 10_000 + b', "completion": "5"}', "Exceeds the limit"),
    (b"[1, 2]", "it is an array, not an object"),
    (b"null", "it is null, not an object"),
    ({"gold": "5"}, "completion missing"),
    ({"completion": "5"}, "gold missing"),
    (GOOD | {"completion": None}, "the completion is no text"),
    (GOOD | {"gold": None}, "no gold answer, but 'None'"),
    (GOOD | {"gold": None, "task": "choice"}, "no gold answer, but 'None'"),
    (GOOD | {"gold": ["5"], "task": "contains"}, "no gold answer"),
    (GOOD | {"gold": " "}, "no gold answer"),
    (GOOD | {"task": "coutdown"}, "unknown task 'coutdown'; did you mean 'countdown'?"),
    (GOOD | {"task": {"a": 1}}, "unknown task"),
    (COUNTDOWN | {"numbers": 8}, "numbers should be a list of numbers"),
    (COUNTDOWN | {"numbers": None}, "numbers should be a list of numbers"),
    (COUNTDOWN | {"numbers": [3, [4]]}, "numbers should be a list of numbers"),
    (COUNTDOWN | {"numbers": ["3", "four"]}, "numbers should be plain numbers"),
    (COUNTDOWN | {"target": "1e999999999"}, "target should be plain numbers of few digits"),
    (COUNTDOWN | {"target": None}, "target should be plain numbers"),
    (GOOD | {"task": "choice", "gold": "A", "options": "abc"}, "options should be a list of texts"),
    (GOOD | {"task": "refusal", "refusal": [1]}, "refusal should be a list of texts"),
    (CODE | {"tests": 5}, "tests should be a list of objects"),
    (CODE | {"tests": ["5"]}, "tests should be a list of objects"),
    (CODE | {"tests": TESTS, "wall_s": "long"}, "wall_s should be seconds"),
    (CODE | {"tests": TESTS, "wall_s": -1}, "wall_s should be seconds"),
]


def test_no_bad_line_ends_a_file_and_each_is_named(tmp_path: Path) -> None:
    lines: list[bytes] = []
    for bad, _ in BAD_LINES:
        lines.append(json.dumps(GOOD).encode())
        lines.append(bad if isinstance(bad, bytes) else json.dumps(bad).encode())
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*lines, json.dumps(COUNTDOWN).encode(), b""]))
    done = CliRunner().invoke(app, ["verify", "--file", str(path)])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 * len(BAD_LINES) + 1
    assert {row["verdict"] for row in rows[::2]} == {"correct"}
    for place, ((_, said), row) in enumerate(zip(BAD_LINES, rows[1::2], strict=True), start=1):
        assert row["error"].startswith(f"a.jsonl:{2 * place}: "), row
        assert said in row["error"], row
    counts = f"{len(BAD_LINES)} of {len(rows)} rows are no cases; the first: a.jsonl:2:"
    assert str(done.exception).startswith(counts)


@pytest.mark.parametrize(
    "tests", [[{"input": 5, "output": "5"}], [{"input": "5", "expected": "5"}], [{"input": "5"}]]
)
def test_tests_that_the_checker_cannot_read_are_no_traceback(tmp_path: Path, tests: object) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(CODE | {"tests": tests}) + "\n" + json.dumps(GOOD) + "\n")
    done = CliRunner().invoke(app, ["verify", "--file", str(path)])
    first, second = map(json.loads, done.stdout.splitlines())
    assert "a.jsonl:1: it cannot be verified" in first.get("error", "") or (
        first["verdict"] == "gold_unusable"
    )
    assert second["verdict"] == "correct"


def test_the_time_of_a_program_is_the_cases_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Problem] = []

    def start(problem: Problem, text: str) -> Promise:
        asked.append(problem)
        promise = Promise()
        promise.set_result(Verdict.CORRECT)
        return promise

    monkeypatch.setattr("r1pipe.verify.checkers.code.start", start)
    (tmp_path / "a.jsonl").write_text(json.dumps(CODE | {"tests": TESTS, "wall_s": 0.5}))
    assert CliRunner().invoke(app, ["verify", "--file", str(tmp_path / "a.jsonl")]).exit_code == 0
    assert asked[0].meta["wall_s"] == 0.5


def test_a_broken_file_of_another_format_keeps_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'[{json.dumps(GOOD)}, {json.dumps(GOOD)}, {{"gold"')
    done = CliRunner().invoke(app, ["verify", "--file", str(path)])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("verdict") for row in rows] == ["correct", "correct", None]
    assert "a.json:3: it is not JSON" in rows[2]["error"]


@pytest.mark.parametrize(
    "target", ["1e999999999", "9" * 5000, "7/0", [], None, True, "inf", "\u0667"]
)
def test_a_target_of_countdown_that_is_no_plain_number_is_unusable(target: object) -> None:
    meta = {"numbers": [3, 4], "target": target}
    problem = Problem("1", "countdown", "", "", checker="countdown", meta=meta)
    assert verify(problem, "<answer>3+4</answer>") is Verdict.GOLD_UNUSABLE
