"""The command that talks to a model."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from r1pipe.cli.options import ResultArgument, StoreOption, command_group, open_store
from r1pipe.cli.printing import complain, print_json_line

if TYPE_CHECKING:
    from r1pipe.cli.chatting import Conversation
    from r1pipe.generator_settings import SampleRun

app = command_group()


FormatOption = Annotated[
    Literal["chat", "r1-zero"] | None,
    typer.Option("--format", help="The prompt's format; else the one of the stage."),
]
BackendOption = Annotated[
    Literal["transformers", "vllm"], typer.Option("--backend", help="What samples.")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="A server that has the model, such as 'r1pipe serve' starts."),
]
ServedOption = Annotated[
    str | None,
    typer.Option("--model", help="The model's name there; else the only one that it serves."),
]
MAX_RETRIES = 2
"""How often a server is asked again: somebody waits."""


@app.command()
def chat(  # noqa: PLR0913 - options of one command
    name: ResultArgument,
    system: Annotated[str, typer.Option("--system", help="The system message.")] = "",
    fmt: FormatOption = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="0 is the most likely token.")
    ] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", min=0.001, max=1)] = 0.95,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Most tokens of one answer.")
    ] = 1024,
    seed: Annotated[int, typer.Option("--seed", help="The same seed, the same answers.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1.")] = "cpu",
    backend: BackendOption = "transformers",
    url: UrlOption = None,
    model: ServedOption = None,
    store: StoreOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on a line for each turn.")
    ] = False,
) -> None:
    """Talk to a model: a line is a turn; Ctrl-C ends a reply, Ctrl-D leaves."""
    from r1pipe.api.results import Results
    from r1pipe.cli.chatting import conversation, format_for, turns_of_user
    from r1pipe.generate.protocol import SamplingParams

    result = Results(open_store(store))[name]
    form = format_for(result.record.preimage["params"], fmt, system)
    sampling = SamplingParams(temperature, top_p, max_tokens, logprobs=False)
    run = _run(device, backend, url, model)
    opened = conversation(result.model_folder(), form, run, sampling, seed)
    try:
        with opened as talk:
            for line in turns_of_user():
                if as_json:
                    print_json_line({"prompt": line, **asdict(talk.reply(line))})
                else:
                    _show(talk, line)
    except KeyboardInterrupt:
        complain("")


def _run(device: str, backend: str, url: str | None, model: str | None) -> "SampleRun":
    from pydantic import ValidationError

    from r1pipe.errors import ManifestError
    from r1pipe.generator_settings import SampleRun
    from r1pipe.machine import read_gpus, visible_gpus
    from r1pipe.text import without_passwords

    chosen: dict[str, object] = {"backend": backend}
    if url is None and model is not None:
        raise ManifestError(f"--model {model}: a model of a server; give the server with --url")
    if url is not None:
        chosen = {"backend": "openai", "url": url, "model": model, "max_retries": MAX_RETRIES}
    try:
        run = SampleRun.model_validate({"device": device, "generator": chosen})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        given = {"device": device, "model": model, "url": without_passwords(url or "")}
        name = str(found["loc"][-1])
        said = found["msg"].removeprefix("Value error, ")
        raise ManifestError(f"--{name} {given.get(name, '')}: {said}") from None
    if url is None and device.startswith("cuda") and not visible_gpus(read_gpus()):
        raise ManifestError(f"--device {device}: this machine has no GPU that may be used")
    return run


def _show(talk: "Conversation", line: str) -> None:
    """Print a reply as it is generated; in a terminal Ctrl-C ends it, in a pipe the command."""
    from r1pipe.chat import HOUSE
    from r1pipe.cli.chatting import STOPPED
    from r1pipe.cli.streaming import ReplyPrinter, gentle_interrupt
    from r1pipe.errors import StageError

    printer, is_terminal = ReplyPrinter(talk.fmt.think or HOUSE, sys.stdout), sys.stdin.isatty()
    try:
        if is_terminal:
            with gentle_interrupt(talk.is_telling) as check:
                reply = talk.reply(line, printer.add, check)
        else:
            reply = talk.reply(line, printer.add)
    except StageError as error:
        printer.end()
        if not is_terminal:
            raise
        complain(f"{error}\n(this turn is forgotten)")
        return
    printer.end()
    if reply.finish_reason == "length":
        is_full = reply.num_tokens < talk.sampling.max_tokens
        why = f"the context of {talk.context} is full" if is_full else "--max-tokens gives more"
        complain(f"(cut off after {reply.num_tokens} tokens; {why})")
    if reply.finish_reason == STOPPED:
        complain(f"(ended after {reply.num_tokens} tokens)")
