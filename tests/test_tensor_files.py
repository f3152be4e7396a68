"""Copies of safetensors files with a description."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from r1pipe.errors import DamagedError
from r1pipe.files.tensor_files import copy_described
from r1pipe.keys import digest_file

TENSORS = {"b": torch.arange(6, dtype=torch.bfloat16).view(2, 3), "a": torch.ones(3)}


def test_a_copy_has_the_description_and_the_same_tensors(tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(TENSORS, source, {"format": "pt", "r1pipe.artifact": "an older one"})
    said = {"r1pipe.artifact": "7f3a", "r1pipe.kind": 'a "quoted" \u00e9\n'}
    assert copy_described(source, target, said) == digest_file(source)
    with safe_open(target, framework="pt") as file:
        assert file.metadata() == {"format": "pt"} | said
    found = load_file(target)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert [found[name].dtype for name in TENSORS] == [t.dtype for t in TENSORS.values()]
    length = int.from_bytes(target.read_bytes()[:8], "little")
    assert length % 8 == 0, "tensors are aligned"
    with pytest.raises(FileExistsError):
        copy_described(source, target, said)


def test_a_file_without_metadata_gets_it(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a")
    copy_described(tmp_path / "a", tmp_path / "b", {"x": "y"})
    with safe_open(tmp_path / "b", framework="pt") as file:
        assert file.metadata()["x"] == "y"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\0\0\0\0\0\0\0",
        b"\x02\0\0\0\0\0\0\0[]",
        b"\xff" * 32,
        b"\x12\0\0\0\0\0\0\0" + b'{"__metadata__":1}',
        b"\x08\0\0\0\0\0\0\0" + b"{" * 8,
    ],
)
def test_what_is_no_such_file_is_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DamagedError, match=r"no safetensors file|is no object"):
        copy_described(tmp_path / "a", tmp_path / "b", {})
