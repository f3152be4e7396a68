"""What a Ray cluster costs: engines of fixed speed as actors, one stream of requests for all.

    PYTHONPATH=.:tests python benchmarks/actors.py

The generator, the scheduler and Ray are those of a run; only the engines are simulated: a step
takes a fixed time and gives every running completion a token. So N actors should be N times as fast
as one. The restart and the push are of real ones with a Qwen3 of 2.4M parameters: transformers, and
with `--parts vllm` vLLM.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1pipe.generate import ray_cluster
from r1pipe.generate.clusters import ClusterBackend
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.ray_actor import EngineActor, EngineSpec, Up
from r1pipe.generate.ray_engines import RayGenerator
from r1pipe.generate.ray_versions import versions
from r1pipe.generate.transformers_backend import TransformersSettings
from r1pipe.generate.vllm_backend import VllmSettings
from r1pipe.generator_settings import SampleRun
from r1pipe.records import FinishReason

MEAN_TOKENS, PUSHES = 60, 9


class FixedSpeed:
    """An engine whose requests have their seed as length."""

    def __init__(self, slots: int, step_s: float) -> None:
        self.num_slots = slots
        self.losses: list[str] = []
        self.step_s = step_s

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Give every running completion a token in each step."""
        waiting, running = deque[Request](), dict[int, int]()
        end = time.monotonic()
        while True:
            while len(waiting) < self.num_slots and (request := next(requests, None)):
                waiting.append(request)
            while waiting and len(running) < self.num_slots:
                request = waiting.popleft()
                running[request.index] = request.seed
            end = max(end + self.step_s, time.monotonic())
            time.sleep(max(0.0, end - time.monotonic()))
            for index in list(running):
                running[index] -= 1
                if not running[index]:
                    del running[index]
                    yield Sampled(index, [1], [], FinishReason.STOP)

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """It streams."""
        raise NotImplementedError

    def load_weights(self, tensors: Weights) -> None:
        """Nothing."""

    def sleep(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class FixedSpeedActor(EngineActor):
    """An actor with such an engine; the folder's name is the time of a step."""

    def _serve(self, spec: EngineSpec) -> None:
        slots = SampleRun.model_validate_json(spec.run).max_batch
        engine = FixedSpeed(slots, float(Path(spec.folder).name))
        self._replies.put(Up(f"process {os.getpid()}", slots, versions()))
        while True:
            self._follow(engine, slots)


def opened(count: int, slots: int, step_s: float) -> tuple[RayGenerator, float]:
    """Return a generator with all its engines up, and how long that took."""
    settings = TransformersSettings(cluster="ray", data_parallel=count)
    run, began = SampleRun(max_batch=slots, workers=1, generator=settings), time.perf_counter()
    made = RayGenerator(settings, Path(f"/{step_s}"), run, "float32")
    wait_for_all(made)
    return made, time.perf_counter() - began


def wait_for_all(made: RayGenerator) -> None:
    """Wait until every engine is up."""
    while not all(engine.is_up for engine in made._engines):
        made._hear(*made._events.get())
    made._answers.clear()


def lengths(count: int) -> Iterator[Request]:
    """Yield requests of 30 to 90 tokens, in groups of 16 equal prompts."""
    rng = random.Random(1)
    for index in range(count):
        yield Request((index // 16,), rng.randint(MEAN_TOKENS // 2, 3 * MEAN_TOKENS // 2), index)


def tokens_per_s(made: RayGenerator, count: int) -> float:
    """Return the speed of sampling so many requests, the last ones included."""
    asked = list(lengths(count))
    began = time.perf_counter()
    assert sum(1 for _ in made.stream(iter(asked), SamplingParams())) == count
    return sum(request.seed for request in asked) / (time.perf_counter() - began)


def print_pushes(folder: Path, settings: ClusterBackend) -> None:
    """Print what a push to two actors of a real policy costs, and the restart of one."""
    from tiny import tokenizer
    from trainers_data import SHAPE

    from r1pipe.generate.ray_policy import RayPolicy
    from r1pipe.models.policy import new_model, save_model

    policy = new_model(tokenizer(), **SHAPE)
    save_model(policy, tokenizer(), folder)
    run, began = SampleRun(max_batch=1, workers=1, generator=settings), time.perf_counter()
    made = RayPolicy(settings, folder, run, "float32")
    while not all(engine.is_up for engine in made.engines.all):
        made.engines.wait()
    print(f"two actors with {settings.backend} are up after {time.perf_counter() - began:.1f} s")
    two = [Request((5, 6, 7 + i), i, i) for i in range(2)]

    def sampled_s() -> float:
        start = time.perf_counter()
        assert len(list(made.generate(two, SamplingParams(max_tokens=1)))) == 2
        return time.perf_counter() - start

    sampled_s()
    plain = sorted(sampled_s() for _ in range(PUSHES))[PUSHES // 2]
    put, loaded = list[float](), list[float]()
    for _ in range(PUSHES):
        began = time.perf_counter()
        made.load_weights(policy.named_parameters())
        put.append(time.perf_counter() - began)
        loaded.append(sampled_s() - plain)
    count = sum(each.numel() for each in policy.parameters())
    print(
        f"a push of {count:,} parameters: {made.pushed_bytes:,} bytes put in"
        f" {sorted(put)[PUSHES // 2] * 1e3:.0f} ms, loaded by both actors in"
        f" {sorted(loaded)[PUSHES // 2] * 1e3:.0f} ms (medians of {PUSHES})"
    )
    began = time.perf_counter()
    os.kill(int(made.engines.all[0].place.split()[-1]), signal.SIGKILL)
    while made.engines.all[0].is_up:
        list(made.generate(two, SamplingParams(max_tokens=1)))
    told_s = time.perf_counter() - began
    while not made.engines.all[0].is_up:
        made.engines.wait()
    up_s = time.perf_counter() - began
    print(f"a killed actor is told after {told_s:.2f} s, up again after {up_s:.1f} s")
    made.close()


def main() -> None:
    """Print speed by number of actors, the most that one driver passes on, pushes and restarts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--waves", type=int, default=10, help="requests for each slot")
    parser.add_argument("--parts", nargs="+", default=["speed", "pushes"])
    ways = ["object_store", "broadcast"]
    parser.add_argument("--weight-transfer", choices=ways, default=ways[0])
    asked = parser.parse_args()
    vars(ray_cluster)["EngineActor"] = FixedSpeedActor
    cluster = ray_cluster.RayCluster(None, 4, 1 << 30)  # all that follow use it
    if "speed" in asked.parts:
        print_speed(asked.slots, asked.step_ms / 1000, asked.waves)
    two: dict[str, Any] = {
        "cluster": "ray",
        "data_parallel": 2,
        "weight_transfer": asked.weight_transfer,
    }
    of_parts: dict[str, ClusterBackend] = {
        "pushes": TransformersSettings(**two),
        "vllm": VllmSettings(backend="vllm", kv_cache_mb=32, max_num_seqs=1, **two),
    }
    for part in of_parts.keys() & set(asked.parts):
        with tempfile.TemporaryDirectory() as name:
            print_pushes(Path(name), of_parts[part])
    cluster.ray.shutdown()


def print_speed(slots: int, step_s: float, waves: int) -> None:
    """Print the speed by the number of actors, and the most that one driver passes on."""
    print("| actors | all up after s | tokens/s | of one actor's share |\n|---|---|---|---|")
    one = 0.0
    for count in (1, 2, 4):
        made, started_s = opened(count, slots, step_s)
        speed = tokens_per_s(made, count * slots * waves)
        one = one or speed
        print(f"| {count} | {started_s:.1f} | {speed:.0f} | {speed / (count * one):.3f} |")
        made.close()
    made, _ = opened(4, 256, 0.0)
    began, count = time.perf_counter(), 20_000
    tokens_per_s(made, count)
    most = count / (time.perf_counter() - began)
    print(f"\n{most:.0f} completions/s with engines that take no time")
    made.close()


if __name__ == "__main__":
    main()
