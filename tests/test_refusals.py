"""Folders of strangers: no code of theirs runs, nobody is asked, and each refusal is one line."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ROOT, save_policy

from r1pipe.errors import Interrupted, StageError
from r1pipe.models.policy import load_model, load_tokenizer, stored_end_ids
from r1pipe.models.refusals import refused_in_a_line

LOAD = """
import sys
from pathlib import Path
from r1pipe.errors import StageError
from r1pipe.models import policy
try:
    getattr(policy, sys.argv[2])(Path(sys.argv[1]))
except StageError as error:
    print(error)
"""
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class OddConfig(PretrainedConfig):
    model_type = "odd"
class OddModel(PreTrainedModel):
    config_class = OddConfig
class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_policy(tmp_path / "model")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("loader", ["load_model", "load_tokenizer"])
def test_code_of_a_folder_is_not_run_and_nobody_is_asked(folder: Path, loader: str) -> None:
    mark = folder.parent / "was-here"
    (folder / "odd.py").write_text(CODE.format(mark=str(mark)))
    auto = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    edit(folder / "config.json", model_type="odd", architectures=["OddModel"], auto_map=auto)
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="OddTokenizer",
        auto_map={"AutoTokenizer": [None, "odd.OddTokenizer"]},
    )
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), loader],
        input="y\ny\ny\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert not mark.exists()
    assert "[y/N]" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if loader == "load_model":
        assert done.stdout.startswith(f"{folder} brings code of its own (auto_map in config.json")
        assert done.stdout.count("\n") == 1


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def evil_pickle(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {folder.parent}/was-here",)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def giant_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def odd_header(folder: Path) -> None:
    head = b'{"a\x1b[2J": {"dtype": "F32", "shape": [9], "data_offsets": [0, 99]}}'
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 36)


def odd_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen3", "hidden_size": "\\u001b[2Jmany"}')


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("\x1b[2J")


@pytest.mark.parametrize(
    "damage", [pickled, evil_pickle, giant_header, cut, odd_header, odd_config, no_json]
)
def test_files_that_are_no_model_are_refused_in_a_line(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)
    with pytest.raises(StageError, match="is not a model that transformers reads") as error:
        load_model(folder)
    assert str(error.value).isprintable()
    assert not (folder.parent / "was-here").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "1.0"}', "\x1b[2J"])
def test_files_that_are_no_tokenizer_are_refused_in_a_line(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(StageError, match="is not a model that transformers reads") as error:
        load_tokenizer(folder)
    assert str(error.value).isprintable()


def test_end_ids_of_a_broken_configuration_are_refused_in_a_line(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(StageError, match="is not a model that transformers reads"):
        stored_end_ids(folder, tokenizer)


@pytest.mark.parametrize("error", [MemoryError(), Interrupted("stop"), torch.OutOfMemoryError()])
def test_what_is_not_the_files_fault_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)), refused_in_a_line(Path("a")):
        raise error


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(StageError, match="is not a model that transformers reads"):
        load_model(folder)


def loads(path: Path) -> list[str]:
    """Return the calls of `from_pretrained` in a file that may run code or read pickles."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        for loader in [node.func, *node.args] if isinstance(node, ast.Call) else []:
            is_load = isinstance(loader, ast.Attribute) and loader.attr == "from_pretrained"
            if is_load and not ast.unparse(loader).startswith("GenerationConfig."):
                found.append(ast.unparse(node))
    return found


def test_whatever_is_loaded_is_loaded_without_code_of_its_folder() -> None:
    files = [*(ROOT / "r1pipe").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    calls = [call for path in files for call in loads(path)]
    assert len(calls) >= 6
    careless = [c for c in calls if "**OFFLINE" not in c and "**options" not in c]
    assert careless == []
    engine = (ROOT / "r1pipe" / "generate" / "vllm_engine.py").read_text()
    assert '"trust_remote_code": False' in engine
