"""`r1pipe export-gguf` calls llama.cpp's converter; a script with its arguments stands in for it.

One test runs the real one, where `LLAMA_CPP_DIR` names llama.cpp and `sentencepiece` is installed.
"""

from __future__ import annotations

import json
import os
import struct
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
from command import Run as RunCommand
from handed_world import handed
from safetensors.numpy import load_file

from r1pipe.api.results import Results
from r1pipe.cli.gguf_command import _check_rope
from r1pipe.errors import StageError
from r1pipe.models.tokenizer import SPLITS, split_of, train_tokenizer

GOOD = """
import argparse, json, os, pathlib

class ModelBase:
    pass

class TextModel(ModelBase):
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized")

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--outfile", type=pathlib.Path)
    parser.add_argument("--model-name")
    parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
    given = parser.parse_args()
    print("INFO\\x1b[2J: reading", flush=True)
    names = sorted(path.name for path in given.model.iterdir())
    told = {"outtype": given.outtype, "names": names, "offline": os.environ["HF_HUB_OFFLINE"]}
    told["pre"] = TextModel().get_vocab_base_pre(None)
    given.outfile.write_text(json.dumps(told))

if __name__ == "__main__":
    main()
"""
BAD = "import sys\nprint('Model Qwen9 is not supported')\nsys.exit(3)\n"


@cache
def known_tokenizer() -> Any:
    """Return a tokenizer that cuts text as one of llama.cpp's does."""
    return train_tokenizer(["ab 12+3 = ab", "12+3", "the sum of 12 and 3"], 300, "qwen2")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the models of the store that tokenizer."""
    monkeypatch.setattr(tiny, "tokenizer", known_tokenizer)


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
    assert (told["outtype"], told["offline"], told["pre"]) == ("q8_0", "1", "qwen2")
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
    script.write_text("def main(): pass\n")
    code, _, err = r1pipe("export-gguf", "zero", str(target), *store)
    assert code == 1
    assert f"{script}: has no get_vocab_base_pre, where the pre-tokenizer's name would be" in err
    script.write_text(GOOD.replace("given.outfile.write_text", "str"))
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
    assert "holds no model; name a stage that makes one" in err


def test_a_tokenizer_that_cuts_text_as_llama_cpp_cannot_is_refused_before_anything_is_run(
    tmp_path: Path, r1pipe: RunCommand, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "tokenizer", lambda: train_tokenizer(["ab 12"], 300))
    store = ("--store", str(handed(tmp_path)[1].root))
    code, out, err = r1pipe("export-gguf", "zero", str(tmp_path / "a.gguf"), *store)
    assert (code, out) == (3, "")
    assert "make the tokenizer with params.split: qwen2, or begin with import-model" in err


def test_the_two_ways_to_cut_text(tmp_path: Path) -> None:
    text = "ab 12+ -3  it's\n\\frac{x"
    known = {
        # a blank before a digit is a piece; operators in a row are one, with the blank before them
        "qwen2": ["ab", " ", "1", "2", "+", " -", "3", " ", " it", "'s", "\n", "\\frac", "{x"],
        "words": ["ab ", "1", "2", "+", " ", "-", "3", "  ", "it", "'", "s", "\n", "\\frac{", "x"],
    }
    for name, pieces in known.items():
        tokenizer = train_tokenizer([text], 300, name)  # type: ignore[arg-type]
        cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        assert [text[begin:end] for _, (begin, end) in cut] == pieces
        tokenizer.save_pretrained(tmp_path / name)
        assert split_of(tmp_path / name) == name
    file = tmp_path / "qwen2" / "tokenizer.json"
    file.write_text(file.read_text().replace(r"\\p{N}|", r"\\p{N}{1,3}|"))
    assert split_of(tmp_path / "qwen2") is None, "another pattern than ours"
    assert SPLITS["qwen2"] not in file.read_text()


def test_llama_cpps_own_converter_writes_the_tokens_and_the_weights(
    tmp_path: Path, r1pipe: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (place := os.environ.get("LLAMA_CPP_DIR")):
        pytest.skip("LLAMA_CPP_DIR names no llama.cpp")
    pytest.importorskip("sentencepiece", reason="the converter imports it")
    store = handed(tmp_path)[1]
    where = (str(tmp_path / "a.gguf"), "--store", str(store.root))
    code, _, err = r1pipe("export-gguf", "zero", *where)
    assert code == 0, err
    monkeypatch.syspath_prepend(str(Path(place) / "gguf-py"))
    gguf = import_module("gguf")
    read = gguf.GGUFReader(tmp_path / "a.gguf")
    field = {name: value.contents() for name, value in read.fields.items()}
    tokenizer = known_tokenizer()
    vocab = tokenizer.get_vocab()
    assert (field["general.architecture"], field["general.name"]) == ("qwen3", "zero")
    assert field["tokenizer.ggml.pre"] == "qwen2"
    assert field["tokenizer.ggml.tokens"] == sorted(vocab, key=vocab.__getitem__)
    assert field["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert field["tokenizer.chat_template"] == tokenizer.chat_template
    model = load_file(Results(store)["zero"].model_folder() / "model.safetensors")
    for tensor in read.tensors:
        name = tensor.name.replace("blk.1.ffn_up", "model.layers.1.mlp.up_proj")
        name = name.replace("token_embd", "model.embed_tokens")
        if name in model:
            assert (tensor.data == model.pop(name)).all(), name
    assert len(model) == len(read.tensors) - 2
