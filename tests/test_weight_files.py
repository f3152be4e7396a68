"""Weights on their way to another process: bounded files in shared memory, gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EIO, ENOSPC
from pathlib import Path
from types import SimpleNamespace
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


def test_a_model_that_does_not_fit_is_told_before_anything_is_written(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = SimpleNamespace(total=2048, free=1279)
    monkeypatch.setattr("shutil.disk_usage", lambda path: there)
    asked = list[str]()

    def given() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in TENSORS.items():
            asked.append(name)
            yield name, tensor

    message = (
        r"has 1\.2 KiB free of 2\.0 KiB, and all weights of the policy, 1\.2 KiB, .*--shm-size"
    )
    with pytest.raises(StageError, match=message), weight_files(given(), 5 * 64) as paths:
        list(paths)
    assert asked == ["w0"], "float32: 5 x 64 x 4 bytes are 1,280"
    assert list(shared_memory.iterdir()) == []
    there.free = 1280
    with weight_files(TENSORS.items(), 5 * 64) as paths:
        assert len(list(paths)) == 3
    there.free = 600
    with weight_files(TENSORS.items()) as paths:
        assert next(paths), "one file after another needs no room for all"


def test_another_fault_of_a_disk_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensors: Any, path: Path) -> None:
        raise OSError(EIO, os.strerror(EIO))

    monkeypatch.setattr(weights, "save_file", broken)
    with pytest.raises(OSError, match="Input/output"), weight_files(TENSORS.items()) as paths:
        list(paths)
