"""Every method on two DeepSpeed ranks: the losses and weights of one process."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from methods_on_ranks import METHODS, prepare, train
from on_ranks import call_on_ranks
from safetensors.torch import load_file
from tiny import FakeContext

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
]


class Trained(NamedTuple):
    """What two ranks made of all methods: models in a folder, and what was logged, by step."""

    folder: Path
    logged: dict[int, dict[str, float]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Start two ranks once, which train by one method after the other."""
    folder = tmp_path_factory.mktemp("methods")
    prepare(folder)
    _, console = call_on_ranks("methods_on_ranks:train_all", 2, folder, {"folder": folder})
    return Trained(folder, console.logged)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_have_the_losses_and_weights_of_one_process(two: Trained, name: str) -> None:
    alone = FakeContext(two.folder / "alone" / name)
    whole = load_file(train(name, alone, two.folder, {"backend": "torch"}) / "model.safetensors")
    assert len(alone.logged) == 2
    for expected in alone.logged:
        found = {
            key.removeprefix(f"{name} "): value
            for key, value in two.logged[int(expected["step"])].items()
            if key.startswith(f"{name} ")
        }
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3, abs=1e-4)
        for same in {"reward", "draws", "revealed_frac", "accuracy"} & expected.keys():
            assert found[same] == pytest.approx(expected[same], abs=1e-6), same
    made = load_file(two.folder / "work" / name / "out" / "model" / "model.safetensors")
    base = load_file(two.folder / "model" / "model.safetensors")
    moved = max(float((weight - base[n]).abs().max()) for n, weight in whole.items() if n in base)
    assert moved > 1e-3, "weights that do not move show nothing"
    assert made.keys() == whole.keys()
    for n, weight in whole.items():
        torch.testing.assert_close(made[n], weight, rtol=0, atol=2e-4, msg=n)
