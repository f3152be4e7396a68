"""What differs between the versions of vLLM that are known."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from r1pipe.generate.vllm_setup import import_vllm, keep_groups

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]


def test_an_executor_of_ranks_that_ends_its_groups_leaves_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_vllm("cpu")
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher, UniProcExecutor

    ended: list[str] = []

    def shutdown(self: Any) -> None:  # vLLM 0.33 has one such, 0.32 none of its own
        UniProcExecutor.shutdown(self)
        ended.append("groups")

    monkeypatch.setattr(ExecutorWithExternalLauncher, "shutdown", shutdown)
    executor: Any = object.__new__(ExecutorWithExternalLauncher)
    executor.driver_worker = SimpleNamespace(shutdown=lambda: ended.append("worker"))
    executor.shutdown()
    assert ended == ["worker", "groups"]
    keep_groups()
    executor.shutdown()
    assert ended == ["worker", "groups", "worker"]
