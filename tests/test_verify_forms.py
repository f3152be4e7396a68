"""The verifier alone, and the table of its page: which function reads a form, which compares it."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from r1pipe.records import Verdict
from r1pipe.verify import checkers, close_shared, equivalence, verify
from r1pipe.verify.workers import symbolic

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "verifier.md").read_text("utf-8")
TABLE = PAGE.partition("| form | gold answer |")[2].partition("\n\n")[0].splitlines()[2:]
FORMS = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in TABLE]
"""Form, gold answer, another spelling, reader, comparer."""


def returned(gold: str, answer: str) -> dict[str, list[object]]:
    """Verify a pair in this process; return what each function of the verifier returned."""
    found: dict[str, list[object]] = {}

    def note(frame: FrameType, event: str, value: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        if event == "return" and module.startswith("r1pipe.verify."):
            name = f"{module.removeprefix('r1pipe.verify.')}:{frame.f_code.co_qualname}"
            found.setdefault(name, []).append(value)

    forget()
    sys.setprofile(note)
    try:
        is_right = equivalence.decide(gold, answer)
        if is_right is None:
            is_right = symbolic.verdict(gold, answer) == "correct"
    finally:
        sys.setprofile(None)
    assert is_right is True
    return found


def forget() -> None:
    """Empty the verifier's caches: what is cached returns nothing that could be noted."""
    for name, module in list(sys.modules.items()):
        if name.startswith("r1pipe.verify"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def test_the_table_has_the_forms_of_the_contract() -> None:
    assert len(FORMS) >= 20
    assert {len(row) for row in FORMS} == {5}


@pytest.mark.parametrize("row", FORMS, ids=lambda row: row[0])
def test_a_form_is_read_and_compared_where_the_page_says(row: list[str]) -> None:
    _, gold, answer, reader, comparer = row
    found = returned(gold, answer)
    assert any(value not in (None, False, []) for value in found.get(reader, ())), sorted(found)
    assert True in found.get(comparer, ()), sorted(found)


def test_the_verifier_alone_loads_neither_pytorch_nor_transformers_nor_algebra() -> None:
    script = (
        "import sys\n"
        "from r1pipe.verify import close_shared, verify\n"
        r"said = [verify('\\frac{1}{2}', '\\boxed{0.5}'), verify('x^2-1', '\\boxed{(x-1)(x+1)}')]"
        "\nclose_shared()\n"
        "heavy = 'torch transformers datasets vllm sympy math_verify pyarrow numpy'.split()\n"
        "print([str(s) for s in said], [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "['correct', 'correct'] []", done.stderr


def test_the_examples_of_verify_are_true() -> None:
    assert doctest.testmod(checkers).failed == 0
    assert doctest.testmod(checkers).attempted >= 2


def test_a_gold_answer_stands_for_a_problem_in_mathematics() -> None:
    assert verify(r"\sqrt{8}", r"so $\boxed{2\sqrt{2}}$") is Verdict.CORRECT
    assert verify(r"\sqrt{8}", r"so $\boxed{2\sqrt{3}}$") is Verdict.WRONG
    close_shared()
