"""Pairs, a policy and a reference that do not depend on any library's random initialisation."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import torch
from fixed_batch import VOCAB, Gradients, policy
from tiny import tokenizer
from torch import Tensor

from r1pipe.method_params.preferences import PairAggregation
from r1pipe.records import TokenSequence
from r1pipe.rl.dpo import Pair, dpo_loss
from r1pipe.supervision.training import adjacent

BETA = 0.3
NUM_PAIRS = 6
LOSSES: dict[str, PairAggregation] = {
    "sigmoid": "sequence-sum",
    "sigmoid_norm": "sequence-mean",
}
"""TRL's `loss_type` -> ours."""
GOLDEN = Path(__file__).with_name("trl_dpo_golden.json")
"""What TRL 1.16 gave for each loss: the loss, the gradient's norm, and a few of its elements."""


def pairs() -> list[Pair]:
    """Return ragged pairs; both completions of a pair follow the same prompt."""
    rng, made = random.Random(8), list[Pair]()
    for _ in range(NUM_PAIRS):
        prompt = [rng.randrange(5, VOCAB) for _ in range(rng.randint(2, 9))]
        chosen, rejected = (
            TokenSequence(prompt, [rng.randrange(5, VOCAB) for _ in range(rng.randint(1, 12))])
            for _ in range(2)
        )
        made.append((chosen, rejected))
    return made


def reference_sums() -> Tensor:
    """Return log-probabilities of a reference that is not the policy.  [pairs, 2]"""
    rng = random.Random(9)
    rows = [[sum(rng.uniform(-6.5, -4.5) for _ in o.completion_ids) for o in p] for p in pairs()]
    return torch.tensor(rows, dtype=torch.float64)


def our_loss(name: str, max_tokens: int = 64) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of one update."""
    engine = Gradients(policy())
    loss = partial(
        dpo_loss,
        reference=reference_sums(),
        beta=BETA,
        aggregation=LOSSES[name],
        num_pairs=NUM_PAIRS,
    )
    pad = tokenizer().pad_token_id
    batches = adjacent(pairs(), range(NUM_PAIRS), NUM_PAIRS, max_tokens, pad)
    measures = engine.accumulate(batches, loss)
    engine.step(0.0)
    return measures["loss"], engine.found
