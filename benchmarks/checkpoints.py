"""What checkpoints cost a training: written at once, and written beside it.

    PYTHONPATH=. python benchmarks/checkpoints.py [--seconds 20] [--every 1]

A Qwen3 of 2.4M parameters in float32 trains on rows of 20 to 90 tokens, 64 a step, as
`benchmarks/training.py` has them, with the context, the seals and the fsyncs of a run. The three
ways take turns, each for a tenth of the time. Waited is what a step's end takes beyond one without
a checkpoint; the steps' own time shows what a thread takes from the cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from training import BATCHING, OPTIMIZER, model, steps

from r1pipe.engine_settings import EngineRun
from r1pipe.launch.context import RunContext
from r1pipe.launch.stopping import Stopper
from r1pipe.records import TokenSequence
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import MicroBatch, count_loss_tokens, micro_batches
from r1pipe.train.engine import Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.loop import Trainer, Update

Way = Literal["none", "at once", "beside"]
WAYS: tuple[Way, ...] = ("none", "at once", "beside")
TURNS = 10


def update_on(rows: list[TokenSequence]) -> Update:
    """Return a supervised update."""
    total = count_loss_tokens(rows)

    def loss(policy: Any, batch: MicroBatch) -> Loss:
        return Loss(-token_logprobs(policy, batch).sum() / total)

    tokens = sum(map(len, rows))
    return Update(micro_batches(rows, BATCHING), loss, tokens, tokens)


def turn(trainer: Trainer, way: Way, seconds: float, every_s: float) -> Iterator[tuple[str, float]]:
    """Train for so long; yield the time of each update and of each checkpoint that was due."""
    saved, end = time.perf_counter(), time.perf_counter() + seconds
    for rows in steps(1 << 30):
        began = time.perf_counter()
        if began > end:
            break
        trainer.update(update_on(rows))
        yield "update", time.perf_counter() - began
        began = time.perf_counter()
        if way != "none" and began - saved >= every_s:
            (trainer.save if way == "beside" else trainer.save_now)()
            saved = time.perf_counter()
            yield "waited", saved - began
    began = time.perf_counter()
    trainer.save_now()
    yield "last", time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each way")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between checkpoints")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    policy = model()
    engine = make_engine(policy, OPTIMIZER, EngineRun())
    found: dict[Way, list[tuple[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "logs").mkdir()
        quiet: Any = partial(lambda *told: None)
        context = RunContext("measured", Path(name), ("model",), {}, quiet, Stopper())
        trainer = Trainer(context, engine, OPTIMIZER, 1 << 30)
        trainer.update(update_on(next(steps(1))))
        for _ in range(TURNS):
            for way in WAYS:
                found[way] += turn(trainer, way, asked.seconds / TURNS, asked.every)
        context.close()
    count = sum(each.numel() for each in policy.parameters())
    print(f"{count:,} parameters; a checkpoint every {asked.every:g} s\n")
    print("| checkpoints | number | waited ms, median | share waited | update ms | updates/s |")
    print("|---|---|---|---|---|---|")
    for way, rows in found.items():
        waited = [seconds for what, seconds in rows if what == "waited"]
        updates = [seconds for what, seconds in rows if what == "update"]
        whole = sum(waited) + sum(updates)
        print(
            f"| {way} | {len(waited)} | {statistics.median(waited or [0]) * 1e3:.1f}"
            f" | {sum(waited) / whole:.4f} | {statistics.median(updates) * 1e3:.1f}"
            f" | {len(updates) / whole:.2f} |"
        )


if __name__ == "__main__":
    main()
