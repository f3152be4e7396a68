"""The command that serves a model: prints, or runs, vLLM's command."""

import os
import shlex
import shutil
from typing import Annotated

import typer

from r1pipe.cli.options import ResultArgument, StoreOption, command_group, open_store
from r1pipe.cli.printing import say
from r1pipe.errors import ArtifactError

app = command_group()


@app.command()
def serve(
    name: ResultArgument,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of this machine.")] = 8000,
    run: Annotated[bool, typer.Option("--run", help="Run it here, not only print it.")] = False,
    store: StoreOption = None,
) -> None:
    """Print the command that serves a model as an OpenAI-compatible server, or run it."""
    from r1pipe.api.results import Results

    result = Results(open_store(store))[name]
    folder = result.model_folder()
    words = ["vllm", "serve", str(folder), "--served-model-name", result.record.stage_name]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    if not run:
        say(shlex.join(words))
        return
    if shutil.which(words[0]) is None:
        raise ArtifactError("vllm is not installed; 'uv pip install vllm', or print the command")
    os.execvp(words[0], words)  # noqa: S606 - a list of arguments, no shell
