"""`r1pipe serve`: vLLM's command for a model of the store."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from command import Run
from handed_world import handed


def test_the_command_serves_the_sealed_model_on_this_machine_only(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = handed(tmp_path)[1]
    at = ("--store", str(store.root))
    folder = store.output_dir(store.resolve("zero"), "model")
    expected = ["vllm", "serve", str(folder), "--served-model-name", "zero"]
    expected += ["--host", "127.0.0.1", "--port", "9000"]
    assert shlex.split(r1pipe("serve", "zero", "--port", "9000", *at)[1]) == expected
    code, _, err = r1pipe("serve", "rows", *at)
    assert code == 3
    assert "holds no model; name a stage that makes one" in err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "vllm is not installed" in r1pipe("serve", "zero", "--run", *at)[2]
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda name, words: ran.append(words))
    r1pipe("serve", "zero", "--run", "--port", "9000", *at)
    assert ran == [expected]
