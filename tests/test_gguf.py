"""`r1pipe export-gguf` calls llama.cpp's converter; here a script with its arguments stands in."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from command import Run as RunCommand
from handed_world import handed

from r1pipe.cli.gguf_command import _check_rope
from r1pipe.errors import StageError

GOOD = """
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
given = parser.parse_args()
print("INFO\\x1b[2J: reading", flush=True)
names = sorted(path.name for path in given.model.iterdir())
told = {"outtype": given.outtype, "names": names, "offline": os.environ["HF_HUB_OFFLINE"]}
given.outfile.write_text(json.dumps(told))
"""
BAD = "import sys\nprint('Model Qwen9 is not supported')\nsys.exit(3)\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "llama.cpp" / "convert_hf_to_gguf.py"
    path.parent.mkdir()
    path.write_text(GOOD)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(path.parent))
    return path


def test_the_converter_is_given_the_models_folder_and_the_file_comes_whole(
    tmp_path: Path, r1pipe: RunCommand, script: Path
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    target = tmp_path / "new" / "zero.gguf"
    code, out, err = r1pipe("export-gguf", "zero", str(target), "--outtype", "q8_0", *store)
    assert (code, "\\x1b[2J: reading" in err) == (0, True), err
    assert out.startswith(f"{target}: zero as GGUF, ")
    told = json.loads(target.read_text())
    assert (told["outtype"], told["offline"]) == ("q8_0", "1")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*told["names"]}
    assert [path.name for path in target.parent.iterdir()] == ["zero.gguf"]
    code, _, err = r1pipe("export-gguf", "zero", str(target), *store)
    assert (code, err) == (3, f"{target} exists; name a new file\n")


def test_without_the_converter_it_is_said_how_to_have_it(
    tmp_path: Path, r1pipe: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    code, _, err = r1pipe("export-gguf", "zero", str(tmp_path / "a.gguf"), *store)
    assert code == 3
    assert "is not known here; git clone https://github.com/ggml-org/llama.cpp" in err
    wrong = ("--converter", str(tmp_path / "nowhere.py"))
    _, _, err = r1pipe("export-gguf", "zero", str(tmp_path / "a.gguf"), *wrong, *store)
    assert f"is not at {tmp_path / 'nowhere.py'}" in err


def test_a_converter_that_fails_leaves_no_file_and_says_why(
    tmp_path: Path, r1pipe: RunCommand, script: Path
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    script.write_text(BAD)
    target = tmp_path / "out" / "zero.gguf"
    code, _, err = r1pipe("export-gguf", "zero", str(target), *store)
    assert code == 1
    assert f"{script}: failed (3): Model Qwen9 is not supported" in err
    assert not any(target.parent.iterdir())
    script.write_text("")
    code, _, err = r1pipe("export-gguf", "zero", str(target), *store)
    assert code == 1
    assert "ended well, but wrote no" in err


def test_the_numbers_stay_as_the_model_has_them(
    tmp_path: Path, r1pipe: RunCommand, script: Path
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    assert r1pipe("export-gguf", "zero", str(tmp_path / "a.gguf"), *store)[0] == 0
    told = json.loads((tmp_path / "a.gguf").read_text())
    assert told["outtype"] == "f32", "the converter's own auto would make 16 bits of them"


def test_a_file_that_lacks_the_rotary_base_is_refused(tmp_path: Path, script: Path) -> None:
    file = tmp_path / "a.gguf"
    for theta, wrong in ((1e5, b""), (1e5, b"llama.rope.freq_base" + struct.pack("<If", 6, 1e4))):
        file.write_bytes(b"GGUF" + wrong)
        with pytest.raises(StageError, match="left out the model's rotary base, 100000, so that"):
            _check_rope(file, {"rope_parameters": {"rope_theta": theta}}, script)
    file.write_bytes(b"GGUF" + b"llama.rope.freq_base" + struct.pack("<If", 6, 1e5))
    for config in (
        {"rope_parameters": {"rope_theta": 1e5}},
        {"rope_parameters": {"rope_theta": 10_000}},
        {"rope_parameters": None},
        {},
    ):
        _check_rope(file, config, script)


def test_what_is_no_whole_model_is_refused(
    tmp_path: Path, r1pipe: RunCommand, script: Path
) -> None:
    root = handed(tmp_path)[1].root
    code, _, err = r1pipe("export-gguf", "rows", str(tmp_path / "a.gguf"), "--store", str(root))
    assert code == 3
    assert "holds 0 models" in err
