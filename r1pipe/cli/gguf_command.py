"""The command that writes a model as one GGUF file, by llama.cpp's converter."""

import json
import os
import struct
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Annotated, Literal

import typer

from r1pipe.cli.options import ResultArgument, StoreOption, command_group, open_store
from r1pipe.cli.printing import complain, say
from r1pipe.errors import ArtifactError, StageError
from r1pipe.keys import JsonObject

app = command_group()

SCRIPT, VARIABLE = "convert_hf_to_gguf.py", "LLAMA_CPP_DIR"
ADAPTER = "adapter_config.json"
NAMED = Path(__file__).with_name("gguf_named.py")
"""What runs the converter where r1pipe knows the pre-tokenizer and the converter does not."""
TOLD_LINES = 5
"""Last lines of a converter that failed which are told again."""
OUTTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""A model's dtype -> the converter's word for it; its own `auto` makes 16 bits of float32."""
ROPE_KEY, FLOAT32_TYPE, DEFAULT_THETA = b".rope.freq_base", 6, 10_000.0
"""The rotary base in a GGUF file, the code of its type, and what llama.cpp takes where it lacks."""
HEAD_BYTES = 1 << 20
"""Where the numbers of an architecture stand: before the vocabulary."""


ConverterOption = Annotated[
    Path | None,
    typer.Option(
        "--converter", help=f"{SCRIPT} of llama.cpp; else that in ${VARIABLE}.", metavar="PATH"
    ),
]


@app.command("export-gguf")
def export_gguf(
    name: ResultArgument,
    file: Annotated[Path, typer.Argument(help="A new file, such as zero.gguf.")],
    outtype: Annotated[
        Literal["auto", "f32", "f16", "bf16", "q8_0"],
        typer.Option("--outtype", help="How numbers are kept; auto: as the model has them."),
    ] = "auto",
    converter: ConverterOption = None,
    store: StoreOption = None,
) -> None:
    """Write a model as a GGUF file for llama.cpp, Ollama and others."""
    from r1pipe.api.results import Results
    from r1pipe.models.tokenizer import split_of
    from r1pipe.store.disk import place_errors, token
    from r1pipe.text import format_bytes

    folder = Results(open_store(store))[name].model_folder()
    if (folder / ADAPTER).exists():
        raise ArtifactError(
            f"{name}: has an adapter beside its weights, which {SCRIPT} would leave out; train it"
            " with params.adapter.merge: true"
        )
    split = split_of(folder)
    if split == "words":
        raise ArtifactError(
            f"{name}: its tokenizer, made by r1pipe, cuts text as none of llama.cpp's does, so that"
            " a GGUF file would read prompts as other tokens; make the tokenizer with params.split:"
            " qwen2, or begin with import-model"
        )
    if file.exists():
        raise ArtifactError(f"{file} exists; name a new file")
    script = _script(converter)
    with place_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{token()}.part")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kept = OUTTYPES.get(config.get("dtype"), outtype) if outtype == "auto" else outtype
    start = [str(script)] if split is None else ["-P", str(NAMED), str(script), split]
    words = [sys.executable, *start, str(folder), "--outfile", str(part), "--model-name", name]
    try:
        _convert([*words, "--outtype", kept], script)
        if not part.is_file():
            raise StageError(f"{script}: ended well, but wrote no {part.name}; is it llama.cpp's?")
        _check_rope(part, config, script)
        os.link(part, file)  # never over a file that has come meanwhile
    except FileExistsError as error:
        raise ArtifactError(f"{file} exists; name a new file") from error
    finally:
        part.unlink(missing_ok=True)
    say(f"{file}: {name} as GGUF, {format_bytes(file.stat().st_size)}")


def _script(given: Path | None) -> Path:
    """Return the converter. Raises ArtifactError with how to have it."""
    place = os.environ.get(VARIABLE)
    script = given or (Path(place) / SCRIPT if place else None)
    if script is not None and script.is_file():
        return script.absolute()
    what = "is not known here" if script is None else f"is not at {script}"
    raise ArtifactError(
        f"llama.cpp's {SCRIPT} {what}; git clone https://github.com/ggml-org/llama.cpp, then give"
        f" --converter PATH or set {VARIABLE} to that folder"
    )


def _check_rope(file: Path, config: JsonObject, script: Path) -> None:
    """Raise StageError for a file without the model's rotary base.

    A converter from before transformers 5 does not find it in `rope_parameters`, leaves it out, and
    ends well: the model would then run with another base, and say something else.
    """
    parameters = config.get("rope_parameters")
    theta = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    if not isinstance(theta, int | float) or theta == DEFAULT_THETA:
        return
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    if ROPE_KEY + struct.pack("<If", FLOAT32_TYPE, theta) not in head:
        raise StageError(
            f"{script}: left out the model's rotary base, {theta:g}, so that the file would run as"
            " another model; the converter is older than this config.json: update llama.cpp"
        )


def _convert(words: list[str], script: Path) -> None:
    """Run the converter, all that it says on stderr. Raises StageError if it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    last: deque[str] = deque(maxlen=TOLD_LINES)
    with subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            complain(line.rstrip())
    if process.returncode:
        raise StageError(f"{script}: failed ({process.returncode}): " + "\n".join(last))
