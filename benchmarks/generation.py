"""Time the vLLM engine as r1pipe uses it: its start, a push of weights, sampling against raw vLLM.

    python benchmarks/generation.py [--requests 256] [--tokens 64] [--repeats 3] [--device cpu]

A random Qwen3 of 2.4M parameters; prompts of 10 to 40 tokens, groups of 8. Sampling by r1pipe and
by vLLM's own loop on the same engine take turns, so that a busy machine slows both; wall seconds
and seconds of CPU time are given, and the ratios are those of CPU time on a CPU. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1pipe.launch.process import prepare_process

GROUP_SIZE = 8


class Clock:
    """Wall and CPU seconds of named blocks."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)

    def medians(self) -> dict[str, dict[str, float]]:
        """Return the median of each block."""
        return {
            name: {
                "wall_s": round(statistics.median(self.wall[name]), 3),
                "cpu_s": round(statistics.median(self.cpu[name]), 3),
            }
            for name in self.wall
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options), indent=1))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    clock = Clock()
    with clock("import of torch and transformers"):
        from r1pipe.models.policy import load_model
    end = make_model(folder)
    policy = load_model(folder, device=options.device)
    from r1pipe.generate.vllm_setup import import_vllm

    with clock("import of vllm"):
        vllm = import_vllm(options.device)
    from r1pipe.generate.vllm_backend import VllmSettings
    from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator

    shape = EngineShape(folder, (end,), device=options.device)
    settings = VllmSettings(backend="vllm", max_model_tokens=512)
    with clock("first engine"):
        first = VllmGenerator(shape, settings)
    first.close()  # on a GPU there is room for one: it takes 90 % of the memory
    with clock("second engine"):
        generator = VllmGenerator(shape, settings)
    count_tokens(generator, asked(64, 1), 8)
    for _ in range(options.repeats + 1):
        with clock("push of weights"):
            generator.load_weights(policy.named_parameters())
    requests = asked(options.requests, 2)
    ways: dict[str, Callable[[], int]] = {
        "r1pipe": lambda: count_tokens(generator, requests, options.tokens),
        "r1pipe without log-probs": lambda: count_tokens(
            generator, requests, options.tokens, logprobs=False
        ),
        "raw vllm": lambda: raw_tokens(vllm, generator._engine, requests, options.tokens, end),
    }
    tokens = {name: way() for name, way in ways.items()}  # warm
    assert len(set(tokens.values())) == 1, f"the same requests gave other tokens: {tokens}"
    for _ in range(options.repeats):
        for name, way in ways.items():
            generator._engine.reset_prefix_cache()
            with clock(name):
                way()
    return report(clock, options, tokens["r1pipe"])


def report(clock: Clock, options: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """Put the figures together."""
    unit = "cpu" if options.device == "cpu" else "wall"
    seconds = getattr(clock, unit)
    ratios = [raw / ours for raw, ours in zip(seconds["raw vllm"], seconds["r1pipe"], strict=True)]
    import torch
    import vllm

    return {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": sys.version.split()[0], "vllm": vllm.__version__},
        "requests": options.requests,
        "sampled_tokens": tokens,
        "seconds": clock.medians(),
        f"tokens per {unit} second": {
            name: round(tokens / statistics.median(seconds[name]))
            for name in ("r1pipe", "r1pipe without log-probs", "raw vllm")
        },
        "r1pipe over raw vllm": round(statistics.median(ratios), 3),
    }


def make_model(folder: Path) -> int:
    """Write a Qwen3 of 2.4M parameters; return its end-of-sequence id."""
    from r1pipe.models.policy import new_model, save_model
    from r1pipe.models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([f"{a}+{b}={a + b}" for a in range(40) for b in range(40)], 320)
    model = new_model(
        tokenizer,
        hidden_size=192,
        num_layers=6,
        num_heads=6,
        num_kv_heads=2,
        intermediate_size=512,
        max_positions=1024,
        init_std=0.05,
        seed=1,
    )
    save_model(model, tokenizer, folder)
    return int(tokenizer.eos_token_id)


def asked(count: int, seed: int) -> list[Any]:
    """Return requests in groups of equal prompts."""
    from r1pipe.generate.protocol import Request

    rng = random.Random(seed)
    prompts = [
        tuple(rng.randrange(2, 60) for _ in range(rng.randrange(10, 41)))
        for _ in range(count // GROUP_SIZE)
    ]
    return [Request(prompts[i // GROUP_SIZE], 1000 + i, i) for i in range(count)]


def count_tokens(generator: Any, requests: list[Any], limit: int, logprobs: bool = True) -> int:
    """Sample as a stage does."""
    from r1pipe.generate.protocol import SamplingParams

    sampling = SamplingParams(1.0, 1.0, limit, logprobs=logprobs)
    return sum(len(s.token_ids) for s in generator.generate(requests, sampling))


def raw_tokens(vllm: Any, engine: Any, requests: list[Any], limit: int, end: int) -> int:
    """Sample as vLLM's own `generate` does: all requests at once, then step until all are done."""
    from r1pipe.generate.uniforms import short_seed

    for request in requests:
        params = vllm.SamplingParams(
            temperature=1.0,
            seed=short_seed(request.seed),
            max_tokens=limit,
            stop_token_ids=[end],
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=vllm.RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        engine.add_request(f"raw-{request.index}", prompt, params)
    count = 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                count += len(output.outputs[0].token_ids)
    return count


if __name__ == "__main__":
    main()
