"""The process of one replica (`r1pipe.generate.replicas` has the messages)."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TextIO, TypeAlias

from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator
from r1pipe.generate.weights import read_weights
from r1pipe.keys import JsonObject

Orders: TypeAlias = "SimpleQueue[JsonObject | None]"
"""What the parent says, as it comes; None at its end."""

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
    say(out, ready=generator.num_slots)
    inbox: Orders = SimpleQueue()
    threading.Thread(target=hear, args=(orders, inbox), daemon=True).start()
    while (order := inbox.get()) is not None:
        if "sampling" in order:
            sample(generator, SamplingParams(**order["sampling"]), inbox, out)
        else:
            generator.load_weights(received(inbox, out))
        say(out, done=True)
    generator.close()


def hear(orders: TextIO, inbox: Orders) -> None:
    """Put every order into the inbox as it comes, and None at the end."""
    for line in orders:
        inbox.put(json.loads(line))
    inbox.put(None)


class _EndError(Exception):
    """The parent wants no more completions."""


def sample(generator: VllmGenerator, sampling: SamplingParams, inbox: Orders, out: TextIO) -> None:
    """Sample requests as they come, until the parent says that it is enough."""
    num_under_way = 0

    def asked() -> Iterator[Request | None]:
        nonlocal num_under_way
        while True:
            try:
                order = inbox.get(block=num_under_way == 0)
            except Empty:
                yield None
                continue
            if order is None or "end" in order:
                raise _EndError
            index, seed, ids = order["request"]
            num_under_way += 1
            yield Request(tuple(ids), seed, index)

    try:
        for made in generator.stream(asked(), sampling):
            num_under_way -= 1
            say(out, sampled=[made.index, made.token_ids, made.logprobs, made.finish_reason.value])
    except _EndError:
        return


def received(inbox: Orders, out: TextIO) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of each file that the parent names; it removes a file when told so."""
    while (order := inbox.get()) is not None and (path := order["path"]) is not None:
        yield from read_weights([Path(path)])
        say(out, taken=True)


def say(out: TextIO, **message: object) -> None:
    """Write one line of JSON."""
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
