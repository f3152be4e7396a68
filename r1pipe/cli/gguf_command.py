"""The command that writes a model as one GGUF file, by llama.cpp's converter."""

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Annotated, Literal

import typer

from r1pipe.cli.options import ResultArgument, StoreOption, command_group, open_store
from r1pipe.cli.printing import complain, say
from r1pipe.errors import ArtifactError, StageError

app = command_group()

SCRIPT, VARIABLE = "convert_hf_to_gguf.py", "LLAMA_CPP_DIR"
ADAPTER = "adapter_config.json"
TOLD_LINES = 5
"""Last lines of a converter that failed which are told again."""


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
    from r1pipe.store.disk import store_errors, token
    from r1pipe.text import format_bytes

    folder = Results(open_store(store))[name].model_folder()
    if (folder / ADAPTER).exists():
        raise ArtifactError(
            f"{name}: has an adapter beside its weights, which {SCRIPT} would leave out; train it"
            " with params.adapter.merge: true"
        )
    if file.exists():
        raise ArtifactError(f"{file} exists; name a new file")
    script = _script(converter)
    with store_errors(file.parent, "cannot be written"):
        file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{token()}.part")
    words = [sys.executable, str(script), str(folder), "--outfile", str(part)]
    try:
        _convert([*words, "--outtype", outtype], script)
        if not part.is_file():
            raise StageError(f"{script}: ended well, but wrote no {part.name}; is it llama.cpp's?")
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
