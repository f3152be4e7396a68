"""The plan names bfloat16 and smaller batches where a processor would be idle without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_world import kind, manifest
from store_world import stage as node_of
from test_costs import HERE, MODEL, sampling, training

from r1pipe import machine
from r1pipe.costs.estimate import Estimator
from r1pipe.costs.hints import BFLOAT16_HINT, hints
from r1pipe.costs.work import Cost, Range, Training
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

    made = manifest(node_of("only", kind()._replace(cost=cost)))
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


TWO = Placement("transformers", threads=2)


def hinted(**work: Any) -> list[str]:
    return list(hints(Cost({}, **work), has_bfloat16=False))


def test_samplers_that_would_wait_are_told_with_the_batch_for_which_none_does() -> None:
    work = sampling(TWO, model=LARGE.model, completions=Range(30, 64), rounds=Range(1, 2))
    assert hinted(sampling=(replace(work, at_once=32),)) == [
        "32 completions at once are 1 batch, for 2 workers; set run.max_batch: 16, and each has one"
    ]
    two = replace(work, at_once=16)
    assert hinted(sampling=(two,)) == []
    four = replace(two, where=replace(TWO, threads=4))
    assert "are 2 batches, for 4 workers; set run.max_batch: 8," in hinted(sampling=(four,))[0]
    assert hinted(sampling=(replace(work, completions=Range(1), rounds=Range(1)),)) == []
    for other in (
        replace(work, model=MODEL),
        replace(work, where=replace(TWO, threads=1)),
        replace(work, where=replace(TWO, device="cuda")),
        replace(work, where=replace(TWO, is_server=True)),
    ):
        assert hinted(sampling=(other,)) == []


def test_trainers_that_would_wait_are_told_with_the_micro_batch_for_which_none_does() -> None:
    # 800 positions an update, in rows of 200
    update = {"tokens": Range(4000, 8000), "updates": Range(10), "mean_tokens": 200.0}
    work = training(replace(HERE, threads=2), model=LARGE.model, **update)
    (said,) = hinted(training=(replace(work, micro_batch_tokens=1000),))
    assert said == (
        "about 800 positions a step are 1 micro-batch, for 2 workers; set"
        " run.micro_batch_tokens: 400, and each has one"
    )
    assert hinted(training=(replace(work, micro_batch_tokens=400),)) == []
    one_row = replace(work, mean_tokens=800.0, micro_batch_tokens=1000)
    assert hinted(training=(one_row,)) == []


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
