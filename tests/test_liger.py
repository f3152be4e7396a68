"""Kernels of liger-kernel, as far as that can be told without a GPU: which models get them."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny import model

from r1pipe.engine_settings import EngineRun
from r1pipe.train.backends import prepare_model
from r1pipe.train.torch_backend import TorchSettings

RUN = EngineRun(device="cuda", engine=TorchSettings(kernels="liger"))


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for liger-kernel, which knows two types of models; return what was done."""
    done = list[Any]()
    package, patches = ModuleType("liger_kernel"), ModuleType("monkey_patch")
    package.__spec__ = importlib.machinery.ModuleSpec("liger_kernel", None)
    vars(patches)["MODEL_TYPE_TO_APPLY_LIGER_FN"] = {"qwen3": None, "llama": None}
    for name, module in (("", package), (".transformers", package), (".monkey_patch", patches)):
        path = "liger_kernel" + (".transformers" if name == ".monkey_patch" else "") + name
        monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.setattr(
        "transformers.integrations.liger.apply_liger_kernel",
        lambda policy, config: done.append((policy, config)),
    )
    return done


def test_a_model_that_liger_knows_gets_its_kernels_but_not_its_loss(applied: list[Any]) -> None:
    policy, said = model(), list[str]()
    prepare_model(policy, RUN, said.append)
    assert applied == [
        (policy, {"cross_entropy": False, "fused_linear_cross_entropy": False}),
    ]
    assert not said


def test_a_model_that_liger_does_not_know_is_told(applied: list[Any]) -> None:
    policy: Any = SimpleNamespace(config=SimpleNamespace(model_type="new\x1bkind"))
    said = list[str]()
    prepare_model(policy, RUN, said.append)
    assert not applied
    assert said == [
        "run.engine.kernels: liger has none for models of type new\\x1bkind, which is trained with"
        " PyTorch's (set torch); it knows llama, qwen3"
    ]
