"""Time sampling by transformers with its own cache and attention, and with r1pipe's.

    python benchmarks/sampling_copies.py [--repeats 5] [--threads 1]

Random Qwen3 models; the sides take turns on the same requests, and must draw the same tokens with
the same log-probabilities. Seconds are those of the processor, the least of all repeats. Prints
the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from r1pipe.generate import in_process
from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.launch.process import prepare_process

VOCABULARY = 512
GROUP_SIZE = 8


class Case(NamedTuple):
    """A model's shape, and what is sampled from it in one batch."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    rows: int
    prompt: int
    tokens: int


SMALL = "0.3M parameters", 96, 3, 4, 2, 288
LARGER = "135M, as SmolLM2", 576, 30, 9, 3, 1536
CASES = (
    Case(*SMALL, 128, 50, 60),
    Case(*SMALL, 256, 50, 60),
    Case(*SMALL, 128, 50, 300),
    Case(*LARGER, 16, 400, 40),
)


def model_of(case: Case) -> Any:
    """Return a random model."""
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.hidden // case.heads,
        intermediate_size=case.inner,
        vocab_size=VOCABULARY,
    )
    return Qwen3ForCausalLM(config).eval()


def requests_of(case: Case) -> list[Request]:
    """Return requests in groups; prompts differ in length by up to ten tokens."""
    rng = random.Random(1)
    lengths = (rng.randint(case.prompt - 10, case.prompt) for _ in range(case.rows // GROUP_SIZE))
    prompts = [tuple(rng.randrange(VOCABULARY) for _ in range(length)) for length in lengths]
    return [Request(prompts[n // GROUP_SIZE], n, n) for n in range(case.rows)]


@contextmanager
def as_transformers_has_it(*, cache: bool, attention: bool) -> Iterator[None]:
    """Sample with transformers' own cache, or attention, inside the block."""
    with ExitStack() as patches:
        if cache:
            own = patch.object(in_process, "key_value_cache", lambda c: DynamicCache(config=c))
            patches.enter_context(own)
        if attention:
            patches.enter_context(patch.object(in_process, "grouped", nullcontext))
        yield


SIDES = {
    "both": {"cache": True, "attention": True},
    "its cache": {"cache": True, "attention": False},
    "its attention": {"cache": False, "attention": True},
    "neither": {"cache": False, "attention": False},
}
"""What is transformers' own."""


def measured(case: Case, repeats: int) -> dict[str, float]:
    """Return the CPU seconds of every side."""
    model, asked = model_of(case), requests_of(case)
    sampling = SamplingParams(1.0, 1.0, case.tokens)
    least: dict[str, float] = {}
    drawn: list[list[Sampled]] = []
    for turn in range(repeats + 1):  # the first one warms up
        for side, own in SIDES.items():
            generator = TransformersGenerator(model, end_ids=[], pad_id=0, max_batch=case.rows)
            began = time.process_time()
            with as_transformers_has_it(**own):
                drawn.append(sorted(generator.generate(asked, sampling), key=lambda s: s.index))
            if turn:
                seconds = time.process_time() - began
                least[side] = min(least.get(side, seconds), seconds)
    if any(other != drawn[0] for other in drawn):
        raise SystemExit(f"{case.name}: the sides drew different tokens")
    return least


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    prepare_process()
    torch.set_num_threads(given.threads)
    print("| model | rows | prompt, new tokens | " + " | ".join(SIDES) + " | ratio |")
    print("|---" * (4 + len(SIDES)) + "|")
    for case in CASES:
        found = measured(case, given.repeats)
        ratio = found["both"] / found["neither"]
        cells = " | ".join(f"{seconds:.2f}" for seconds in found.values())
        words = f"{case.name} | {case.rows} | {case.prompt}, {case.tokens}"
        print(f"| {words} | {cells} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
