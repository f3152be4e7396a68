"""A stranger's model folder is looked at before time is spent: what it holds, and what it lacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from command import Run
from safetensors.torch import save_file
from tiny import FakeContext, stage

from r1pipe.errors import SourceError
from r1pipe.models.folders import model_found
from r1pipe.stage import Inputs

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny.save_policy(folder, 1)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        model_found(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value).partition(f"{folder}")[2]


def test_a_model_is_named_with_its_size_dtype_and_template(model: Path) -> None:
    for path in model.glob("chat_template*"):
        path.unlink()
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, model / WEIGHTS)
    name = json.loads((model / "config.json").read_text())["architectures"][0]
    (model / "tokenizer_config.json").write_text("{}")
    none = "none: only r1-zero can prompt it"
    assert model_found(model) == f"{name}, 10 numbers in F32, BF16; chat template: {none}"
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert model_found(model).endswith("chat template: its own")
    (model / "tokenizer_config.json").unlink()
    (model / "chat_template.jinja").write_text("x")
    assert model_found(model).endswith("chat template: its own")


def test_a_gguf_holds_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert model_found(tmp_path) == "a model and its tokenizer in tiny.gguf"


def test_a_folder_without_one_of_its_parts_is_told_which(model: Path) -> None:
    tokenizer = [*model.glob("tokenizer.json"), *model.glob("vocab*"), *model.glob("merges*")]
    for path in tokenizer:
        path.rename(path.with_name(f"x-{path.name}"))
    assert refused(model).startswith(": it has no tokenizer (tokenizer.json, ")
    for path in tokenizer:
        path.with_name(f"x-{path.name}").rename(path)
    (model / WEIGHTS).rename(model / "pytorch_model.bin")
    assert refused(model).startswith(": its weights are pickled (pytorch_model.bin)")
    (model / "pytorch_model.bin").unlink()
    assert refused(model).startswith(": it has no weights (*.safetensors, or one *.gguf); give")
    (model / "config.json").write_text("{}")
    assert refused(model).startswith("/config.json: it names no model_type; give")
    (model / "config.json").write_text("[1]")
    assert refused(model).startswith("/config.json: it is no JSON object; fetch")
    (model / "config.json").write_text("{")
    assert refused(model).startswith("/config.json: it is no JSON: ")
    (model / "config.json").unlink()
    assert refused(model).startswith(": it has no config.json, which says")
    (model.parent / "file").write_text("")
    with pytest.raises(SourceError, match="file: it is not a folder; give"):
        model_found(model.parent / "file")


def test_weights_that_did_not_come_whole_are_named(model: Path) -> None:
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[:-5])
    said = f"/{WEIGHTS}: it is cut off: {len(data) - 5:,} of {len(data):,} bytes; fetch"
    assert refused(model).startswith(said)
    (model / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "it is a pointer of Git LFS, not the weights; git lfs pull" in refused(model)
    places = {"a": WEIGHTS, "b": "model-2.safetensors", "c": "model-3.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "2 of its 3 files of weights are missing: model-2.safetensors" in refused(model)


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [1]}}', b"\xff"]
)
def test_a_header_of_anything_else_is_one_line(model: Path, header: bytes) -> None:
    (model / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    assert refused(model).startswith(f"/{WEIGHTS}: its header is not that of a safetensors file")
    (model / WEIGHTS).write_bytes(b"\xff" * 20)
    assert refused(model).startswith(f"/{WEIGHTS}: its header is not that of a safetensors file")


def test_what_a_folder_says_of_itself_is_no_control_text(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["\x1b[2J"]}))
    assert "\x1b" not in model_found(model)


def test_the_stage_says_it_before_transformers_does(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").unlink(missing_ok=True)
    kind, inputs = stage("import-model"), Inputs({"source": model})
    with pytest.raises(SourceError, match="it has no tokenizer"):
        kind.run(FakeContext(tmp_path), kind.params(), kind.run_model(), inputs)


def test_a_plan_says_what_a_model_is_and_refuses_a_broken_one(
    model: Path, tmp_path: Path, r1pipe: Run
) -> None:
    (tmp_path / "m.yaml").write_text(
        "r1pipe: 1\nname: m\nsources:\n  mine: {path: model, as: model}\n"
        "stages:\n  base: {kind: import-model, inputs: {source: mine}}\n"
    )
    code, out, _ = r1pipe("plan", str(tmp_path / "m.yaml"))
    assert code == 0
    assert "source mine, for base: " in out
    (model / WEIGHTS).unlink()
    for command in ("plan", "run"):
        code, _, err = r1pipe(command, str(tmp_path / "m.yaml"))
        assert code == 7
        assert err.startswith(f"{tmp_path / 'm.yaml'}:4:3: source 'mine', for base: ")
        assert "it has no weights" in err


def test_looking_loads_no_torch() -> None:
    code = "import sys, r1pipe.models.folders; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
