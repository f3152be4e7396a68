"""The plan names bfloat16 where the processor has units for it and a model is large enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_world import kind, manifest
from store_world import stage as node_of
from test_costs import HERE, MODEL, training

from r1pipe import machine
from r1pipe.costs.estimate import BFLOAT16_HINT, Estimator
from r1pipe.costs.work import Cost, Training
from r1pipe.settings import Placement
from r1pipe.store.store import Store

MACHINE = machine.Machine("here", "a processor", 2, 64 << 30, has_bfloat16=True)
LARGE: Training = replace(
    training(), model=replace(MODEL, num_parameters=50_000_000, active_parameters=50_000_000)
)


def warnings(work: Training, where: machine.Machine, folder: Path) -> tuple[str, ...]:
    """Return what a plan warns of for a stage that does this work."""

    def cost(params: Any, run: Any, inputs: Any) -> Cost:
        return Cost({"data": training().model}, (work,))

    made = manifest(node_of("only", replace(kind(), cost=cost)))
    return Estimator(made, Store(folder), {}, None, where).estimate("only").warnings


def test_a_large_model_in_float32_is_told_of_bfloat16(tmp_path: Path) -> None:
    assert warnings(LARGE, MACHINE, tmp_path) == (BFLOAT16_HINT,)


@pytest.mark.parametrize(
    ("work", "where"),
    [
        (LARGE, replace(MACHINE, has_bfloat16=False)),
        (training(), MACHINE),  # a small model
        (replace(LARGE, where=replace(HERE, is_bf16=True)), MACHINE),
        (replace(LARGE, where=Placement("torch", "cuda")), MACHINE),
    ],
)
def test_nobody_else_is(tmp_path: Path, work: Training, where: machine.Machine) -> None:
    assert BFLOAT16_HINT not in warnings(work, where, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: x\nflags\t\t: fpu avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16x\n", False),
        ("model name : bf16\n", False),
    ],
)
def test_the_processor_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.has_bfloat16_units() is expected
