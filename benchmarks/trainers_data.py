"""The model and the data of `benchmarks/trainers.py`: the same for all sides."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

MODEL = os.environ.get("TRAINERS_MODEL")
"""Folder of a model of one's own, whose steps are smaller in number and longer in tokens."""
if MODEL is None:
    GROUP_SIZE, NUM_PROMPTS, NUM_SAMPLED, MAX_TOKENS = 8, 32, 32, 64
    BATCH_SIZE, ROW_TOKENS, PROMPT_TOKENS = 64, (20, 90), 9
    MAX_STEPS = 24
else:
    GROUP_SIZE, NUM_PROMPTS, NUM_SAMPLED, MAX_TOKENS = 8, 2, 4, 64
    BATCH_SIZE, ROW_TOKENS, PROMPT_TOKENS = 8, (60, 240), 40
    MAX_STEPS = 12
"""Prompts of a step: NUM_PROMPTS in GRPO, NUM_SAMPLED where nothing is trained."""
SIZES: dict[str, Any] = json.loads(os.environ.get("TRAINERS_SIZES", "{}"))
"""Other sizes than those above and other shapes than SHAPE, for `benchmarks/gpu.py`."""
GROUP_SIZE, NUM_PROMPTS = SIZES.get("group_size", GROUP_SIZE), SIZES.get("prompts", NUM_PROMPTS)
BATCH_SIZE, MAX_TOKENS = SIZES.get("rows", BATCH_SIZE), SIZES.get("max_tokens", MAX_TOKENS)
ROW_TOKENS = tuple(SIZES.get("row_tokens", ROW_TOKENS))
SEED, LEARNING_RATE, KL_COEF = 17, 1e-4, 0.001
GRPO_RATE = LEARNING_RATE if MODEL is None and not SIZES else 1e-7
"""So small that a few steps of a model of one's own do not change how long its completions are."""
SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "num_layers": 5,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 608,
    "max_positions": 256,
    "init_std": 0.02,
    "seed": 1,
}
"""A Qwen3 of 2.4M parameters."""
SHAPE |= SIZES.get("shape", {})
CHARS_FRAC = 0.9
"""Where the middle length of a fresh model's completions is on the length reward's slope."""


def write_model(folder: Path) -> int:
    """Write a Qwen3 with a tokenizer, or copy the model given; return its parameters' number."""
    from itertools import islice

    if MODEL is not None:
        return copy_model(Path(MODEL), folder)

    from r1pipe.models.policy import new_model, save_model
    from r1pipe.models.tokenizer import train_tokenizer
    from r1pipe.tasks import corpus
    from r1pipe.tasks.table import TASKS
    from r1pipe.tasks.world import Noise

    rng = random.Random(3)
    drawn = islice(corpus.training_problems({"arithmetic": 1.0, "parity": 1.0}, rng), 96)
    rows = [
        corpus.solution_row(p, TASKS[p.task].solve(p, rng, Noise()), "r1-zero", rng, 1.0, 0.0)
        for p in drawn
    ]
    tokenizer = train_tokenizer(
        [str(r[name]) for r in rows for name in ("prompt", "completion")], 512
    )
    if "vocabulary" in SIZES:
        tokenizer = widened(tokenizer, SIZES["vocabulary"], folder)
    model = stored(new_model(tokenizer, **SHAPE))
    save_model(model, tokenizer, folder)
    return sum(p.numel() for p in model.parameters())


def stored(model: Any) -> Any:
    """Return the model in the precision in which all sides find it."""
    import torch

    return model.to(torch.bfloat16) if SIZES.get("is_bf16") else model


def widened(tokenizer: Any, size: int, folder: Path) -> Any:
    """Return the tokenizer with words of 5 to 9 letters that no text needs, `size` tokens in all.

    The head of a model costs what its vocabulary is, and lengths in characters differ.
    """
    from r1pipe.models.policy import load_tokenizer

    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = found["model"]["vocab"]
    vocabulary |= {each["content"]: each["id"] for each in found["added_tokens"]}
    for number in range(len(tokenizer), size):
        letters = "".join(chr(97 + number // 26**place % 26) for place in range(4))
        vocabulary[letters + "X" * (1 + number % 5)] = number
    file.write_text(json.dumps(found), encoding="utf-8")
    return load_tokenizer(folder)


def copy_model(source: Path, folder: Path) -> int:
    """Copy a model and its tokenizer; return the number of its parameters."""
    from r1pipe.models.policy import load_model, load_tokenizer, save_model

    model = stored(load_model(source))
    save_model(model, load_tokenizer(source), folder)
    return sum(p.numel() for p in model.parameters())


def problems(mean_chars: float) -> list[Any]:
    """Return problems; of a fresh model no completion of every second one is rewarded, so its group
    is flat."""
    from r1pipe.records import Problem

    rng, limit = random.Random(SEED), round(mean_chars / CHARS_FRAC)
    limits = (1 if MODEL is None and not SIZES else limit, limit)

    def asked(number: int) -> Any:
        a, b, c, d = (rng.randint(1, 9) for _ in range(4))
        meta = {"max_chars": limits[number % 2]}
        return Problem(
            str(number), "arithmetic", f"{a}+{b}*{c}-{d}=", str(a + b * c - d), meta=meta
        )

    return [asked(number) for number in range(max(NUM_PROMPTS, NUM_SAMPLED) * MAX_STEPS)]


def sequences(vocabulary: int) -> list[Any]:
    """Return the supervised rows of all steps."""
    from r1pipe.records import TokenSequence

    rng = random.Random(SEED)

    def ids(length: int) -> list[int]:
        return [rng.randrange(5, vocabulary) for _ in range(length)]

    lengths = [rng.randint(*ROW_TOKENS) for _ in range(BATCH_SIZE * MAX_STEPS)]
    return [TokenSequence(ids(PROMPT_TOKENS), ids(n - PROMPT_TOKENS)) for n in lengths]


def supervised_params() -> Any:
    """Return the parameters of the supervised steps, which decide the order of the rows."""
    from r1pipe.settings import EpochParams, Optimizer

    optimizer = Optimizer(lr=LEARNING_RATE)
    return EpochParams(num_epochs=1, batch_size=BATCH_SIZE, optimizer=optimizer, seed=SEED)
