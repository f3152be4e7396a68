"""SFT with the mean over all tokens, or first over each sequence's (DeepSeekMath, Eq. 6 to 9)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_supervised import VOCAB, Bigram, RecordingEngine, plan
from tiny import FakeContext, corpus_rows, save_policy, stage

from r1pipe.records import TokenSequence
from r1pipe.rows import write_rows
from r1pipe.stage import Inputs
from r1pipe.train.batching import Batching
from r1pipe.train.supervised import train_supervised


@pytest.mark.parametrize("micro_batch_tokens", [1, 1000])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_sequence_means_have_the_gradient_of_deepseekmath_s_equation_7(
    tmp_path: Path, micro_batch_tokens: int, layout: Any
) -> None:
    # the mean over sequences of 1/|o| sum over tokens of grad log p, for lengths 3, 1 and 2 of 4
    sequences = [
        TokenSequence([2, 3], [4, 4, 1]),
        TokenSequence([5], [3]),
        TokenSequence([2], [4, 5, 3, 1], trained=[True, False, False, True]),
    ]
    policy = Bigram()
    probabilities = torch.softmax(policy.lm_head.weight.detach().T, dim=1)  # [from, to]
    terms = [([(3, 4), (4, 4), (4, 1)], 3), ([(5, 3)], 1), ([(2, 4), (3, 1)], 2)]
    expected, loss = torch.zeros(VOCAB, VOCAB, dtype=torch.float64), 0.0
    for pairs, length in terms:
        for before, after in pairs:
            weight = 1 / (length * len(terms))
            expected[before] += probabilities[before] * weight
            expected[before, after] -= weight
            loss -= math.log(probabilities[before, after]) * weight
    context, engine = FakeContext(tmp_path), RecordingEngine(policy)
    batching = Batching(micro_batch_tokens, layout, pad_id=1)
    plan_of_one = plan(num_epochs=1)
    train_supervised(context, engine, sequences, plan_of_one, batching, "sequence-mean")
    gradient = engine.seen[0][0]["lm_head.weight"]  # [to, from]
    torch.testing.assert_close(gradient, expected.T, rtol=1e-6, atol=1e-6)
    assert context.logged[0]["loss"] == pytest.approx(loss, rel=1e-6)
    usual = RecordingEngine(Bigram())
    train_supervised(FakeContext(tmp_path / "usual"), usual, sequences, plan_of_one, batching)
    apart = (usual.seen[0][0]["lm_head.weight"] - gradient).abs().max()
    assert apart > 0.01, "the mean over all tokens is another gradient"


def test_the_sft_stage_takes_either_mean(tmp_path: Path) -> None:
    kind, losses = stage("sft"), []
    write_rows(tmp_path / "rows", corpus_rows(8, "chat"))
    inputs = Inputs({"model": save_policy(tmp_path / "base"), "rows": tmp_path / "rows"})
    for aggregation in ("token-mean", "sequence-mean"):
        context = FakeContext(tmp_path / aggregation)
        params = kind.params(
            seed=1, num_epochs=1, batch_size=8, max_tokens=99, optimizer={"lr": 1e-3},
            aggregation=aggregation,
        )  # fmt: skip
        kind.run(context, params, kind.run_model(), inputs)
        losses.append(context.logged[0]["loss"])
    assert abs(losses[0] - losses[1]) > 1e-3
