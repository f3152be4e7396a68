"""What a step of `benchmarks/trainers.py` has to compute at least, and where its seconds went."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers_data import (
    BATCH_SIZE,
    GROUP_SIZE,
    NUM_PROMPTS,
    PROMPT_TOKENS,
    ROW_TOKENS,
    problems,
)

PARTS = ("generation", "reference", "forward and backward", "optimizer")


@dataclass(frozen=True)
class Load:
    """The work of one step."""

    units: float
    """Samples, or tokens that are no padding."""
    gflop: dict[str, float]
    """Of each part, without padding; a multiplication and an addition are two."""


@dataclass(frozen=True)
class Shape:
    """Multiplications of a model for one token."""

    body: int
    head: int
    attention: int
    """For each earlier token that it looks at."""

    def forward(self, length: float, prompt: float) -> float:
        """Return the operations of one sequence of which only the completion needs logits."""
        seen = length * length / 2 * self.attention
        return 2 * (self.body * length + seen + self.head * (length - prompt))

    def decode(self, prompt: float, completion: float) -> float:
        """Return the operations of sampling one completion after a prompt that is read."""
        seen = completion * (prompt + completion / 2) * self.attention
        return 2 * ((self.body + self.head) * completion + seen)


def shape_of(folder: Path) -> Shape:
    """Return what a Qwen3 multiplies."""
    c = json.loads((folder / "config.json").read_text())
    hidden, layers = c["hidden_size"], c["num_hidden_layers"]
    inner = c["num_attention_heads"] * c["head_dim"]
    keys = c["num_key_value_heads"] * c["head_dim"]
    projections = hidden * (2 * inner + 2 * keys)
    body = layers * (projections + 3 * hidden * c["intermediate_size"])
    return Shape(body, hidden * c["vocab_size"], 2 * layers * inner)


def load_of(name: str, folder: Path, steps: list[dict[str, Any]]) -> Load:
    """Return the work of a step of a comparison, by what its steps sampled and trained."""
    if name.startswith("sample"):
        return Load(0.0, {})
    shape = shape_of(folder)
    if name.startswith("sft"):
        length = sum(ROW_TOKENS) / 2
        whole = 3 * BATCH_SIZE * shape.forward(length, PROMPT_TOKENS)
        return Load(BATCH_SIZE * length, {"forward and backward": whole / 1e9})
    samples = GROUP_SIZE * NUM_PROMPTS
    facts = [step["facts"] for step in steps]
    sampled = statistics.mean(f["completion_tokens"] for f in facts)
    flat = statistics.mean(f["flat_group_frac"] for f in facts)
    prompt = prompt_tokens(folder)
    prefill = NUM_PROMPTS * shape.forward(prompt, prompt)
    whole = samples * shape.forward(prompt + sampled, prompt)
    has_reference = any("reference" in step["parts"] for step in steps)
    trained = 1.0 if has_reference else 1.0 - flat
    gflop = {
        "generation": prefill + samples * shape.decode(prompt, sampled),
        "reference": whole if has_reference else 0.0,
        "forward and backward": 3 * whole * trained,
    }
    return Load(samples, {part: value / 1e9 for part, value in gflop.items()})


def prompt_tokens(folder: Path) -> float:
    """Return the mean length of the prompts."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.models.prompts import encode_prompt

    tokenizer = load_tokenizer(folder)
    return statistics.mean(
        len(encode_prompt(tokenizer, problem.prompt, "chat")) for problem in problems(1.0)
    )


def print_parts(steps: list[dict[str, Any]], load: Load, rate: float) -> None:
    """Print where the seconds of a step go, against the limit at `rate` GFLOP a cpu second."""
    print("| part | wall s | cpu s | GFLOP needed | cpu s at the limit | share of the limit |")
    print("|---|---|---|---|---|---|")
    spent = {
        part: [
            statistics.median(step["parts"].get(part, [0.0, 0.0])[clock] for step in steps)
            for clock in (0, 1)
        ]
        for part in PARTS
    }
    for part in PARTS:
        print_part(part, spent[part], load.gflop.get(part, 0.0), rate)
    whole = [statistics.median(step[clock] for step in steps) for clock in ("wall", "cpu")]
    print_part("rest", [rest_of(steps, "wall", 0), rest_of(steps, "cpu", 1)], 0.0, rate)
    print_part("whole step", whole, sum(load.gflop.values()), rate)


def rest_of(steps: list[dict[str, Any]], clock: str, place: int) -> float:
    """Return the seconds of a step that are in no part."""
    return statistics.median(
        float(step[clock] - sum(part[place] for part in step["parts"].values())) for step in steps
    )


def print_part(name: str, spent: list[float], gflop: float, rate: float) -> None:
    """Print one line."""
    if not any(spent):
        return
    share = f"{gflop / rate / spent[1]:.0%}" if gflop else ""
    limit = f"{gflop / rate:.3f}" if gflop else ""
    needed = f"{gflop:.0f}" if gflop else ""
    print(f"| {name} | {spent[0]:.3f} | {spent[1]:.3f} | {needed} | {limit} | {share} |")
