"""Attacks on the sandbox: with all layers, with each taken away, as root and as another user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from attack_sandbox import attack
from sandbox_attacks import ATTACKS, FAMILIES

from r1pipe.records import Problem, Verdict
from r1pipe.sandbox.layers import OUTER, REQUIRED, missing
from r1pipe.sandbox.sandbox import run_python
from r1pipe.sandbox.session import Limits, Sandbox, Status
from r1pipe.verify import verify

ROOT = Path(__file__).resolve().parents[1]
MOUNTS = {"files: installed packages", "left: files beyond the total", "left: many small files"}
CALLS = {
    "files: a namespace of its own",
    "left: a key",
    "network: settings of the network",
    *(f"kernel: {name}" for name in FAMILIES["kernel"]),
}
ONE_LAYER_ONLY = {"mounts": MOUNTS, "system_calls": CALLS}
"""What is defended by one layer alone: it gets in when that layer is taken away."""


@pytest.fixture(scope="module")
def warm() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def _is_full() -> None:
    if gone := missing(run_python("pass").layers):
        pytest.skip(f"this machine lacks {', '.join(gone)}")


def test_there_are_at_least_sixty_attacks() -> None:
    assert len(ATTACKS) >= 60


@pytest.mark.usefixtures("_is_full")
@pytest.mark.parametrize("layer", ["", *REQUIRED, OUTER])
def test_what_one_layer_misses_another_one_stops(layer: str) -> None:
    found = attack([layer] if layer else [])
    allowed = ONE_LAYER_ONLY.get(layer, set())
    if {"mounts"} & set(missing(found.layers)):  # an ordinary user has no others without users
        allowed = allowed | MOUNTS
    assert set(found.got_in) <= allowed
    assert found.broke == []
    assert found.num_tried == len(ATTACKS)
    assert not layer or not found.layers[layer]


@pytest.mark.usefixtures("_is_full")
@pytest.mark.parametrize("layer", ["", "system_calls"])
def test_what_root_starts_an_ordinary_user_may_start_too(layer: str) -> None:
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user")
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    script = [python, "-B", str(ROOT / "benchmarks" / "attack_sandbox.py"), "--json"]
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    probe = [*user, python, "-c", f"open({str(script[2])!r}); {code}"]
    if subprocess.run(probe, capture_output=True, check=False, cwd="/").returncode:
        pytest.skip("another user has no Python here that can read this file")
    done = subprocess.run(
        [*user, *script, "--without", layer], capture_output=True, text=True, check=False, cwd="/"
    )
    (row,) = json.loads(done.stdout)
    assert missing(row["layers"]) == ([layer] if layer else []), done.stderr
    assert set(row["got_in"]) <= ONE_LAYER_ONLY.get(layer, set())
    assert row["num_tried"] == len(ATTACKS)


def test_the_attacks_get_in_where_there_is_no_layer() -> None:
    names = [f"{family}: {name}" for family in ("files", "network") for name in FAMILIES[family]]
    names += ["processes: kill", "processes: stop", "processes: limit another"]
    found = attack(
        [*REQUIRED, OUTER], [*names, "left: shared memory", "left: files beyond the total"]
    )
    assert len(found.got_in) >= 35, sorted({*names} - {*found.got_in})


# ---- what a program returns ends no run ----------------------------------------------------------

DEEP = "x = []\nfor _ in range(20_000): x = [x]\nf = lambda: x"
DEEP_TEXT = "import os\nos.write(3, b'{\"value\": ' + b'[' * 20_000 + b']' * 20_000 + b'}\\n')\n"
NESTED = "import os\nfor _ in range(3_000):\n    os.mkdir('d')\n    os.chdir('d')\n"
FAULTS: dict[str, tuple[str, list[str] | None, Status]] = {
    "the old exit status of a failed start": ("raise SystemExit(113)", None, Status.FAILED),
    "that status at once": ("import os; os._exit(113)", None, Status.FAILED),
    "an exit with text": ("raise SystemExit('no')", None, Status.FAILED),
    "an exit with nothing": ("raise SystemExit", None, Status.OK),
    "a large status": ("raise SystemExit(10 ** 30)", None, Status.FAILED),
    "a deep value": (DEEP, ["f()"], Status.FAILED),
    "a deep value by itself": (DEEP_TEXT + "f = 1", ["f"], Status.FAILED),
    "no JSON": ("import os\nos.write(3, b'\\xff\\x00{')\n", ["1"], Status.FAILED),
    "another object": ("import os\nos.write(3, b'{\"values\": 1}\\n')\n", ["1"], Status.FAILED),
    "a number too long to read": ("import os\nos.write(3, b'9' * 9_999)\n", ["1"], Status.FAILED),
    "a set": ("f = lambda: {1}", ["f()"], Status.FAILED),
    "not a number": ("f = lambda: float('nan')", ["f()"], Status.OK),
    "half a surrogate": ("f = lambda: '\\ud800'", ["f()"], Status.OK),
    "half a surrogate printed": ("print('\\ud800')", None, Status.FAILED),
    "bytes that are no text": ("import os; os.write(1, b'\\xff\\xfe')", None, Status.OK),
    "nested folders": (NESTED, None, Status.OK),
    "a folder without rights": ("import os; os.mkdir('a', 0); os.umask(0o777)", None, Status.OK),
    "no descriptors": ("import os; os.closerange(0, 64)", None, Status.OK),
    "a segmentation fault": ("import ctypes; ctypes.string_at(0)", None, Status.FAILED),
    "abort": ("import os; os.abort()", None, Status.FAILED),
    "stack without end": (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(s): return repr(s)\n"
        "repr(A())",
        None,
        Status.FAILED,
    ),
    "patched modules": (
        "import os, json, sys\nos._exit = os.write = json.dumps = None\nsys.stdout = None",
        None,
        Status.FAILED,
    ),
    "an exit handler": ("import atexit, os; atexit.register(os._exit, 0); 1 / 0", None, Status.OK),
    "a hook": ("import sys; sys.excepthook = None; 1 / 0", None, Status.FAILED),
    "files named as the sandbox's": (
        "open('program.py', 'w'); open('.stdin', 'w')",
        None,
        Status.OK,
    ),
    "threads": (
        "import threading, time\nthreading.stack_size(1 << 16)\nfor _ in range(5_000):\n"
        "    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()",
        None,
        Status.FAILED,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_program_is_an_outcome(name: str, warm: Sandbox) -> None:
    program, calls, status = FAULTS[name]
    outcome = run_python(program, calls=calls, sandbox=warm, limits=Limits(wall_s=4.0, cpu_s=3))
    assert outcome.status is status, outcome
    assert run_python("print(input())", "7", sandbox=warm).stdout == "7\n"


def test_many_calls_fit() -> None:
    calls = [f"f({number}, {'1' * 40})" for number in range(20_000)]
    outcome = run_python("f = lambda a, b: a", calls=calls)
    assert outcome.values == list(range(20_000))


def test_a_sandbox_that_was_killed_is_replaced(warm: Sandbox) -> None:
    assert run_python("pass", sandbox=warm).status is Status.OK
    os.killpg(warm.pid, 9)
    assert run_python("print(1)", sandbox=warm).stdout == "1\n"


def block(program: str) -> str:
    return f"<think>a</think>\n```python\n{program}\n```"


UNREADABLE: list[dict[str, Any]] = [
    {"tests": 1},
    {"tests": [1]},
    {"tests": [{"input": 1, "output": "1"}]},
    {"tests": [{"input": "1"}]},
    {"tests": [{"output": None}]},
    {"tests": [{"output": "1", "files": {"../a": "x"}}]},
    {"tests": [{"output": "1", "files": {"a/b": "x"}}]},
    {"tests": [{"output": "1", "files": ["a"]}]},
    {"tests": [{"output": "1", "output_files": {"a": 1}}]},
    {"calls": [{"call": 1, "expected": 1}]},
    {"calls": [{"call": "1"}]},
    {"calls": "abc"},
    {"tests": [{"output": "1"}], "wall_s": "1"},
    {"tests": [{"output": "1"}], "wall_s": float("nan")},
    {"tests": [{"output": "1"}], "wall_s": 1e9},
    {"tests": [{"output": "1"}], "tolerance": True},
    {"tests": [{"output": "1"}], "language": "cobol"},
    {"tests": [{"output": "1"}], "language": ["python"]},
    {"calls": [{"call": "1", "expected": 1}], "language": "cpp"},
    {},
]


@pytest.mark.parametrize("meta", UNREADABLE, ids=str)
def test_tests_that_cannot_be_read_are_the_problems_fault(meta: dict[str, Any]) -> None:
    problem = Problem("p", "code", "", "", checker="code", meta=meta)
    assert verify(problem, block("print(1)")) is Verdict.GOLD_UNUSABLE
