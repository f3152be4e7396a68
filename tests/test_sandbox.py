"""The sandbox and the code checker: what programs may do, and a table of cheats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from r1pipe.records import Problem, Verdict
from r1pipe.rewards.table import REWARDS
from r1pipe.sandbox.sandbox import run_python
from r1pipe.sandbox.session import Limits, Status
from r1pipe.verify import verify
from r1pipe.verify.code import extract_program

SHORT = Limits(wall_s=1.0, cpu_s=1)


def test_a_program_reads_stdin_and_prints() -> None:
    outcome = run_python("print(input() * 2)", "ab")
    assert (outcome.status, outcome.stdout) == (Status.OK, "abab\n")


def test_calls_return_json_values() -> None:
    outcome = run_python("def f(x): return [x, {'k': None}]", calls=["f(1)", "f('a')"])
    assert outcome.values == [[1, {"k": None}], ["a", {"k": None}]]


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import os, time; os.close(1); os.close(2); time.sleep(60)",
        "9**9**9",
        "import signal, time\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ntime.sleep(60)",
    ],
)
def test_a_program_that_does_not_end_is_ended(program: str) -> None:
    assert run_python(program, limits=SHORT).status is Status.TIMEOUT


def test_output_is_capped() -> None:
    outcome = run_python("while True: print('y' * 100)", limits=Limits(output_bytes=10_000))
    assert outcome.status is Status.TOO_MUCH_OUTPUT
    assert len(outcome.stdout) <= 10_000


@pytest.mark.parametrize(
    "program",
    [
        "x = 'x' * 10**10",
        "x = [0] * 10**9",
        "open('big', 'w').write('x' * 10**8)",
        "raise SystemExit(3)",
        "import nothing_of_this_name",
        "def f(:",
        "\x00",
    ],
)
def test_a_program_that_fails_says_so(program: str) -> None:
    assert run_python(program, limits=SHORT).status is Status.FAILED


REFUSED = {
    "system_calls": [
        "import socket; socket.socket()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.setsid()",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
    ],
    "files": [
        "open('/etc/passwd').read()",
        "import os; os.listdir('/')",
        "open('/tmp/left-by-a-program', 'w')",
        "import os; os.mkdir('/tmp/left-by-a-program')",
        "import shutil; shutil.rmtree('/tmp')",
    ],
}


@pytest.mark.parametrize("layer", REFUSED)
def test_a_layer_that_holds_refuses(layer: str) -> None:
    if not run_python("pass").layers[layer]:
        pytest.skip(f"this system has no {layer} isolation")
    for program in REFUSED[layer]:
        assert run_python(program, limits=SHORT).status is Status.FAILED, program
    assert not Path("/tmp/left-by-a-program").exists()


def test_ordinary_programs_need_nothing_that_is_refused() -> None:
    program = (
        "import collections, decimal, fractions, heapq, itertools, json, math, random, re, sys\n"
        "import threading\n"
        "open('note.txt', 'w').write('kept')\n"
        "thread = threading.Thread(target=lambda: print(open('note.txt').read()))\n"
        "thread.start(); thread.join()\n"
        "sys.stdout.write(str(math.comb(5, 2)))\n"
    )
    outcome = run_python(program)
    assert (outcome.status, outcome.stdout) == (Status.OK, "kept\n10"), outcome.stderr


def test_the_callers_environment_does_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1PIPE_SECRET", "hidden")
    outcome = run_python("import os; print(dict(os.environ))")
    assert "hidden" not in outcome.stdout
    assert os.environ["R1PIPE_SECRET"] == "hidden"


DOUBLE = Problem(
    "p",
    "code",
    "Print twice the number.",
    "",
    checker="code",
    meta={"tests": [{"input": "2\n", "output": "4\n"}, {"input": "5\n", "output": "10"}]},
)
SQUARE = Problem(
    "q",
    "code",
    "Write f(x).",
    "",
    checker="code",
    meta={"calls": [{"call": "f(2)", "expected": 4}, {"call": "f(-3)", "expected": 9}]},
)


def block(program: str) -> str:
    return f"<think>\nhm\n</think>\n\nHere:\n```python\n{program}\n```\n"


def test_programs_that_pass_every_test_are_correct() -> None:
    assert verify(DOUBLE, block("print(int(input()) * 2)")) is Verdict.CORRECT
    assert verify(DOUBLE, block("print(int(input()) * 2, '  ')\nprint()")) is Verdict.CORRECT
    assert verify(SQUARE, block("def f(x):\n    return x * x")) is Verdict.CORRECT
    assert REWARDS["code"](SQUARE, block("f = lambda x: x**2")) == 1.0


CHEATS: dict[str, tuple[Problem, str]] = {
    "one case only": (DOUBLE, block("print(4)")),
    "every result": (DOUBLE, block("print(4)\nprint(10)")),
    "a line more": (DOUBLE, block("print(int(input()) * 2)\nprint('x')")),
    "a line less": (DOUBLE, block("input()")),
    "spaces inside": (DOUBLE, block("print(' ', int(input()) * 2)")),
    "no fence": (DOUBLE, "<think>a</think> print(int(input()) * 2)"),
    "in the thought": (DOUBLE, "<think>" + block("print(int(input()) * 2)") + "</think> done"),
    "an unclosed thought": (DOUBLE, "<think>```python\nprint(int(input())*2)\n```"),
    "an open fence": (DOUBLE, "<think>a</think>\n```python\nprint(int(input()) * 2)"),
    "another language": (DOUBLE, "<think>a</think>\n```cpp\nint main() {}\n```"),
    "an early exit": (SQUARE, block("def f(x): return x\nimport os; os._exit(0)")),
    "equal to everything": (
        SQUARE,
        block("class E:\n    def __eq__(self, other): return True\ndef f(x): return E()"),
    ),
    "an int that is equal to everything": (
        SQUARE,
        block("class E(int):\n    def __eq__(self, other): return True\ndef f(x): return E(7)"),
    ),
    "a report of its own": (
        SQUARE,
        block(
            "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'{\"value\": 4}\\n')\n"
            "    except OSError: pass\nf = lambda x: 4"
        ),
    ),
    "a patched encoder": (
        SQUARE,
        block("import json\njson.dumps = lambda value: '{\"value\": 4}'\nf = lambda x: 0"),
    ),
    "looks for the tests": (
        SQUARE,
        block("import sys, gc\nf = lambda x: next(o for o in gc.get_objects() if o == 4)"),
    ),
    "a boolean for a number": (
        Problem(
            "b", "code", "", "", checker="code", meta={"calls": [{"call": "f()", "expected": 1}]}
        ),
        block("f = lambda: True"),
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_code_cheat_earns_nothing(name: str) -> None:
    problem, text = CHEATS[name]
    assert verify(problem, text) is not Verdict.CORRECT
    assert REWARDS["code"](problem, text) == 0.0


def test_an_endless_program_is_a_timeout() -> None:
    problem = Problem("p", "code", "", "", checker="code", meta=dict(DOUBLE.meta) | {"wall_s": 0.5})
    assert verify(problem, block("while True: pass")) is Verdict.TIMEOUT


BLOCKS: list[tuple[str, str | None]] = [
    ("```python\na\n```", "a\n"),
    ("```\na\n```", "a\n"),
    ("```py\na\n```\ntext\n```python\nb\n```", "b\n"),
    ("```python\na\n```\n```text\n4\n```", "a\n"),
    ("```python\n```", None),
    ("`a`", None),
    ("a", None),
]


@pytest.mark.parametrize(("text", "program"), BLOCKS)
def test_the_last_python_block_is_the_program(text: str, program: str | None) -> None:
    assert extract_program(text) == program


@pytest.mark.timeout(60)  # quadratic time would be hours
def test_extraction_is_linear() -> None:
    for text in ("```python\n" * 100_000, "`" * 1_000_000, "```\n" * 200_001):
        extract_program(text)


def test_values_keep_their_types() -> None:
    checks: list[tuple[Any, str, bool]] = [
        ([1, 2], "(1, 2)", True),
        (1.0, "1", True),
        (None, "None", True),
        ({"a": [1]}, "{'a': [1]}", True),
        ("1", "1", False),
        ([1, 2], "[2, 1]", False),
    ]
    for expected, call, is_right in checks:
        meta = {"calls": [{"call": call, "expected": expected}]}
        problem = Problem("v", "code", "", "", checker="code", meta=meta)
        assert (verify(problem, block("pass")) is Verdict.CORRECT) == is_right, call
