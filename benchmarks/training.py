"""Time one training step of each engine on the same model and the same batches.

usage: PYTHONPATH=. python benchmarks/training.py [--steps 12] [--device cpu]

A Qwen3 of 2.4M parameters in float32, 64 rows of 20 to 90 tokens a step in micro-batches of 1024
positions. Engines take turns, step by step, in one process, so a busy machine slows all alike;
`cpu` is the processor time of the process, which other work disturbs least. Prints a table.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from trainers_data import SHAPE

from r1pipe.engine_settings import EngineRun, EngineSettings
from r1pipe.models.policy import new_model
from r1pipe.records import TokenSequence
from r1pipe.settings import Optimizer
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import Batching, MicroBatch, count_loss_tokens, micro_batches
from r1pipe.train.deepspeed_backend import DeepSpeedSettings
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.torch_backend import TorchSettings

VOCAB, ROWS, WARM_UP = 512, 64, 3
BATCHING = Batching(1024, "padded", 0)
OPTIMIZER = Optimizer(lr=1e-4)


def model() -> Any:
    """Return a fresh model of 2.4M parameters."""
    vocabulary: Any = SimpleNamespace(eos_token_id=1, pad_token_id=0)
    vocabulary = type("Vocabulary", (), {"__len__": lambda self: VOCAB, **vars(vocabulary)})()
    return new_model(vocabulary, **SHAPE)


def steps(count: int) -> Iterator[list[TokenSequence]]:
    """Yield the rows of each step."""
    rng = random.Random(3)

    def ids(length: int) -> list[int]:
        return [rng.randrange(2, VOCAB) for _ in range(length)]

    for _ in range(count):
        yield [TokenSequence(ids(9), ids(rng.randint(11, 81))) for _ in range(ROWS)]


def train(engine: Engine, rows: list[TokenSequence]) -> float:
    """Do one step; return its loss."""
    total = count_loss_tokens(rows)

    def loss(policy: Any, batch: MicroBatch) -> Loss:
        return Loss(-token_logprobs(policy, batch).sum() / total)

    value = engine.accumulate(micro_batches(rows, BATCHING), loss)["loss"]
    engine.step(1e-4)
    return value


def engines() -> Iterator[tuple[str, EngineSettings]]:
    """Yield the engines that are compared."""
    yield "torch", TorchSettings()
    for stage in (0, 1, 2, 3):
        settings: Any = {"backend": "deepspeed", "zero_stage": stage}
        yield f"DeepSpeed, ZeRO {stage}", DeepSpeedSettings(**settings)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    opened = {
        name: make_engine(
            model().to(chosen.device),
            OPTIMIZER,
            EngineRun(engine=settings, workers=1, device=chosen.device),
        )
        for name, settings in engines()
    }
    wall: dict[str, list[float]] = {name: [] for name in opened}
    cpu: dict[str, list[float]] = {name: [] for name in opened}
    losses: dict[str, float] = {}
    for rows in steps(chosen.steps + WARM_UP):
        for name, engine in opened.items():
            began, worked = time.perf_counter(), time.process_time()
            losses[name] = train(engine, rows)
            if chosen.device != "cpu":
                torch.cuda.synchronize()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - worked)
    count = sum(p.numel() for p in model().parameters())
    print(f"{count:,} parameters, float32, {ROWS} rows a step, median of {chosen.steps} steps\n")
    print("| engine | wall ms | cpu ms | cpu against torch | last loss |")
    print("|---|---|---|---|---|")
    base = statistics.median(cpu["torch"][WARM_UP:])
    for name in opened:
        one = statistics.median(wall[name][WARM_UP:])
        other = statistics.median(cpu[name][WARM_UP:])
        print(
            f"| {name} | {one * 1e3:.0f} | {other * 1e3:.0f} | {other / base:.2f}"
            f" | {losses[name]:.6f} |"
        )


if __name__ == "__main__":
    main()
