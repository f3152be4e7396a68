"""Weights on their way to another process: bounded files in shared memory, gone afterwards."""

from __future__ import annotations

import os
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from r1pipe.errors import StageError
from r1pipe.generate import weights
from r1pipe.generate.weights import read_weights, weight_files

TENSORS = {f"w{number}": torch.full((64,), float(number)) for number in range(5)}


@pytest.fixture(autouse=True)
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", 500)  # two tensors of 256 bytes
    return tmp_path


def test_files_hold_every_tensor_and_are_gone_afterwards(shared_memory: Path) -> None:
    with weight_files(TENSORS.items()) as paths:
        names = list(paths)
        found = dict(read_weights(map(Path, names)))
    assert len(names) == 3
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert list(shared_memory.iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_shared_memory_that_is_full_is_named_with_what_to_do(
    kind: type[Exception], shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise kind(f"I/O error: {os.strerror(ENOSPC)} (os error {ENOSPC})")

    monkeypatch.setattr(weights, "save_file", full)
    message = rf"{shared_memory} has no room for 512 B of weights .*--shm-size=8g"
    with pytest.raises(StageError, match=message), weight_files(TENSORS.items()) as paths:
        list(paths)
    assert list(shared_memory.iterdir()) == []


def test_another_fault_of_a_disk_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensors: Any, path: Path) -> None:
        raise OSError(EIO, os.strerror(EIO))

    monkeypatch.setattr(weights, "save_file", broken)
    with pytest.raises(OSError, match="Input/output"), weight_files(TENSORS.items()) as paths:
        list(paths)
