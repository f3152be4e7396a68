"""The trainer's log-probabilities against a whole softmax, one token at a time."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import model, tokenizer

from r1pipe.records import TokenSequence
from r1pipe.train import logprobs
from r1pipe.train.batching import Batching, MicroBatch, micro_batches, one_batch
from r1pipe.train.logprobs import gather_logprobs, token_logprobs

PAD = tokenizer().pad_token_id


def ragged(count: int, seed: int = 0) -> list[TokenSequence]:
    rng = random.Random(seed)
    vocab = len(tokenizer())
    return [
        TokenSequence(
            [rng.randrange(vocab) for _ in range(rng.randrange(1, 9))],
            [rng.randrange(vocab) for _ in range(rng.randrange(1, 12))],
            index,
        )
        for index in range(count)
    ]


@torch.no_grad()
def naive(policy: Any, sequence: TokenSequence, temperature: float, shift: int = 1) -> list[float]:
    """Score one sequence alone; the token at t is read `shift` positions before."""
    ids = [*sequence.prompt_ids, *sequence.completion_ids]
    logits = policy(input_ids=torch.tensor([ids])).logits[0].double()
    scores = []
    for place in range(len(sequence.prompt_ids), len(ids)):
        row = [value / temperature for value in logits[place - shift].tolist()]
        top = max(row)
        scores.append(row[ids[place]] - top - math.log(sum(math.exp(v - top) for v in row)))
    return scores


@torch.no_grad()
def by_sequence(
    policy: Any, batches: list[MicroBatch], temperature: float = 1.0
) -> dict[tuple[int, int], float]:
    """Return the trainer's log-probability by (sequence, place in the completion)."""
    found: dict[tuple[int, int], float] = {}
    for batch in batches:
        values = token_logprobs(policy, batch, temperature).tolist()
        mask = batch.loss_mask
        indices, seen = batch.sequence_index[mask].tolist(), Counter[int]()
        keys = []
        for index in indices:
            keys.append((index, seen[index]))
            seen[index] += 1
        found.update(zip(keys, values, strict=True))
    return found


@pytest.fixture(scope="module")
def policy() -> Any:
    return model()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_they_equal_a_naive_softmax_over_the_whole_vocabulary(
    policy: Any, temperature: float
) -> None:
    sequences = ragged(6)
    found = by_sequence(policy, [one_batch(sequences, PAD)], temperature)
    for sequence in sequences:
        for place, value in enumerate(naive(policy, sequence, temperature)):
            assert found[sequence.index, place] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_of_several_turns_the_trained_tokens_alone_are_scored(policy: Any, layout: Any) -> None:
    rng = random.Random(4)
    sequences = [
        replace(s, trained=[rng.random() < 0.5 for _ in s.completion_ids]) for s in ragged(9)
    ]
    found = by_sequence(policy, list(micro_batches(sequences, Batching(40, layout, PAD))))
    expected: dict[tuple[int, int], float] = {}
    for sequence in sequences:
        values = zip(naive(policy, sequence, 1.0), sequence.trained or [], strict=True)
        trained = [value for value, is_trained in values if is_trained]
        expected |= {(sequence.index, i): value for i, value in enumerate(trained)}
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_off_by_one_between_logits_and_labels_would_be_seen(policy: Any) -> None:
    sequence = TokenSequence([9, 30, 41], [52, 63, 74, 85], 0)
    right = naive(policy, sequence, 1.0)
    late = naive(policy, sequence, 1.0, shift=0)
    early = naive(policy, sequence, 1.0, shift=2)
    found = [by_sequence(policy, [one_batch([sequence], PAD)])[0, i] for i in range(4)]
    assert found == pytest.approx(right, abs=1e-4)
    assert all(abs(f - w) > 0.01 for f, w in zip(found, late, strict=True))
    assert all(abs(f - w) > 0.01 for f, w in zip(found, early, strict=True))


def test_the_temperature_divides_the_logits(policy: Any) -> None:
    # logits (0, ln 3) at temperature 1/2 are (0, ln 9): probabilities 1/10 and 9/10
    logits, targets = torch.tensor([[0.0, math.log(3)]] * 2), torch.tensor([0, 1])
    found = gather_logprobs(logits / 0.5, targets).exp().tolist()
    assert found == pytest.approx([0.1, 0.9])
    sequences = ragged(3)
    warm = by_sequence(policy, [one_batch(sequences, PAD)], 0.7)
    cold = by_sequence(policy, [one_batch(sequences, PAD)], 1.0)
    assert max(abs(warm[key] - cold[key]) for key in warm) > 0.1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("block", [3, 10, 1 << 18])
def test_large_logits_give_what_small_ones_give_and_their_gradient(
    monkeypatch: pytest.MonkeyPatch, temperature: float, block: int
) -> None:
    draw = torch.Generator().manual_seed(3)
    values = torch.randn(7, 5, generator=draw, dtype=torch.float64) * 4
    targets, weights = torch.tensor([0, 1, 2, 3, 4, 0, 2]), torch.linspace(-1.0, 2.0, 7).double()
    small = values.clone().requires_grad_()
    expected = torch.log_softmax(small / temperature, dim=1).gather(1, targets[:, None])[:, 0]
    (expected * weights).sum().backward()
    monkeypatch.setattr(logprobs, "LARGE_LOGITS", 35)
    monkeypatch.setattr(logprobs, "BLOCK", block)
    leaf = values.clone().requires_grad_()
    found = gather_logprobs(leaf * 1.0, targets, temperature)
    (found * weights).sum().backward()
    assert small.grad is not None
    assert leaf.grad is not None
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(leaf.grad, small.grad, rtol=1e-10, atol=1e-15)
    with torch.no_grad():
        assert torch.allclose(gather_logprobs(values, targets, temperature), expected, rtol=1e-12)


def test_large_logits_that_another_gradient_needs_are_an_error_and_not_a_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logprobs, "LARGE_LOGITS", 0)
    leaf = torch.zeros(2, 3, requires_grad=True)
    logits = leaf.tanh()  # whose gradient reads its output
    value = gather_logprobs(logits, torch.tensor([0, 1])).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("max_tokens", [20, 40, 10_000])
def test_packed_rows_score_as_padded_ones_do(policy: Any, max_tokens: int) -> None:
    sequences = ragged(12)
    padded = by_sequence(policy, [one_batch(sequences, PAD)])
    packed = by_sequence(
        policy, list(micro_batches(sequences, Batching(max_tokens, "packed", PAD)))
    )
    assert packed.keys() == padded.keys()
    for key, value in padded.items():
        assert packed[key] == pytest.approx(value, abs=1e-4)


def test_a_neighbour_in_a_packed_row_changes_nothing(policy: Any) -> None:
    mine = TokenSequence([9, 30, 41], [52, 63], 0)
    found = []
    for filler in (3, 77):
        other = TokenSequence([filler] * 5, [filler] * 4, 1)
        (batch,) = micro_batches([mine, other], Batching(100, "packed", PAD))
        scores = by_sequence(policy, [batch])
        found.append([scores[0, 0], scores[0, 1]])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert found[0] == pytest.approx(naive(policy, mine, 1.0), abs=1e-4)


def gradients(policy: Any, batch: MicroBatch) -> dict[str, torch.Tensor]:
    values = token_logprobs(policy, batch, 0.7)
    weights = torch.linspace(-1, 1, len(values))
    return dict(
        zip(
            dict(policy.named_parameters()),
            torch.autograd.grad((values * weights).sum(), list(policy.parameters())),
            strict=True,
        )
    )


def test_a_large_vocabulary_is_scored_in_parts_with_the_same_values_and_gradients(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, shapes = one_batch(ragged(6), PAD), []
    hook = policy.lm_head.register_forward_hook(lambda m, i, out: shapes.append(out.shape))
    whole, expected = token_logprobs(policy, batch, 0.7), gradients(policy, batch)
    vocab = len(tokenizer())
    assert len(whole) > 15
    monkeypatch.setattr(logprobs, "MAX_LOGITS", 7 * vocab + 1)
    shapes.clear()
    parts, found = token_logprobs(policy, batch, 0.7), gradients(policy, batch)
    hook.remove()
    assert max(shape.numel() for shape in shapes) == 7 * vocab
    forward = -(-len(whole) // 7)
    assert len(shapes) == 3 * forward, "twice forward, and once again in the backward pass"
    torch.testing.assert_close(parts, whole)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
