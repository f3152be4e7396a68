"""The process of one replica (`r1pipe.generate.replicas` has the messages)."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator
from r1pipe.generate.weights import read_weights

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main() -> None:
    """Serve the parent until it hangs up or dies."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the lines of JSON
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        serve(sys.stdin, out)
    except StageError as error:
        say(out, failed=str(error))


def serve(orders: TextIO, out: TextIO) -> None:
    """Build the engine, then follow orders."""
    first = json.loads(orders.readline())
    shape = first["shape"]
    shape |= {"folder": Path(shape["folder"]), "end_ids": tuple(shape["end_ids"])}
    settings = VllmSettings.model_validate(first["settings"])
    generator = VllmGenerator(EngineShape(**shape), settings)
    say(out, ready=True)
    for line in orders:
        order = json.loads(line)
        if "requests" in order:
            requests = [Request(tuple(ids), seed, index) for index, seed, ids in order["requests"]]
            for made in generator.generate(requests, SamplingParams(**order["sampling"])):
                row = [made.index, made.token_ids, made.logprobs, made.finish_reason.value]
                say(out, sampled=row)
        else:
            generator.load_weights(received(orders, out))
        say(out, done=True)
    generator.close()


def received(orders: TextIO, out: TextIO) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of each file that the parent names; it removes a file when told so."""
    while (path := json.loads(orders.readline())["path"]) is not None:
        yield from read_weights([Path(path)])
        say(out, taken=True)


def say(out: TextIO, **message: object) -> None:
    """Write one line of JSON."""
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
